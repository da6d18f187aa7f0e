"""Scores of the modalities for a sharpness-aware step, with numbers worked out by hand."""

from __future__ import annotations

import math

import pytest
import torch

from equimodal.functional import encoder_selection, gradient_cosines, selection_scores

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


def test_cosines_by_hand() -> None:
    """g = (3, 4), h = (4, 3) and g = (0, 0), h = (1, 0): 24 / 25, and 0 for a gradient that is 0."""
    grams = torch.tensor([[[25.0, 24.0], [24.0, 25.0]], [[0.0, 0.0], [0.0, 1.0]]], dtype=torch.float64)
    cosines, norms = gradient_cosines(grams)
    assert cosines.tolist() == pytest.approx([0.96, 0.0], abs=1e-15)
    assert norms.tolist() == [[5.0, 5.0], [0.0, 1.0]]


@pytest.mark.parametrize(
    ("scores", "cosines", "best", "every"),
    [
        ([0.1, 0.3, 0.2], [0.5, 0.4, 0.3], [1], [0, 1, 2]),
        ([0.1, 0.3, 0.2], [0.5, -0.4, 0.3], [], [0, 2]),  # the best one agrees with nobody: nothing moves
        ([-math.inf, 0.1, 0.2], [0.9, 0.4, 0.0], [], [1]),
        ([0.2, 0.2], [0.1, 0.1], [0], [0, 1]),
        ([-math.inf], [1.0], [], []),
    ],
)
def test_who_is_perturbed(scores: list[float], cosines: list[float], best: list[int], every: list[int]) -> None:
    assert encoder_selection(scores, cosines) == best
    assert encoder_selection(scores, cosines, every=True) == every
