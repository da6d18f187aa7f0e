"""Distances to prototypes and the coefficients from them, worked out by hand."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from equimodal.functional import pmr_coefficients, prototype_logits


def t(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def test_logits_are_minus_euclidean_distances() -> None:
    z = torch.tensor([[0.0, 0.0], [3.0, 0.0]], dtype=torch.float64)
    c = torch.tensor([[3.0, 4.0], [3.0, 0.0]], dtype=torch.float64)
    u = prototype_logits(z, c, torch.tensor([True, True]))
    assert u.flatten().tolist() == pytest.approx([-5, -3, -4, 0], abs=1e-5)
    assert prototype_logits(z, c, torch.tensor([True, False]))[:, 1].tolist() == [-math.inf] * 2


def test_a_sample_that_is_its_own_prototype_has_no_gradient() -> None:
    z = torch.ones(1, 2, dtype=torch.float64, requires_grad=True)
    for shift in (0.0, 1e-17, 1e-9):
        z.grad = None
        prototype_logits(z, torch.ones(1, 2, dtype=torch.float64) + shift, torch.tensor([True])).sum().backward()  # type: ignore[no-untyped-call]
        assert z.grad is not None
        assert z.grad.tolist() == [[0, 0]]


def test_two_modalities_have_the_published_coefficients() -> None:
    beta, gamma = pmr_coefficients(t(0.2, 0.3))  # rho = 2/3: beta = 1/rho - 1
    assert beta.tolist() == pytest.approx([0.5, 0])
    assert gamma.tolist() == pytest.approx([0, 0.5])
    assert [x.tolist() for x in pmr_coefficients(t(0.3, 0.3))] == [[0, 0], [0, 0]]
    assert [x.tolist() for x in pmr_coefficients(t(0.1, 0.9))] == [[1, 0], [0, 1]]  # clipped


def test_more_are_compared_with_the_best_and_the_worst() -> None:
    beta, gamma = pmr_coefficients(t(0.4, 0.5, 0.6))
    assert beta.tolist() == pytest.approx([0.5, 0.2, 0])
    assert gamma.tolist() == pytest.approx([0, 0.25, 0.5])


def test_a_modality_without_a_score_is_left_out() -> None:
    beta, gamma = pmr_coefficients(t(0.4, 0.0, 0.5), torch.tensor([True, False, True]))
    assert beta.tolist() == pytest.approx([0.25, 0, 0])
    assert gamma.tolist() == pytest.approx([0, 0, 0.25])
    nobody = torch.zeros(2, dtype=torch.bool)
    assert [x.tolist() for x in pmr_coefficients(t(0, 0), nobody)] == [[0, 0], [0, 0]]
    assert all(torch.isfinite(x).all() for x in pmr_coefficients(t(0, 0.5)))
