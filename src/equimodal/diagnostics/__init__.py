"""Looks at a model from outside and leaves no trace in it: probes, subsets of modalities, missing rates, noise."""

from equimodal.diagnostics._curve import Curve, effective_robustness, relative_robustness
from equimodal.diagnostics._details import score_details
from equimodal.diagnostics._evaluate import Evaluation, evaluate, rule_outcomes, rule_scores, sample_outcomes
from equimodal.diagnostics._evaluate import collect as collect
from equimodal.diagnostics._evaluate import evaluation_of as evaluation_of
from equimodal.diagnostics._evaluate import sample_records as sample_records
from equimodal.diagnostics._figure import FORMATS as FORMATS
from equimodal.diagnostics._figure import draw_curves
from equimodal.diagnostics._missing import missing_curves
from equimodal.diagnostics._outcomes import Outcomes, sample_terms
from equimodal.diagnostics._paired import Difference, average_ranks, exchange_p, holm, paired_difference, score_interval
from equimodal.diagnostics._predictions import (
    ClassScores,
    Reliability,
    SamplePredictions,
    class_scores,
    confusion_matrix,
    label_scores,
    reliability,
)
from equimodal.diagnostics._predictions import worst_samples as worst_samples
from equimodal.diagnostics._probe import probe_outcomes, probe_scores, under_training
from equimodal.diagnostics._rate import RATE_RULE as RATE_RULE
from equimodal.diagnostics._rate import RateTest, find_rate
from equimodal.diagnostics._subsets import SubsetScore, shapley_scores, subset_scores, subset_table, subsets_of
from equimodal.diagnostics._sweep import checked_levels as checked_levels
from equimodal.diagnostics._sweep import checked_whole as checked_whole
from equimodal.diagnostics.checks import Finding, check
from equimodal.diagnostics.checks import Report as Report
from equimodal.diagnostics.noise import Corruption, Spread, input_spread, noise_curves

__all__ = [
    "ClassScores",
    "Corruption",
    "Curve",
    "Difference",
    "Evaluation",
    "Finding",
    "Outcomes",
    "RateTest",
    "Reliability",
    "SamplePredictions",
    "Spread",
    "SubsetScore",
    "average_ranks",
    "check",
    "class_scores",
    "confusion_matrix",
    "draw_curves",
    "effective_robustness",
    "evaluate",
    "exchange_p",
    "find_rate",
    "holm",
    "input_spread",
    "label_scores",
    "missing_curves",
    "noise_curves",
    "paired_difference",
    "probe_outcomes",
    "probe_scores",
    "relative_robustness",
    "reliability",
    "rule_outcomes",
    "rule_scores",
    "sample_outcomes",
    "sample_terms",
    "score_details",
    "score_interval",
    "shapley_scores",
    "subset_scores",
    "subset_table",
    "subsets_of",
    "under_training",
]
