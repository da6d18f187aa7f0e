"""The table of a comparison as plain text and as Markdown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from equimodal._utils.printing import printable
from equimodal.report._study import Row, Spread, Study, read_study

_MANY = 4  # modalities; above it their spread is left out, or the table outgrows a terminal


def text_table(study: Mapping[str, Any]) -> str:
    """The table for a terminal: aligned, best score first, controls marked, no control characters.

    Args:
        study: the record that ``equimodal compare`` stores as ``study.json``.

    Raises:
        DataError: a field of the record is missing or malformed.

    Example:
        >>> print(text_table({"rows": [{"method": "Joint", "control": True, "seeds": 2, "score_mean": 0.9,
        ...                             "score_std": 0.01, "cost": 1.0}]}))
        method     score, %    cost, joint steps
        Joint (c)  90.0 ± 1.0               1.00
        <BLANKLINE>
        (c) control. Score: test data, mean ± standard deviation over 2 seeds.
        Incomplete: the table lacks the control(s) MultiLoss, Unimodal, Ensemble, without which no claim counts.
    """
    record = read_study(study)
    head, body = _cells(record, control=" (c)")
    widths = [max(len(line[i]) for line in [head, *body]) for i in range(len(head))]
    lines = []
    for line in [head, *body]:
        cells = [c.ljust(w) if i < 2 else c.rjust(w) for i, (c, w) in enumerate(zip(line, widths, strict=True))]
        lines.append("  ".join(cells).rstrip())
    return "\n".join([*lines, "", *_notes(record, "(c) control. ")])


def markdown_table(study: Mapping[str, Any]) -> str:
    """The table in Markdown, with its notes below; controls in italics.

    Args:
        study: the record that ``equimodal compare`` stores as ``study.json``.

    Raises:
        DataError: a field of the record is missing or malformed.

    Example:
        >>> record = {"rows": [{"method": "MLA", "seeds": 1, "score_mean": 0.9}]}
        >>> markdown_table(record).splitlines()[2]
        '| MLA | 90.0 (1 seed) | - |'
    """
    record = read_study(study)
    head, body = _cells(record, control="")
    lines = [[escaped(cell) for cell in head], ["---", *["---:"] * (len(head) - 1)]]
    for row, cells in zip(record.rows, body, strict=True):
        texts = [escaped(cell) for cell in cells]
        lines.append([f"*{texts[0]}*" if row.control else texts[0], *texts[1:]])
    table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    return "\n".join([table, "", *(escaped(note) + "  " for note in _notes(record, "Controls in italics. "))]) + "\n"


def _cells(record: Study, control: str) -> tuple[list[str], list[list[str]]]:
    gaps = any(row.under_trained for row in record.rows)
    modalities = column_names(record)
    head = ["method", metric_text(record)]
    head += [f"{printable(m)} (gap)" if gaps else printable(m) for m in modalities] + ["cost, joint steps"]
    body = []
    for row in record.rows:
        line = [printable(row.label) + (control if row.control else ""), score_text(record, row)]
        line += [_modality_text(record, row, m) for m in modalities]
        line.append("-" if row.cost is None else f"{row.cost:.2f}")
        body.append(line)
    return head, body


def score_text(record: Study, row: Row) -> str:
    """The score with its spread, or with the mark of a single seed."""
    mean, std = row.score[0] * record.factor, row.score[1] * record.gap_factor
    digits = 1 if record.percent else 3
    return f"{mean:.{digits}f} (1 seed)" if row.seeds == 1 else f"{mean:.{digits}f} ± {std:.{digits}f}"


def metric_text(record: Study) -> str:
    """What the scores are, with their unit."""
    name = "score" if record.metric == "accuracy" else record.metric.replace("_", " ")
    return (name.upper() if len(name) <= 3 else name) + (", %" if record.percent else "")


def spread_text(
    record: Study, spread: Spread | None, seeds: int, signed: bool = False, difference: bool = False
) -> str:
    """A mean with its spread where there is one; a dash for nothing. Differences of scores: more is better."""
    if spread is None:
        return "-"
    digits = 1 if record.percent else 3
    mean, std = spread[0] * (record.gap_factor if difference else record.factor), spread[1] * record.gap_factor
    mean = 0.0 if round(mean, digits) == 0 else mean  # no "-0.0"
    text = f"{mean:{'+' if signed else ''}.{digits}f}"
    return text if seeds == 1 else f"{text} ± {std:.{digits}f}"


def _modality_text(record: Study, row: Row, modality: str) -> str:
    seeds = 1 if len(record.modalities) > _MANY else row.seeds
    text = spread_text(record, row.per_modality.get(modality), seeds)
    gap = row.under_trained.get(modality)
    return text if gap is None else f"{text} ({spread_text(record, gap, 1, difference=True)})"


def _notes(record: Study, control: str) -> list[str]:
    counts = sorted({row.seeds for row in record.rows})
    notes = []
    if record.rows:
        seeds = f"{' to '.join(str(n) for n in dict.fromkeys((counts[0], counts[-1])))} seeds"
        spread = "one seed" if counts[-1] == 1 else f"mean ± standard deviation over {seeds}"
        first = control if any(row.control for row in record.rows) else ""
        less = "; less is better" if record.error else ""
        name = metric_text(record).removesuffix(", %")
        notes.append(f"{first}{name[:1].upper()}{name[1:]}: test data, {spread}{less}.")
    if any(row.per_modality for row in record.rows):
        note = "Per modality: a linear probe on its encoder"
        if any(row.under_trained for row in record.rows):
            note += "; gap: how far it was left under-trained, that is below the same encoder trained alone"
        notes.append(note + ".")
    notes += [f"Incomplete: {printable(reason)}." for reason in record.incomplete]
    return notes


def escaped(text: str) -> str:
    """``text`` of which Markdown reads no mark."""
    for mark in "\\`*_{}[]<>#|":
        text = text.replace(mark, "\\" + mark)
    return text


def column_names(record: Study) -> Sequence[str]:
    """The modalities that the table has columns for."""
    return [m for m in record.modalities if any(m in row.per_modality for row in record.rows)]
