"""What a comparison says, in words that are computed from its table and its paired differences."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from equimodal._utils.printing import printable
from equimodal.report._study import Row, Study, number, read_study
from equimodal.report._tables import metric_text, score_text

SINGLE = "best single modality"
"""The rival of that name in the differences of a study."""


def verdict(study: Mapping[str, Any]) -> str:
    """The best row, and whether the best method beats the best control and the best single modality.

    Rows are ranked on test data, so the verdict is about these data; whether a lead is one is decided by the 95 %
    interval of the paired difference over seeds and samples.

    Args:
        study: the record that ``equimodal compare`` stores as ``study.json``.

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
    methods = [row for row in record.rows if not row.control]
    controls = [row for row in record.rows if row.control]
    if not record.rows:
        return "Verdict: none, there is no row."
    best = record.rows[0]
    name = f"{printable(best.label)}{', a control,' if best.control else ''}"
    among = f"the best of {len(record.rows)} rows" if len(record.rows) > 1 else "the only row"
    lines = [f"Verdict: {name} is {among} ({metric_text(record)}: {score_text(record, best)})."]
    if best.control and methods:
        lines.append(f"The best method is {printable(methods[0].label)} ({score_text(record, methods[0])}).")
    judged = methods[0] if methods else best
    if controls and not judged.control:
        rival = controls[0].label
        lines.append(_against(record, judged, rival, f"the best control, {printable(rival)}", "Take the control"))
    if _difference(record, judged.label, SINGLE) is not None:
        lines.append(_against(record, judged, SINGLE, f"the {SINGLE}", "Take the modality alone"))
    below = [row.label for row in record.rows if _is_below(_difference(record, row.label, SINGLE))]
    if below:
        lines.append(f"Below the {SINGLE} by more than chance: {', '.join(map(printable, below))}.")
    return "\n".join(lines)


def _against(record: Study, row: Row, rival: str, shown: str, otherwise: str) -> str:
    found = _difference(record, row.label, rival)
    if found is None:
        return f"Against {shown}: not compared, as there are no outcomes of single samples on record."
    digits = 1 if record.percent else 3
    mean, low, high = (f"{value * record.gap_factor:+.{digits}f}" for value in found)
    if found[1] > 0:
        judgement = "Better by more than chance."
    elif found[2] < 0:
        judgement = f"Worse by more than chance. {otherwise}."
    else:
        judgement = f"No difference beyond chance. {otherwise}, which is simpler."
    return f"Against {shown}: {mean} [{low}, {high}]. {judgement}"


def _difference(record: Study, label: str, rival: str) -> tuple[float, float, float] | None:
    """Mean, lower and upper end; better is more, whatever the metric."""
    rivals = (record.facts.get("differences") or {}).get(label) or {}
    found = rivals.get(rival) or {}
    mean, low, high = (number(found.get(part)) for part in ("mean", "low", "high"))
    return None if mean is None or low is None or high is None else (mean, low, high)


def _is_below(found: tuple[float, float, float] | None) -> bool:
    return found is not None and found[2] < 0
