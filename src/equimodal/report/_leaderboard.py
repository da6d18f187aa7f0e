"""The leaderboard: every number of a row with what a sortable table and its small pictures need."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from equimodal.diagnostics import average_ranks
from equimodal.report._palette import Stroke
from equimodal.report._study import Row, Spread, Study, interval_of
from equimodal.report._svg import swatch, whisker
from equimodal.report._tables import column_names, score_text, spread_text


def leaderboard(study: Study, lines: Sequence[Stroke], anchors: Mapping[tuple[str, int], str]) -> list[dict[str, Any]]:
    """One mapping per row, best score first.

    Args:
        study: the comparison.
        lines: of every row, in order.
        anchors: label and seed -> id of the run's section on the page.
    """
    ranks, best = ranks_of(study), _best(study)
    rival = study.best_control.label if study.best_control is not None else None
    spans = [row.interval or (row.score[0], row.score[0]) for row in study.rows]
    span = _span([v for pair in spans for v in pair])
    gaps = [d for row in study.rows if rival is not None and (d := study.difference(row.label, rival)) is not None]
    gap_span = _span([v for d in gaps for v in (d["low"], d["high"])] + [0.0])
    made = []
    for place, (row, line) in enumerate(zip(study.rows, lines, strict=True), 1):
        rank = ranks.get(row.label)
        made.append({
            "place": place, "label": row.label, "control": row.control, "single": row.seeds == 1,
            "swatch": swatch(line), "colour": line.colour,
            "score": _score(study, row, best["score"], span, line),
            "rule": _rule(study, row, best["rule"]),
            "difference": _difference(study, row, rival, gap_span, line),
            "rank": {"text": "-" if rank is None else f"{rank:.1f}", "sort": _sort(rank), "best": rank == best["rank"]},
            "cells": [_modality(study, row, m, best) for m in column_names(study)],
            "cost": {"text": "-" if row.cost is None else f"{row.cost:.2f}", "sort": _sort(row.cost),
                     "best": row.cost is not None and row.cost == best["cost"]},
            "runs": [_run(study, run, anchors) for run in study.runs if run.method == row.label],
        })  # fmt: skip
    return made


def ranks_of(study: Study) -> dict[str, float]:
    """Label -> mean place over the seeds, of the rows that have a run of every seed."""
    by_seed: dict[int, dict[str, float]] = {}
    for run in study.runs:
        by_seed.setdefault(run.seed, {})[run.method] = run.score
    return average_ranks(list(by_seed.values()))


def rules_table(study: Study, lines: Sequence[Stroke]) -> dict[str, Any]:
    """The test score of every rule, with marks for the documented and the recommended one."""
    names = list(dict.fromkeys(rule for row in study.rows for rule in row.rules))
    rows = []
    for row, line in zip(study.rows, lines, strict=True):
        if len(row.rules) < 2:
            continue
        top = max((scores[1] for scores in row.rules.values()), default=None)
        cells = []
        for name in names:
            scores = row.rules.get(name)
            cells.append({
                "text": "-" if scores is None else number_text(study, scores[1]),
                "sort": _sort(None if scores is None else scores[1]),
                "documented": name == row.advice.get("documented"),
                "recommended": name == recommended_rule(row),
                "best": scores is not None and scores[1] == top,
            })  # fmt: skip
        rows.append({"label": row.label, "control": row.control, "swatch": swatch(line), "cells": cells})
    return {"names": names, "rows": rows}


def recommended_rule(row: Row) -> str | None:
    """The rule with the best validation score, or the documented one where that is as good; None for fewer than two."""
    if row.advice.get("recommended"):
        return str(row.advice["recommended"])
    return max(row.rules, key=lambda rule: row.rules[rule][0]) if len(row.rules) > 1 else None


def number_text(study: Study, score: float) -> str:
    """A score for people."""
    return f"{score * study.factor:.{1 if study.percent else 3}f}"


def interval_text(study: Study, low: float, high: float, signed: bool = True) -> str:
    """An interval; of differences more is better, of scores the smaller number first."""
    factor = study.gap_factor if signed else study.factor
    ends = sorted((low * factor, high * factor))
    digits, sign = 1 if study.percent else 3, "+" if signed else ""
    return f"[{ends[0]:{sign}.{digits}f}, {ends[1]:{sign}.{digits}f}]"


def _best(study: Study) -> dict[str, Any]:
    """The best value of every column."""
    costs = [row.cost for row in study.rows if row.cost is not None]
    ranks = list(ranks_of(study).values())
    found: dict[str, Any] = {
        "score": max((row.score[0] for row in study.rows), default=None),
        "rule": max((t for row in study.rows if (t := score_of_rule(row)) is not None), default=None),
        "rank": min(ranks, default=None),
        "cost": min(costs, default=None),
    }
    for m in column_names(study):
        found[f"probe {m}"] = max(row.per_modality[m][0] for row in study.rows if m in row.per_modality)
        found[f"gap {m}"] = min((r.under_trained[m][0] for r in study.rows if m in r.under_trained), default=None)
    probes = [p[0] for row in study.rows for p in row.per_modality.values()]
    found["probes"] = (min(probes), max(probes)) if probes else (0.0, 1.0)
    return found


def _score(study: Study, row: Row, best: float | None, span: tuple[float, float], line: Stroke) -> dict[str, Any]:
    cell = {
        "text": score_text(study, row).removesuffix(" (1 seed)"), "sort": _sort(row.score[0]),
        "best": row.score[0] == best, "interval": "", "whisker": "",
    }  # fmt: skip
    if row.interval is not None:
        low, high = row.interval
        cell["interval"] = interval_text(study, low, high, signed=False)
        cell["whisker"] = whisker(low, row.score[0], high, span, colour=line.colour)
    return cell


def score_of_rule(row: Row) -> float | None:
    """The test score under the recommended rule; None for fewer than two rules."""
    rule = recommended_rule(row)
    if rule is None:
        return None
    return row.rules[rule][1] if rule in row.rules else row.score[0]


def _rule(study: Study, row: Row, best: float | None) -> dict[str, Any]:
    rule, test = recommended_rule(row), score_of_rule(row)
    if rule is None or test is None:
        return {"text": "-", "name": "", "sort": "", "best": False, "gain": "", "changed": False}
    changed = rule != row.advice.get("documented", rule)
    gain = spread_text(study, (test - row.score[0], 0.0), 1, signed=True, difference=True) if changed else ""
    return {"text": number_text(study, test), "name": rule, "sort": _sort(test), "best": test == best, "gain": gain,
            "changed": changed}  # fmt: skip


def _difference(study: Study, row: Row, rival: str | None, span: tuple[float, float], line: Stroke) -> dict[str, Any]:
    if row.label == rival:
        return {"text": "reference", "sort": "0", "interval": "", "whisker": "", "mark": "", "said": ""}
    found = None if rival is None else study.difference(row.label, rival)
    if found is None:
        return {"text": "-", "sort": "", "interval": "", "whisker": "", "mark": "", "said": ""}
    mean, low, high = found["mean"], found["low"], found["high"]
    mark, said = ("▲", "better by more than chance") if low > 0 else ("▼", "worse by more than chance")
    if low <= 0 <= high:
        mark, said = "≈", "no difference beyond chance"
    return {
        "text": spread_text(study, (mean, 0.0), 1, signed=True, difference=True), "sort": _sort(mean),
        "interval": interval_text(study, low, high), "whisker": whisker(low, mean, high, span, True, line.colour),
        "mark": mark, "said": said,
    }  # fmt: skip


def _modality(study: Study, row: Row, modality: str, best: Mapping[str, Any]) -> dict[str, Any]:
    probe, gap = row.per_modality.get(modality), row.under_trained.get(modality)
    low, high = best["probes"]
    if study.percent:
        low = 0.0
    full = (high - low) or 1.0
    scale = 30.0 / study.gap_factor if study.percent else full  # a gap of 30 points fills its bar
    return {
        "modality": modality,
        "probe": spread_text(study, probe, 1), "probe_spread": _spread(study, probe, row.seeds),
        "probe_sort": _sort(probe and probe[0]),
        "probe_best": probe is not None and probe[0] == best[f"probe {modality}"],
        "length": 0.0 if probe is None else max(0.0, min(1.0, (probe[0] - low) / full)),
        "gap": spread_text(study, gap, 1, signed=True, difference=True), "gap_spread": _spread(study, gap, row.seeds),
        "gap_sort": _sort(gap and gap[0]),
        "gap_best": gap is not None and gap[0] == best[f"gap {modality}"],
        "depth": 0.0 if gap is None else max(0.0, min(1.0, gap[0] / scale)),
    }  # fmt: skip


def _spread(study: Study, value: Spread | None, seeds: int) -> str:
    """The deviation over seeds by itself."""
    digits = 1 if study.percent else 3
    return "" if value is None or seeds == 1 else f"± {value[1] * study.gap_factor:.{digits}f}"


def _run(study: Study, run: Any, anchors: Mapping[tuple[str, int], str]) -> dict[str, Any]:
    return {"seed": run.seed, "score": number_text(study, run.score), "anchor": anchors.get((run.method, run.seed))}


def _span(values: Sequence[float]) -> tuple[float, float]:
    low, high = min(values, default=0.0), max(values, default=1.0)
    space = 0.04 * (high - low) or 0.5
    return low - space, high + space


def _sort(value: float | None) -> str:
    return "" if value is None else f"{value:.8g}"


def differences_of(study: Study) -> list[dict[str, Any]]:
    """Every difference on record, for the table of all rivals."""
    rows = []
    for label, rivals in (study.facts.get("differences") or {}).items():
        if not isinstance(rivals, Mapping):
            continue
        for rival, record in rivals.items():
            found = interval_of(record)
            if found is None:
                continue
            p = record.get("p_holm", record.get("p"))
            rows.append({
                "label": str(label), "rival": str(rival),
                "text": spread_text(study, (found["mean"], 0.0), 1, signed=True, difference=True),
                "sort": _sort(found["mean"]), "interval": interval_text(study, found["low"], found["high"]),
                "p": "-" if not isinstance(p, (int, float)) else "< 0.001" if p < 0.001 else f"{p:.3f}",
                "p_sort": _sort(p if isinstance(p, (int, float)) else None),
                "beyond": found["low"] > 0 or found["high"] < 0,
            })  # fmt: skip
    return rows
