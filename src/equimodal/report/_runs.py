"""The part of the page about one run: its curves, confusion, classes, calibration, errors and worst samples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from equimodal.errors import DataError
from equimodal.report._curves import run_panels
from equimodal.report._leaderboard import number_text
from equimodal.report._palette import Stroke, dashes
from equimodal.report._study import Run, Study, number
from equimodal.report._svg import Axis, Line, line_chart, swatch
from equimodal.report._svg import number_text as four_digits
from equimodal.report._tables import metric_text

RUNS = 60
"""Runs with a section of their own; the page says so where there are more."""


def anchors_of(study: Study) -> dict[tuple[str, int], str]:
    """Label and seed -> id of the section, for the runs that have one."""
    order = {row.label: i for i, row in enumerate(study.rows)}
    runs = sorted((r for r in study.runs if r.method in order), key=lambda r: (r.seed, order[r.method]))[:RUNS]
    kept = sorted(runs, key=lambda r: (order[r.method], r.seed))
    return {(run.method, run.seed): f"run-{i}" for i, run in enumerate(kept, 1)}


def run_pages(study: Study, lines: Sequence[Stroke], anchors: Mapping[tuple[str, int], str]) -> list[dict[str, Any]]:
    """What the sections of the runs show, in the order of ``anchors``.

    Raises:
        DataError: a run's details are malformed.
    """
    strokes = {line.label: line for line in lines}
    runs = {(run.method, run.seed): run for run in study.runs}
    histories = {(str(h["method"]), h.get("seed")): h["epochs"] for h in study.curves}
    pages = []
    for key, anchor in anchors.items():
        run, line = runs[key], strokes[key[0]]
        try:
            pages.append(_page(study, run, line, histories.get(key, ()), anchor))
        except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
            raise DataError(
                f"study: field `runs`: expected the details of {run.method!r}, seed {run.seed}, as compare wrote them. "
                f"Found {type(error).__name__}: {error}. Run equimodal compare again in the same folder, without an "
                "evaluation.json of another version in those of the runs."
            ) from error
    return pages


def _page(study: Study, run: Run, line: Stroke, epochs: Sequence[Mapping[str, Any]], anchor: str) -> dict[str, Any]:
    record, details = run.record, dict(run.record.get("details") or {})
    kind = details.get("kind")
    charts = [
        {"caption": panel.caption, "svg": panel.svg, "legend": [{"swatch": _dash(s), "label": s.label} for s in legend]}
        for panel, legend in run_panels(study, line, epochs)
    ]
    page: dict[str, Any] = {
        "anchor": anchor, "label": run.method, "seed": run.seed, "score": number_text(study, run.score),
        "control": line.control, "swatch": swatch(line), "folder": run.folder, "facts": _facts(study, record),
        "charts": charts, "rules": _rules(study, record), "confusion": None, "pairs": [], "classes": None,
        "worst": None, "errors": [],
        "parts": [(str(n), number_text(study, float(v))) for n, v in (record.get("parts") or {}).items()],
        "subsets": _subsets(study, record), "recorded": bool(details),
    }  # fmt: skip
    page["charts"] += _missing(study, record, line)
    if kind == "categorical":
        page["charts"] += _calibration(details, line)
        page["confusion"] = _confusion(study, details)
        page["pairs"] = (
            [(study.class_name(t), study.class_name(p), n) for t, p, n in details.get("confused", ())]
            if page["confusion"] is None
            else []
        )
        page["worst"] = {
            "head": ["sample", "true", "predicted", "confidence, %"],
            "rows": [[i, study.class_name(t), study.class_name(p), f"{100 * c:.1f}"]
                     for i, t, p, c in details["worst"]],
        }  # fmt: skip
    elif kind in ("gaussian", "point"):
        page["charts"] += _scatter(details, line)
        page["errors"] = [{k: "-" if v is None else f"{v:.4g}" for k, v in e.items()} for e in details["errors"]]
        page["worst"] = {
            "head": ["sample", "true", "predicted"],
            "rows": [[i, _numbers(t), _numbers(p)] for i, t, p in details["worst"]],
        }  # fmt: skip
    if details.get("classes"):
        page["classes"] = _classes(study, details["classes"], "label" if kind == "bernoulli" else "class")
    return page


def _facts(study: Study, record: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Lines above the charts."""
    selection = record.get("selection") or {}
    found = [("rule in force", record.get("rule")), ("selected", selection.get("by"))]
    if isinstance(selection.get("epoch"), int):
        found.append(("epoch", selection["epoch"] + 1))
    found += [("parameters", f"{record['parameters']:,}") if record.get("parameters") else ("", None)]
    seconds = number(record.get("seconds"))
    found.append(("trained for", None if seconds is None else f"{seconds:.0f} s"))
    found += [
        (name.replace("_", " "), four_digits(v)) for name, value in (record.get("metrics") or {}).items()
        if name not in ("score", "samples") and (v := number(value)) is not None
    ]  # fmt: skip
    found += [(f"{m} alone", number_text(study, v)) for m, value in (record.get("unimodal") or {}).items()
              if (v := number(value)) is not None]  # fmt: skip
    found += [(f"{m} probe", number_text(study, v)) for m, value in (record.get("probe") or {}).items()
              if (v := number(value)) is not None]  # fmt: skip
    return [(name, str(value)) for name, value in found if value is not None]


