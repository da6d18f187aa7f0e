"""Soft labels of misaligned samples and the weak modality's weight, with numbers worked out by hand."""

from __future__ import annotations

import pytest
import torch

from equimodal.functional import misaligned_target, shares, weak_weights


def test_target_by_hand() -> None:
    """c = (.6, .2): shares 3/4 and 1/4, the second weighted by 1.2; equal labels add up."""
    c, alpha = (
        torch.tensor([[0.6, 0.2], [0.1, 0.4]], dtype=torch.float64),
        torch.tensor([1.0, 1.2], dtype=torch.float64),
    )
    found = misaligned_target(c, torch.tensor([[0, 2], [1, 1]]), alpha, 3)
    assert found[0].tolist() == pytest.approx([0.75, 0.0, 0.3], abs=1e-12)
    assert found[1].tolist() == pytest.approx([0.0, 0.2 + 1.2 * 0.8, 0.0], abs=1e-12)


def test_shares_of_nothing_are_equal() -> None:
    assert shares(torch.tensor([[0.0, 0.0], [1.0, 3.0]])).tolist() == [[0.5, 0.5], [0.25, 0.75]]


@pytest.mark.parametrize(
    ("alpha", "confidence", "prediction", "expected"),
    [
        ([1.0, 1.1], [0.7, 0.3], [0.8, 0.2], [1.0, 1.15]),  # followed less than its confidence says: grows
        ([1.0, 1.1], [0.7, 0.3], [0.6, 0.4], [1.0, 1.05]),  # followed more: falls
        ([1.0, 1.0], [0.7, 0.3], [0.6, 0.4], [1.0, 1.0]),  # not below 1
        ([1.0, 1.1], [0.7, 0.3], [0.7, 0.3], [1.0, 1.1]),  # equal: stays
        ([1.0, 1.3], [0.3, 0.7], [0.2, 0.8], [1.05, 1.0]),  # another one is weak now: from its own weight
        ([1.0, 1.2, 1.0], [0.4, 0.2, 0.4], [0.5, 0.1, 0.4], [1.0, 1.25, 1.0]),
        ([1.0, 1.0], [0.5, 0.5], [0.4, 0.6], [1.05, 1.0]),  # equally confident: the first
    ],
)
def test_weak_weights(
    alpha: list[float], confidence: list[float], prediction: list[float], expected: list[float]
) -> None:
    a, c, p = (torch.tensor(v, dtype=torch.float64) for v in (alpha, confidence, prediction))
    assert weak_weights(a, c, p, 0.05).tolist() == pytest.approx(expected, abs=1e-12)
