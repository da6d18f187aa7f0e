"""The tables as people read them: few columns, rounded, in points where scores are shares."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from equimodal.report.formats._tables import TABLES, Record, TableName, Tables


@dataclass(frozen=True)
class ShownRow:
    """One line.

    Args:
        cells: texts, the first being a label.
        control: whether it is a control, which is set in italics.
        best: whether its score is the best, which is set bold.
    """

    cells: tuple[str, ...]
    control: bool = False
    best: bool = False


@dataclass(frozen=True)
class Shown:
    """A table for people: the first columns are texts, the others numbers.

    Args:
        name: of the table.
        caption: one sentence.
        head: titles of the columns.
        texts: how many columns, from the left, are texts.
        rows: the lines.
        notes: what the columns mean.
    """

    name: str
    caption: str
    head: tuple[str, ...]
    texts: int
    rows: tuple[ShownRow, ...]
    notes: tuple[str, ...]


def shown_tables(tables: Tables, names: Sequence[TableName] = TABLES) -> list[Shown]:
    """Those of the tables that have rows."""
    made = {"leaderboard": _leaderboard, "rules": _rules, "modalities": _modalities}
    return [made[name](tables) for name in names if tables.table(name)]


def decimals(percent: bool) -> int:
    """Digits after the point of a score."""
    return 1 if percent else 3


def number_text(value: float | None, percent: bool, signed: bool = False) -> str:
    """A score, or with ``signed`` a difference; a dash for none."""
    if value is None:
        return "-"
    digits = decimals(percent)
    value = value * 100 if percent else value
    value = 0.0 if round(value, digits) == 0 else value  # no "-0.0"
    return f"{value:{'+' if signed else ''}.{digits}f}"


def interval_text(low: float | None, high: float | None, percent: bool, signed: bool = False) -> str:
    """Both ends in brackets; a dash for none."""
    if low is None or high is None:
        return "-"
    return f"[{number_text(low, percent, signed)}, {number_text(high, percent, signed)}]"


def _with_spread(mean: float | None, std: float | None, percent: bool, signed: bool = False) -> str:
    text = number_text(mean, percent, signed)
    return text if mean is None or std is None else f"{text} ± {number_text(std, percent)}"


def _leaderboard(tables: Tables) -> Shown:
    percent, rows = tables.percent, []
    best = tables.leaderboard[0]["mean"]
    for r in tables.leaderboard:
        difference = number_text(r["difference"], percent, signed=True)
        ends = interval_text(r["difference_low"], r["difference_high"], percent, signed=True)
        cells = (
            r["entry"],
            _with_spread(r["mean"], r["std"], percent),
            interval_text(r["low"], r["high"], percent),
            "-" if difference == "-" else f"{difference} {ends}",
            _p_text(r["p_holm"]),
            "-" if r["average_rank"] is None else f"{r['average_rank']:.1f}",
            "-" if r["cost"] is None else f"{r['cost']:.2f}",
        )
        rows.append(ShownRow(cells, r["control"], r["mean"] == best))
    rival = tables.best_control
    notes = ["Controls in italics, the best score in bold. Mean and standard deviation over seeds, test data."]
    if any(r["low"] is not None for r in tables.leaderboard):
        notes.append("Intervals: 95 %, over seeds and test samples.")
    if rival:
        notes.append(
            f"Difference: paired with the best control, {rival}; above 0 is better. p: two-sided, corrected by Holm."
        )
    notes.append("Rank: mean place over the seeds. Cost: in steps of joint training.")
    unit = ", %" if percent else ""
    head = ("entry", f"{_words(tables.metric)}{unit}", "interval", f"against {rival or 'no control'}", "p", "rank",
            "cost")  # fmt: skip
    return Shown("leaderboard", f"{tables.title}: leaderboard.", head, 1, tuple(rows), tuple(notes))


def _rules(tables: Tables) -> Shown:
    by_entry: dict[str, list[Record]] = {}
    for r in tables.rules:
        by_entry.setdefault(r["entry"], []).append(r)
    rows, percent = [], tables.percent
    for r in tables.leaderboard:
        own = by_entry.get(r["entry"])
        if own is None:
            continue
        best = next(rule for rule in own if rule["best_on_validation"])
        gain = best["test"] - r["mean"]
        gain = gain if tables.higher_is_better else -gain
        documented = next((rule["rule"] for rule in own if rule["documented"]), "-")
        cells = (r["entry"], documented, best["rule"], number_text(best["validation"], percent),
                 number_text(best["test"], percent), number_text(gain, percent, signed=True))  # fmt: skip
        rows.append(ShownRow(cells, r["control"]))
    head = ("entry", "documented rule", "best rule", "validation", "test", "gain")
    notes = ("Best rule: by the mean score on validation data. Gain: on test data, over the rule in force; above 0 is "
             "better.",)  # fmt: skip
    return Shown("rules", f"{tables.title}: inference rules.", head, 3, tuple(rows), notes)


def _modalities(tables: Tables) -> Shown:
    controls: Mapping[str, bool] = {r["entry"]: r["control"] for r in tables.leaderboard}
    percent = tables.percent
    rows = [
        ShownRow(
            (
                r["entry"],
                r["modality"],
                _with_spread(r["probe"], r["probe_std"], percent),
                _with_spread(r["gap"], r["gap_std"], percent, signed=True),
                _with_spread(r["own_output"], r["own_output_std"], percent),
            ),
            controls[r["entry"]],
        )
        for r in tables.modalities
    ]
    notes = (
        "Probe: a linear probe on the encoder, test data. Gap: how far it lies below that of the same encoder trained "
        "alone; above 0 is under-trained. Own output: score of the entry's output for that modality alone.",
    )
    return Shown("modalities", f"{tables.title}: modalities.", ("entry", "modality", "probe", "gap", "own output"), 2,
                 tuple(rows), notes)  # fmt: skip


def _p_text(p: float | None) -> str:
    return "-" if p is None else "< 0.001" if p < 0.001 else f"{p:.3f}"


def _words(metric: str) -> str:
    return metric.upper() if len(metric) <= 3 else metric.replace("_", " ")
