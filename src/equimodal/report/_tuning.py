"""The record of a tuning as a table for a terminal, and as one HTML file that needs nothing else."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from equimodal._utils.files import write_bytes
from equimodal._utils.printing import printable
from equimodal.errors import DataError
from equimodal.report._curves import Section, sections
from equimodal.report._page import facts_of, page_of
from equimodal.report._study import read_study

_SHOWN = 12  # trials whose curves are drawn, and lines of the table for a terminal
_OWN = ("title", "trials", "importance", "histories", "verdict", "test", "ensemble", "commands")


def tuning_table(record: Mapping[str, Any]) -> str:
    """The best trials for a terminal, best first, and the verdict; no control characters.

    Args:
        record: that ``equimodal tune`` stores as ``tune.json``.

    Raises:
        DataError: a field of the record is missing or malformed.
    """
    factor, unit = _unit(record)
    rows = [r for r in _ranked(record) if r["score"] is not None][:_SHOWN]
    head = ["trial", f"score{unit}", "epochs", "state", "fusion", "rate", "prediction"]
    body = []
    for r in rows:
        name = printable(_label(r)) + (" (c)" if r["control"] else "")
        score, rate = _number(r["score"], factor), f"{r['lr']:.2g}"
        body.append([name, score, str(r["epochs"]), r["state"], str(r["fusion"]), rate, _way(r["candidate"])])
    widths = [max(len(line[i]) for line in [head, *body]) for i in range(len(head))]
    lines = ["  ".join(cell.ljust(w) for cell, w in zip(line, widths, strict=True)).rstrip() for line in [head, *body]]
    notes = ["", "(c) control. Score: validation data.", printable(record["verdict"]["words"])]
    if record.get("ensemble"):
        notes.append(_ensemble(record["ensemble"], factor, unit))
    return "\n".join([*lines, *notes])


def render_tuning(record: Mapping[str, Any], path: str | Path) -> Path:
    """Write the page of a tuning: verdict, what was tried, importance of each choice, learning curves, commands.

    One file, as :func:`~equimodal.report.render_report` writes it.

    Args:
        record: that ``equimodal tune`` stores as ``tune.json``.
        path: the file; an older one is replaced only when the new one is complete.

    Raises:
        DataError: a field of the record is missing or malformed.
        StorageError: the file could not be written.
        MissingExtraError: jinja2 or matplotlib is not installed.
    """
    factor, unit = _unit(record)
    verdict, budget = record["verdict"], record["budget"]
    ranked = _ranked(record)
    page = page_of(
        "tuning.html.j2",
        title=str(record["title"]),
        verdict=str(verdict["words"]),
        spent=f"{budget['spent']:.4g} of {budget['joint_epochs']:.4g} joint epochs were spent; a trial has "
        f"{budget['epochs_of_a_trial']} epochs, a whole training {budget['epochs_of_a_training']}.",
        test=record.get("test") is not None,
        commands=[str(c) for c in record.get("commands") or ()],
        unit=unit,
        ends=_ends(record, factor),
        differences=_differences(record, factor),
        ensemble=_ensemble(record["ensemble"], factor, unit) if record.get("ensemble") else "",
        importance=[
            (name, {"text": f"{100 * share:.0f}", "depth": f"{share:.2f}"})
            for name, share in dict(record.get("importance") or {}).items()
        ],
        trials=[_row(r, factor) for r in ranked if r["score"] is not None],
        refused=_refused(ranked),
        sections=_curves(record, ranked),
        facts=facts_of({k: v for k, v in record.items() if k not in _OWN}),
    )
    hint = "Nothing was lost; free space or choose another path, then write the page again from tune.json."
    return write_bytes(Path(path), page.encode(), hint)


def _ranked(record: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Trials, those that were trained to their end first, the best first."""
    rows = record.get("trials")
    needed = ("number", "method", "state", "score", "epochs", "control", "candidate", "fusion", "lr", "options", "why")
    if not isinstance(rows, Sequence) or isinstance(rows, str) or not isinstance(record.get("verdict"), Mapping):
        raise DataError("tuning: expected the fields `trials` and `verdict`, as in tune.json. Found another record.")
    for i, row in enumerate(rows):
        missing = [name for name in needed if not isinstance(row, Mapping) or name not in row]
        if missing:
            raise DataError(f"tuning: field `trials[{i}]`: expected {', '.join(needed)}. Found none of {missing}.")
    return sorted(rows, key=lambda r: (r["state"] != "finished", -(r["score"] if r["score"] is not None else -1e300)))


def _row(row: Mapping[str, Any], factor: float) -> dict[str, Any]:
    return {
        "label": _label(row), "control": row["control"], "whole": row["state"] == "finished", "state": row["state"],
        "score": _number(row["score"], factor), "epochs": row["epochs"], "cost": f"{row['cost']:.2f}",
        "fusion": row["fusion"], "lr": f"{row['lr']:.2g}", "candidate": _way(row["candidate"]),
        "options": _options(row["options"]),
    }  # fmt: skip


