"""Tables in Markdown."""

from __future__ import annotations

from collections.abc import Sequence

from equimodal._utils.printing import printable
from equimodal.report._tables import escaped
from equimodal.report.formats._shown import Shown


def markdown_text(tables: Sequence[Shown], notes: Sequence[str] = (), heading: str = "Incomplete") -> str:
    """The tables below each other, each with its caption and notes; ``notes`` come last, under ``heading``."""
    parts = []
    for table in tables:
        lines = [_cell(table.caption), "", *markdown_cells(table), "", " ".join(map(_cell, table.notes))]
        parts.append("\n".join(lines))
    if notes:
        parts.append(f"{heading}:\n\n" + "\n".join(f"- {_cell(note)}" for note in notes))
    return "\n\n".join(parts) + "\n"


def markdown_cells(table: Shown) -> list[str]:
    """The lines of one table."""
    lines = [[_cell(text) for text in table.head]]
    lines.append(["---"] * table.texts + ["---:"] * (len(table.head) - table.texts))
    for row in table.rows:
        cells = [_cell(text) for text in row.cells]
        if row.control:
            cells[0] = f"*{cells[0]}*"
        if row.best:
            cells[table.texts] = f"**{cells[table.texts]}**"
        lines.append(cells)
    return [f"| {' | '.join(line)} |" for line in lines]


def _cell(text: str) -> str:
    return escaped(printable(text))
