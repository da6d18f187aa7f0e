"""The ranking of confidences in QMF's released code."""

from __future__ import annotations

from torch import Tensor

from equimodal.functional import confidence_ranking

QMF_RELEASED = (
    "the margin acts as slack: the order may be violated by as much as it should be kept by",
    "the script for RGB-D ranks before the first loss is known, and its first loss is NaN",
    "the losses per sample are not in the checkpoint",
)
"""What the released code does otherwise than the paper."""


def ranking_with_slack(confidence: Tensor, history: Tensor, least: Tensor, most: Tensor) -> Tensor:
    """:func:`~equimodal.functional.confidence_ranking` with the margin's other sign; same arguments."""
    return confidence_ranking(confidence, history, least, most, "slack")