def _rules(study: Study, record: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    rules = record.get("rules") or {}
    return [
        (str(name), number_text(study, v), number_text(study, t)) for name, by in rules.items()
        if (v := number(by.get("validation"))) is not None and (t := number(by.get("test"))) is not None
    ]  # fmt: skip


def _confusion(study: Study, details: Mapping[str, Any]) -> dict[str, Any] | None:
    matrix = details.get("confusion")
    if not matrix:
        return None
    rows = []
    for true, counts in enumerate(matrix):
        total = sum(counts) or 1
        cells = [{"count": n, "share": f"{n / total:.2f}", "right": true == said} for said, n in enumerate(counts)]
        rows.append({"name": study.class_name(true), "cells": cells, "total": sum(counts)})
    return {"names": [study.class_name(i) for i in range(len(matrix))], "rows": rows}


def _classes(study: Study, found: Mapping[str, Any], what: str) -> dict[str, Any]:
    rows = []
    for i, at in enumerate(found["number"]):
        values = {name: float(found[name][i]) for name in ("precision", "recall", "f1")}
        rows.append({
            "name": study.class_name(int(at)), "support": int(found["support"][i]),
            "cells": [{"text": f"{100 * v:.1f}", "sort": f"{v:.6g}", "length": f"{v:.3f}"} for v in values.values()],
        })  # fmt: skip
    return {"what": what, "rows": rows, "all": int(found["all"])}


def _calibration(details: Mapping[str, Any], line: Stroke) -> list[dict[str, Any]]:
    found = details.get("calibration") or {}
    names = [n for n in found if found[n]["bins"]]
    drawn = [
        Line(
            Stroke(s.label, line.colour, s.dash, s.width), [100 * b[0] for b in found[n]["bins"]],
            [100 * b[1] for b in found[n]["bins"]], dots=True,
        )
        for n, s in zip(names, dashes([n.removeprefix("unimodal/") for n in names]), strict=True)
    ]  # fmt: skip
    if not drawn:
        return []
    svg = line_chart(
        "Calibration: accuracy over confidence, in percent", drawn, Axis("confidence, %", 0.0, 100.0),
        Axis("accuracy, %", 0.0, 102.0), diagonal=True,
    )  # fmt: skip
    legend = [
        {"swatch": _dash(d.stroke), "label": f"{d.stroke.label} (error {100 * found[n]['error']:.1f} %)"}
        for n, d in zip(names, drawn, strict=True)
    ]
    return [{"caption": "Calibration", "svg": svg, "legend": legend}]


def _scatter(details: Mapping[str, Any], line: Stroke) -> list[dict[str, Any]]:
    charts = []
    for d, points in enumerate(details["points"]):
        part = f" {d + 1}" if len(details["points"]) > 1 else ""
        pairs = [(float(t), float(p)) for t, p in points]
        if not pairs:
            continue
        some = f"; {len(pairs)} of {details['samples']} samples" if len(pairs) < details["samples"] else ""
        ends = min(min(p) for p in pairs), max(max(p) for p in pairs)
        space = 0.04 * (ends[1] - ends[0]) or 0.5
        low, high = ends[0] - space, ends[1] + space
        across, up = Axis("true", low, high), Axis("predicted", low, high)
        title = f"Predicted against true numbers{part}"
        svg = line_chart(title, [], across, up, diagonal=True, points=pairs, colour=line.colour)
        charts.append({"caption": f"Predicted against true{part}{some}", "svg": svg, "legend": []})
        residuals = [(t, p - t) for t, p in pairs]
        up = Axis("predicted - true")
        svg = line_chart(f"Residuals{part}", [], across, up, points=residuals, level=0.0, colour=line.colour)
        charts.append({"caption": f"Residuals{part}{some}", "svg": svg, "legend": []})
    return charts


def _missing(study: Study, record: Mapping[str, Any], line: Stroke) -> list[dict[str, Any]]:
    """Curves over missing rates and noise, where ``equimodal evaluate`` left them beside the run."""
    charts = []
    evaluation = record.get("evaluation") or {}
    for name, caption, axis in (("missing", "Modalities missing", "missing rate"), ("noise", "Noise", "level")):
        curves = evaluation.get(name) or ()
        drawn = [
            Line(Stroke(s.label, line.colour, s.dash, s.width), [float(v) for v in c["levels"]],
                 [float(v) * study.factor for v in c["score"]["mean"]],
                 [float(v) * study.gap_factor for v in c["score"]["std"]])
            for c, s in zip(curves, dashes([str(c["name"]) for c in curves]), strict=True)
        ]  # fmt: skip
        if drawn:
            svg = line_chart(f"Score, {caption.lower()}", drawn, Axis(axis), Axis(metric_text(study)))
            legend = [{"swatch": _dash(d.stroke), "label": d.stroke.label} for d in drawn]
            charts.append({"caption": caption + _of_part(evaluation), "svg": svg, "legend": legend})
    return charts


def _subsets(study: Study, record: Mapping[str, Any]) -> dict[str, Any] | None:
    evaluation = record.get("evaluation") or {}
    rows = [
        (" + ".join(map(str, s["subset"])), "-" if s["score"] is None else number_text(study, float(s["score"])),
         int(s["samples"]))
        for s in evaluation.get("subsets") or ()
    ]  # fmt: skip
    return {"rows": rows, "part": _of_part(evaluation)} if rows else None


def _of_part(evaluation: Mapping[str, Any]) -> str:
    """Which samples were scored, if not those of the test split."""
    part = str(evaluation.get("split") or "test")
    return "" if part == "test" else f", {part} samples"


def _numbers(values: Sequence[float]) -> str:
    return ", ".join(f"{v:.4g}" for v in values)


def _dash(stroke: Stroke) -> str:
    """The sample of a line without a mark."""
    dash = f' stroke-dasharray="{stroke.dash}"' if stroke.dash else ""
    return (
        f'<svg class="swatch" viewBox="0 0 34 14" aria-hidden="true"><path d="M1 7H33" fill="none" '
        f'stroke="{stroke.colour}" stroke-width="2.2"{dash}/></svg>'
    )