def _refused(ranked: Sequence[Mapping[str, Any]]) -> list[tuple[str, str]]:
    """Method and reason of the trials without a score, equal ones once."""
    counts = Counter((str(r["method"]), str(r["why"])) for r in ranked if r["score"] is None and r["why"])
    return [(f"{name} x {times}" if times > 1 else name, why) for (name, why), times in counts.items()]


def _ends(record: Mapping[str, Any], factor: float) -> list[dict[str, Any]]:
    """Winner, best control and default, each trial once."""
    verdict, test = record["verdict"], record.get("test")
    rows = []
    for name in ("winner", "control", "default"):
        own = verdict.get(name)
        if own is None or (name != "control" and own["trial"] == verdict["control"]["trial"]):
            continue
        rows.append({
            "name": "best control" if name == "control" else name, "control": name != "winner",
            "taken": own["trial"] == verdict["taken"], "method": f"{own['method']}, trial {own['trial']}",
            "fusion": own["fusion"], "lr": f"{own['lr']:.2g}", "selection": own["selection"],
            "rule": own["rule"] + (", temperatures" if own["calibrated"] else ""), "options": _options(own["options"]),
            "validation": _number(own["score"], factor), "test": "-" if test is None else _number(test[name], factor),
        })  # fmt: skip
    return rows


def _differences(record: Mapping[str, Any], factor: float) -> str:
    test = record.get("test") or {}
    verdict, scale = record["verdict"], abs(factor)
    found = {
        "winner minus best control, validation": verdict.get("validation"), "test": test.get("difference"),
        "best control minus default, validation": verdict.get("over_default"),
        "default minus best control, test": test.get("default_difference"),
    }  # fmt: skip
    return "; ".join(
        f"{name} {_signed(d['mean'], scale)} ({_signed(d['low'], scale)} to {_signed(d['high'], scale)})"
        for name, d in found.items()
        if d
    )


def _ensemble(found: Mapping[str, Any], factor: float, unit: str) -> str:
    gain, scale, unit = found["gain"], abs(factor), unit.replace(",", "")
    members = ", ".join(
        f"trial {name}" + (f" x {times}" if times > 1 else "") for name, times in found["members"].items()
    )
    text = (
        f"The ensemble of {found['size']} run(s), {members}: score {_number(found['cross_validated'], factor)}{unit} "
        f"on validation data where it was not chosen, {_signed(gain['mean'], scale)} ({_signed(gain['low'], scale)} to "
        f"{_signed(gain['high'], scale)}) above one run chosen the same way."
    )
    return text + (f" On test data {_number(found['test'], factor)}." if "test" in found else "")


def _curves(record: Mapping[str, Any], ranked: Sequence[Mapping[str, Any]]) -> list[Section]:
    """Learning curves of the controls and the best trials."""
    curves = {h["trial"]: h["epochs"] for h in record.get("histories") or ()}
    shown = [r for r in ranked if r["number"] in curves and r["score"] is not None]
    shown = [*(r for r in shown if r["control"]), *(r for r in shown if not r["control"])][:_SHOWN]
    study = {
        "rows": [
            {"method": _label(r), "control": r["control"], "seeds": 1, "score_mean": r["score"]} for r in shown
        ],
        "histories": [{"method": _label(r), "epochs": curves[r["number"]]} for r in shown],
        "metric": record.get("metric"),
    }  # fmt: skip
    return [s for s in sections(read_study(study)) if s.title == "Training"]


def _label(row: Mapping[str, Any]) -> str:
    return f"{row['number']} {row['method']}"


def _way(candidate: Mapping[str, Any] | None) -> str:
    if candidate is None:
        return "-"
    return f"{candidate['rule']}{', temperatures' if candidate['calibrated'] else ''}, {candidate['selection']}"


def _options(options: Mapping[str, Any]) -> str:
    def text(value: Any) -> str:
        if isinstance(value, Mapping):
            return " ".join(f"{k} {text(v)}" for k, v in value.items())
        return f"{value:.3g}" if isinstance(value, float) else str(value)

    return ", ".join(f"{name} {text(value)}" for name, value in options.items()) or "-"


def _unit(record: Mapping[str, Any]) -> tuple[float, str]:
    """What scores are multiplied with for people, and how that is called."""
    scores = [r["score"] for r in record.get("trials") or () if isinstance(r, Mapping) and r.get("score") is not None]
    if record.get("metric", {}).get("higher_is_better") is False:
        return -1.0, f", {str(record['metric'].get('name')).upper()}"
    share = bool(scores) and all(0 <= s <= 1 for s in scores)
    return (100.0, ", %") if share else (1.0, "")


def _number(value: float | None, factor: float) -> str:
    if value is None:
        return "-"
    return f"{value * factor:.1f}" if factor == 100 else f"{value * factor:.3f}"


def _signed(value: float, factor: float) -> str:
    return f"{value * factor:+.1f}" if factor == 100 else f"{value * factor:+.3f}"
