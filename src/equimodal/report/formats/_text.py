"""One comparison in one of the formats."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, get_args

from equimodal.errors import UnsupportedError
from equimodal.report.formats._csv import csv_text
from equimodal.report.formats._json import json_text
from equimodal.report.formats._latex import latex_text
from equimodal.report.formats._markdown import markdown_text
from equimodal.report.formats._shown import shown_tables
from equimodal.report.formats._tables import COLUMNS, TABLES, TableName, tables_of

Format = Literal["markdown", "latex", "csv", "json"]
FORMATS: tuple[Format, ...] = get_args(Format)


def format_tables(study: Mapping[str, Any], format: Format, table: TableName | None = None) -> str:  # noqa: A002
    """The tables of a comparison as text.

    Args:
        study: the record that ``equimodal compare`` stores as ``study.json``.
        format: ``"markdown"`` and ``"latex"`` are for people: rounded, points where scores are shares. ``"csv"`` and
            ``"json"`` are for programs: every number in the unit of the metric.
        table: one of them; default all, of CSV, whose lines have the columns of one table, the leaderboard. JSON has
            always all.

    Raises:
        DataError: a field of the record is missing or malformed.
        UnsupportedError: a single table as JSON.

    Example:
        >>> rows = [{"method": "MLA", "seeds": 1, "score_mean": 0.9}]
        >>> print(format_tables({"rows": rows}, "csv").splitlines()[1])
        1,MLA,MLA,False,1,score,0.9,,,,,,,,,,,,
    """
    tables = tables_of(study)
    if format == "json":
        if table is not None:
            raise UnsupportedError(
                f"`table`: expected none for JSON, which has all tables. Found {table!r}. Leave it out."
            )
        return json_text(tables)
    if format == "csv":
        return csv_text(tables.table(table or "leaderboard"), COLUMNS[table or "leaderboard"])
    shown = shown_tables(tables, TABLES if table is None else (table,))
    return (latex_text if format == "latex" else markdown_text)(shown, tables.incomplete)
