"""What a comparison says, in words that are computed from its table and its paired differences."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from equimodal._utils.printing import printable
from equimodal.report._controls import role_of
from equimodal.report._leaderboard import interval_text, number_text, recommended_rule, score_of_rule
from equimodal.report._next import Step, next_steps
from equimodal.report._study import Row, Study, interval_of, number, read_study
from equimodal.report._tables import metric_text, score_text, spread_text

SINGLE = "best single modality"
"""The rival of that name in the differences of a study."""


@dataclass(frozen=True)
class Statement:
    """One thing that a comparison says.

    Args:
        title: what it is about, for the page.
        lead: its first words on a line of its own.
        text: the sentences.
        tone: ``"good"``, ``"bad"``, ``"open"`` (not decided), or empty.
        interval: mean, low and high of the difference that it is about.
        steps: what to try next, with commands.
    """

    title: str
    lead: str
    text: str
    tone: str = ""
    interval: Mapping[str, float] | None = None
    steps: Sequence[Step] = ()


def verdict(study: Mapping[str, Any], folder: str | Path | None = None) -> str:
    """The best row, whether the best method beats the best control and the best single modality, and what to do next.

    Rows are ranked on test data, so the verdict is about these data; whether a lead is one is decided by the 95 %
    interval of the paired difference over seeds and samples. Which modalities are under-trained follows from the
    probes, and which inference rule to use from validation data, where they are on record.

    Args:
        study: the record that ``equimodal compare`` stores as ``study.json``.
        folder: of the comparison, for the commands to try next; default: none are named.

    Raises:
        DataError: a field of the record is missing or malformed.

    Example:
        >>> rows = [{"method": "MLA", "seeds": 2, "score_mean": 0.9}, {"method": "Joint", "control": True, "seeds": 2,
        ...          "score_mean": 0.8}]
        >>> difference = {"mean": 0.1, "low": 0.05, "high": 0.15}
        >>> print(verdict({"rows": rows, "differences": {"MLA": {"Joint": difference}}}))
        Verdict: MLA is the best of 2 rows (score, %: 90.0 ± 0.0).
        Against the best control, Joint: +10.0 [+5.0, +15.0]. Better by more than chance.
    """
    record = read_study(study)
    lines = [f"{s.lead}{s.text}" for s in statements(record)]
    if folder is not None:
        lines += [f"Next: {step.reason}: {step.command}" for step in next_steps(record, str(folder))]
    return "\n".join(lines)


def statements(record: Study) -> list[Statement]:
    """What the comparison says, the most important first."""
    if not record.rows:
        return [Statement("Best row", "Verdict: ", "none, there is no row.")]
    methods = [row for row in record.rows if not row.control]
    best, control = record.rows[0], record.best_control
    judged = methods[0] if methods else best
    name = f"{printable(best.label)}{', a control,' if best.control else ''}"
    among = f"the best of {len(record.rows)} rows" if len(record.rows) > 1 else "the only row"
    found = [
        Statement("Best row", "Verdict: ", f"{name} is {among} ({metric_text(record)}: {score_text(record, best)}).")
    ]
    if best.control and methods:
        text = f"The best method is {printable(judged.label)} ({score_text(record, judged)})."
        found.append(Statement("Best method", "", text))
    if control is not None and not judged.control:
        found.append(
            _against(record, judged, control.label, f"the best control, {printable(control.label)}", "Take the control")
        )
    if record.difference(judged.label, SINGLE) is not None:
        found.append(_against(record, judged, SINGLE, f"the {SINGLE}", "Take the modality alone"))
    joint = [row for row in record.rows if role_of(row.kind) != "single"]
    below = [row.label for row in joint if (d := record.difference(row.label, SINGLE)) and d["high"] < 0]
    if below:
        text = f"{', '.join(map(printable, below))}."
        found.append(Statement(f"Below the {SINGLE}", f"Below the {SINGLE} by more than chance: ", text, "bad"))
    return [*found, *_modalities(record, judged), *_rule(record, judged)]


def under_trained(record: Study, row: Row) -> dict[str, float]:
    """Modality -> gap of its probe, for those that are under-trained: by a point or more, and by more than the spread.

    Of an error the gap must be 2 % of the probe's.
    """
    found = {}
    for modality, (gap, spread) in row.under_trained.items():
        probe = abs(row.per_modality[modality][0]) if modality in row.per_modality else 0.0
        if gap >= (0.01 if record.percent else 0.02 * probe) and gap > 0 and gap > spread:
            found[modality] = gap
    return found


def _against(record: Study, row: Row, rival: str, shown: str, otherwise: str) -> Statement:
    found = record.difference(row.label, rival)
    title, lead = f"{printable(row.label)} against {shown}", f"Against {shown}: "
    if found is None:
        return Statement(title, lead, "not compared, as there are no outcomes of single samples on record.")
    if found["low"] > 0:
        judgement, tone = "Better by more than chance.", "good"
    elif found["high"] < 0:
        judgement, tone = f"Worse by more than chance. {otherwise}.", "bad"
    else:
        judgement, tone = f"No difference beyond chance. {otherwise}, which is simpler.", "open"
    return Statement(title, lead, f"{_difference(record, found)}. {judgement}", tone, found)


def _modalities(record: Study, row: Row) -> list[Statement]:
    """Which modalities of a row are under-trained."""
    if not row.under_trained:
        return []
    gaps, label = under_trained(record, row), printable(row.label)
    if gaps:
        parts = []
        for modality, gap in sorted(gaps.items(), key=lambda item: -item[1]):
            probe = row.per_modality.get(modality)
            shown = f"{printable(modality)} by {spread_text(record, (gap, 0.0), 1, difference=True)}"
            if probe is not None:
                alone = number_text(record, probe[0] + gap)
                shown += f" (probe {number_text(record, probe[0])}, the same encoder alone {alone})"
            parts.append(shown)
        return [Statement("Modalities", f"Under-trained in {label}: ", f"{', '.join(parts)}.", "bad")]
    largest = max(row.under_trained, key=lambda m: row.under_trained[m][0])
    text = spread_text(record, (row.under_trained[largest][0], 0.0), 1, signed=True, difference=True)
    return [
        Statement(
            "Modalities", f"Under-trained in {label}: ", f"none (largest gap: {printable(largest)}, {text}).", "good"
        )
    ]


def _rule(record: Study, row: Row) -> list[Statement]:
    """Which inference rule a row should use, and which other rows would gain."""
    advice, chosen = row.advice, recommended_rule(row)
    documented = advice.get("documented")
    if not advice or chosen is None or documented is None:
        return []
    lead = f"Inference rule of {printable(row.label)}: "
    others = _gaining(record, row)
    if chosen == documented:
        text = f"the documented one, {printable(str(chosen))}; no other is better on validation data."
        return [Statement("Inference rule", lead, text + others, "good")]
    gain = spread_text(record, (number(advice.get("gain")) or 0.0, 0.0), 1, signed=True, difference=True)
    text = f"{printable(chosen)} instead of {printable(str(documented))}: {gain} on validation data"
    found = interval_of(advice.get("difference"))
    if found is not None:
        beyond = "" if found["low"] > 0 or found["high"] < 0 else ", which may be chance"
        text += f", and {_difference(record, found)} on test data{beyond}"
    tone = "open" if found is None or found["low"] <= 0 else "good"
    return [Statement("Inference rule", lead, f"{text}.{others}", tone, found)]


def _gaining(record: Study, judged: Row) -> str:
    """The other rows that another rule makes better by more than chance, and the best row if that changes it."""
    found: dict[str, list[str]] = {}
    for row in record.rows:
        own = interval_of(row.advice.get("difference"))
        if row is not judged and own is not None and own["low"] > 0:
            gain = spread_text(record, (own["mean"], 0.0), 1, signed=True, difference=True)
            rule = printable(str(row.advice.get("recommended")))
            found.setdefault(rule, []).append(f"{printable(row.label)} {gain}")
    said = "".join(f" {rule} gains on test data for {', '.join(rows)}." for rule, rows in found.items())
    scores = {row.label: score for row in record.rows if (score := score_of_rule(row)) is not None}
    best = max(record.rows, key=lambda row: scores.get(row.label, row.score[0]))
    if best is not record.rows[0]:
        name = f"{printable(best.label)}{', a control,' if best.control else ''}"
        figure = number_text(record, scores[best.label])
        said += f" With every row read by the rule advised for it, {name} is best ({figure})."
    return said


def _difference(record: Study, found: Mapping[str, float]) -> str:
    """Mean and interval; better is more, whatever the metric."""
    digits = 1 if record.percent else 3
    return f"{found['mean'] * record.gap_factor:+.{digits}f} {interval_text(record, found['low'], found['high'])}"
