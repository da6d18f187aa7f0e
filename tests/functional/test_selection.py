"""Scores of the modalities for a sharpness-aware step, with numbers worked out by hand."""

from __future__ import annotations

import math

import pytest
import torch

from equimodal.functional import selection_scores

NAN = math.nan


def of(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def test_by_hand() -> None:
    """MA = .9 + .1 (.5 - .9) = .86 and 1; d = 1 - .86 and 0; a = .8 d + .2 cos."""
    found = selection_scores(of(0.5, 1.0), of(1.0, 0.9), of(0.9, 1.0), of(0.5, -0.5), 0.8, 0.9)
    assert found.average.tolist() == pytest.approx([0.86, 1.0], abs=1e-12)
    assert found.scores.tolist() == pytest.approx([0.8 * 0.14 + 0.1, -0.1], abs=1e-12)


def test_first_and_missing_losses() -> None:
    """The mean starts at the first loss, without a decay; what has no loss now keeps its mean and is not chosen."""
    found = selection_scores(of(2.0, NAN, NAN), of(NAN, 1.0, NAN), of(NAN, 0.7, NAN), of(0.5, 0.9, 0.0), 0.8, 0.9)
    assert found.scores.tolist() == pytest.approx([0.1, -math.inf, -math.inf])
    assert found.average.tolist()[:2] == [2.0, 0.7]
    assert math.isnan(found.average[2])
