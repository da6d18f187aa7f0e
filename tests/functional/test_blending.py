"""Weights of losses from their generalisation, worked out by hand."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from equimodal.functional import blending_weights


def t(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


HALF = t(0.5, 0.5)


def test_gain_over_squared_growth_of_overfitting() -> None:
    # first: G = 0.1, O = 0.3 - 0.2 = 0.1: 10; second: G = 0.05, O = 0.35 - 0.1 = 0.25: 0.8
    training, validation = (t(0.6, 0.8), t(0.4, 0.5)), (t(0.8, 0.9), t(0.7, 0.85))
    w = blending_weights(training, validation, HALF)
    assert w.tolist() == pytest.approx([10 / 10.8, 0.8 / 10.8], abs=1e-12)
    scaled = [tuple(7 * x for x in pair) for pair in (training, validation)]
    assert blending_weights(scaled[0], scaled[1], HALF).tolist() == pytest.approx(w.tolist())  # type: ignore[arg-type]


def test_equal_losses_have_equal_weights() -> None:
    w = blending_weights((t(1, 1, 1), t(0.5, 0.5, 0.5)), (t(1, 1, 1), t(0.9, 0.9, 0.9)), t(0.2, 0.3, 0.5))
    assert w.tolist() == pytest.approx([1 / 3] * 3)


def test_a_loss_that_gained_nothing_has_no_weight() -> None:
    w = blending_weights((t(1, 1), t(0.5, 0.5)), (t(1, 1), t(0.9, 1.2)), HALF)
    assert w.tolist() == [1, 0]


def test_where_none_gained_the_weights_stay() -> None:
    w = blending_weights((t(1, 1), t(0.5, 0.5)), (t(1, 1), t(1.0, 1.2)), t(0.3, 0.7))
    assert w.tolist() == [0.3, 0.7]


def test_overfitting_has_a_smallest_size() -> None:
    """Of the mean of the losses: 0.01 * 1.5. A growth of 0 would have all the weight."""
    w = blending_weights((t(1, 2), t(0.9, 1.8)), (t(1, 2), t(0.9, 1.9)), HALF)
    first, second = 0.1 / 0.015**2, 0.1 / 0.1**2
    assert w.tolist() == pytest.approx([first / (first + second), second / (first + second)])
    nothing = blending_weights((t(0, 0), t(0, 0)), (t(0, 0), t(0, 0)), HALF)
    assert nothing.tolist() == [0.5, 0.5]


def test_what_is_not_known_has_no_weight() -> None:
    nan = math.nan
    w = blending_weights((t(1, nan), t(0.5, nan)), (t(1, nan), t(0.9, nan)), HALF)
    assert w.tolist() == [1, 0]
    w = blending_weights((t(1, 1), t(0.5, 0.5)), (t(1, nan), t(0.9, nan)), HALF)
    assert w.tolist() == [1, 0]
