"""Looks at a model from outside and leaves no trace in it: linear probes, scores of every subset of modalities."""

from equimodal.diagnostics._evaluate import Evaluation, evaluate, rule_scores, subset_scores
from equimodal.diagnostics._probe import probe_scores, under_training

__all__ = ["Evaluation", "evaluate", "probe_scores", "rule_scores", "subset_scores", "under_training"]
