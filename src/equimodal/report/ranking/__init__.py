"""Several comparisons, one per dataset: average ranks, tests, critical-difference diagram."""

from equimodal.report.ranking._diagram import FIGURES, draw_ranking
from equimodal.report.ranking._ranking import Budgets, Pair, Place, Ranking, rank_studies
from equimodal.report.ranking._text import RANKING_FORMATS, ranking_text

__all__ = [
    "FIGURES",
    "RANKING_FORMATS",
    "Budgets",
    "Pair",
    "Place",
    "Ranking",
    "draw_ranking",
    "rank_studies",
    "ranking_text",
]
