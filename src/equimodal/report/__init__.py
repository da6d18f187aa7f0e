"""Reports of a comparison, made from its stored record (plain data): terminal table, Markdown table, one HTML page."""

from equimodal.report._controls import CONTROLS
from equimodal.report._controls import required_controls as required_controls
from equimodal.report._page import render_report
from equimodal.report._study import missing_controls
from equimodal.report._tables import markdown_table, text_table
from equimodal.report._tuning import render_tuning, tuning_table
from equimodal.report._verdict import verdict

__all__ = [
    "CONTROLS",
    "markdown_table",
    "missing_controls",
    "render_report",
    "render_tuning",
    "text_table",
    "tuning_table",
    "verdict",
]
