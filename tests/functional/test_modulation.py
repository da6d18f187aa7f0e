"""Coefficients from scores, and the scores, worked out by hand."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from equimodal.functional import (
    agm_coefficients,
    discrepancy_ratios,
    mlb_coefficients,
    ogm_coefficients,
    opm_probabilities,
    relative_strengths,
    true_label_probability,
    true_probability,
)


def t(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def near(found: Tensor, *expected: float) -> bool:
    return found.tolist() == pytest.approx(expected, abs=1e-12)


# ---- ratios ---------------------------------------------------------------------------------------------------------


def test_two_modalities_have_the_ratio_and_its_inverse() -> None:
    assert near(discrepancy_ratios(t(0.6, 0.3)), 2, 0.5)
    assert near(discrepancy_ratios(t(0.4, 0.4)), 1, 1)


def test_more_have_the_mean_of_the_ratios() -> None:
    # (0.6/0.3 + 0.6/0.03) / 2 = 11: one very weak modality counts, which the ratio to the mean (3.64) would hide
    assert near(discrepancy_ratios(t(0.6, 0.3, 0.03)), 11, (0.5 + 10) / 2, (0.05 + 0.1) / 2)
    assert discrepancy_ratios(t(*[0.37] * 5)).tolist() == [1.0] * 5


def test_a_modality_without_a_score_is_compared_with_none() -> None:
    known = torch.tensor([True, False, True])
    assert near(discrepancy_ratios(t(0.6, 0.0, 0.2), known), 3, 1, 1 / 3)
    assert near(discrepancy_ratios(t(0.6, 0.0, 0.0), torch.tensor([True, False, False])), 1, 1, 1)
    assert near(discrepancy_ratios(t(0.0, 0.0)), 1, 1)
    assert torch.isfinite(discrepancy_ratios(t(0.5, 0.0))).all()


# ---- OGM ------------------------------------------------------------------------------------------------------------


def test_ogm_damps_what_is_ahead_and_only_that() -> None:
    assert near(ogm_coefficients(t(2, 0.5), 0.5), 1 - math.tanh(1), 1)  # 0.2384
    assert near(ogm_coefficients(t(1, 1), 0.8), 1, 1)  # a tie
    assert float(ogm_coefficients(t(1 + 1e-9, 1), 0.8)[0]) == pytest.approx(1 - math.tanh(0.8))  # a jump, to 0.336
    assert near(ogm_coefficients(t(1e12, 0), 0.8), 0, 1)


# ---- AGM ------------------------------------------------------------------------------------------------------------


def test_relative_strengths() -> None:
    # losses 1 and 2: exp(2 * (1.5 - 1)) = e, the published form with the mean over both
    assert near(relative_strengths(t(-1, -2)), math.e, 1 / math.e)
    # of three the factor 2 becomes M / (M - 1) = 1.5
    assert near(relative_strengths(t(-1, -2, -3)), math.exp(1.5), 1, math.exp(-1.5))
    known = torch.tensor([True, False, True])
    assert near(relative_strengths(t(-1, -50, -2), known), math.e, 1, 1 / math.e)
    assert near(relative_strengths(t(-1, -50, -2), torch.tensor([False, False, True])), 1, 1, 1)


def test_agm_keeps_the_course_and_is_capped() -> None:
    assert near(agm_coefficients(t(1.5, 0.5), t(1.5, 0.5), 2.0, 10.0), 1, 1)
    assert near(agm_coefficients(t(2, 0.5), t(1, 1), 2.0, 10.0), math.exp(-2), math.e)
    assert near(agm_coefficients(t(0, 0), t(12, 9), 1.0, 10.0) / math.exp(10), 1, math.exp(-1))


# ---- OPM and MLB ----------------------------------------------------------------------------------------------------


def test_opm_drops_what_is_ahead() -> None:
    assert near(opm_probabilities(t(2, 0.5), 0.5, 0.5), 0.5 * (1 + 0.5 * math.tanh(1)), 0)
    assert near(opm_probabilities(t(1, 1), 0.5, 0.5), 0, 0)
    assert float(opm_probabilities(t(1 + 1e-9, 1), 0.5, 0.5)[0]) == pytest.approx(0.5)  # a jump
    assert near(opm_probabilities(t(100, 0), 0.9, 0.5), 1, 0)


def test_mlb_is_continuous_and_bounded() -> None:
    assert near(mlb_coefficients(t(2, 0.5), 1.0, 2.0), 1 + math.tanh(1), 1 - math.tanh(0.5))
    assert near(mlb_coefficients(t(2, 0.5), 1.0, 10.0), 1 + 9 * math.tanh(1), 1 - math.tanh(0.5))
    assert near(mlb_coefficients(t(1, 1), 3.0, 10.0), 1, 1)
    assert near(mlb_coefficients(t(1 + 1e-14, 1 - 1e-14), 1.0, 10.0), 1, 1)
    assert near(mlb_coefficients(t(1e9, 0), 1.0, 2.0), 2, 1 - math.tanh(1))
    assert near(mlb_coefficients(t(2, 0.5), 1.0, 1.0), 1, 1 - math.tanh(0.5))


# ---- confidences ----------------------------------------------------------------------------------------------------


def test_the_probability_of_the_truth() -> None:
    p = torch.tensor([[0.7, 0.2, 0.1], [0.1, 0.3, 0.6]], dtype=torch.float64)
    assert near(true_probability(p, torch.tensor([0, 1])), 0.7, 0.3)
    assert near(true_probability(p, torch.tensor([[0.5, 0.5, 0], [0, 0, 1]])), 0.45, 0.6)  # soft targets
    pixels = torch.stack([p, 1 - p], 2)  # (2, 3, 2)
    assert true_probability(pixels, torch.tensor([[0, 1], [2, 2]])).tolist() == [[0.7, 0.8], [0.6, pytest.approx(0.4)]]


def test_the_probability_of_each_label() -> None:
    p = torch.tensor([[0.7, 0.2]], dtype=torch.float64)
    assert near(true_label_probability(p, torch.tensor([[1, 0]]))[0], 0.7, 0.8)
    assert near(true_label_probability(p, torch.tensor([[0.5, 0.5]]))[0], 0.5, 0.5)
