"""Reports of comparisons, made from their stored records (plain data): tables, one HTML page, answers, rankings."""

from equimodal.report._controls import CONTROLS
from equimodal.report._controls import required_controls as required_controls
from equimodal.report._page import render_report
from equimodal.report._study import missing_controls
from equimodal.report._tables import markdown_table, text_table
from equimodal.report._tuning import render_tuning, tuning_table
from equimodal.report._verdict import verdict
from equimodal.report.formats import format_tables
from equimodal.report.pack import answers_of, answers_text, figures_of
from equimodal.report.ranking import Ranking, draw_ranking, rank_studies, ranking_text

__all__ = [
    "CONTROLS",
    "Ranking",
    "answers_of",
    "answers_text",
    "draw_ranking",
    "figures_of",
    "format_tables",
    "markdown_table",
    "missing_controls",
    "rank_studies",
    "ranking_text",
    "render_report",
    "render_tuning",
    "text_table",
    "tuning_table",
    "verdict",
]
