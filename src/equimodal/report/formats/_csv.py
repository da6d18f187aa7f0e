"""Tables as CSV: one observation per line, plain numbers, nothing where nothing was measured."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from typing import Any

from equimodal._utils.printing import table_cell


def csv_text(records: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> str:
    """The records as ``pandas.read_csv`` takes them.

    Args:
        records: one per line.
        columns: which of their fields, in this order.

    Example:
        >>> print(csv_text([{"entry": "MLA", "mean": 0.5, "cost": None}], ["entry", "mean", "cost"]), end="")
        entry,mean,cost
        MLA,0.5,
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([table_cell(name) for name in columns])
    writer.writerows([csv_value(record[name]) for name in columns] for record in records)
    return text.getvalue()


def csv_value(value: Any) -> str:
    """One cell: ten digits of a number, no formula for a spreadsheet."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return str(value)
    return f"{value:.10g}" if isinstance(value, (int, float)) else table_cell(str(value))
