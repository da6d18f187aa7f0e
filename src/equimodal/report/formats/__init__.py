"""The tables of a comparison for papers and programs: Markdown, LaTeX, CSV and JSON."""

from equimodal.report.formats._csv import csv_text, csv_value
from equimodal.report.formats._json import json_text
from equimodal.report.formats._latex import latex_escaped, latex_text
from equimodal.report.formats._markdown import markdown_cells, markdown_text
from equimodal.report.formats._shown import Shown, ShownRow, decimals, interval_text, number_text, shown_tables
from equimodal.report.formats._tables import COLUMNS, TABLES, TableName, Tables, tables_of
from equimodal.report.formats._text import FORMATS, Format, format_tables

__all__ = [
    "COLUMNS",
    "FORMATS",
    "TABLES",
    "Format",
    "Shown",
    "ShownRow",
    "TableName",
    "Tables",
    "csv_text",
    "csv_value",
    "decimals",
    "format_tables",
    "interval_text",
    "json_text",
    "latex_escaped",
    "latex_text",
    "markdown_cells",
    "markdown_text",
    "number_text",
    "shown_tables",
    "tables_of",
]
