"""FAMO's weights and the gradient of its logits, by hand and against autograd."""

from __future__ import annotations

import math

import pytest
import torch

from equimodal.functional import rate_gradient, rate_weights

F64 = torch.float64


def test_weights_by_hand() -> None:
    """z = (3/4, 1/4), losses 3 and 1: shares 1/4 and 1/4."""
    logits, losses = torch.tensor([math.log(3.0), 0.0], dtype=F64), torch.tensor([3.0, 1.0], dtype=F64)
    assert rate_weights(logits, losses).tolist() == pytest.approx([0.5, 0.5], rel=1e-7)
    known = torch.tensor([True, False])
    assert rate_weights(logits, losses, known).tolist() == [1.0, 0.0]
    assert rate_weights(logits, losses, ~known).tolist() == [0.0, 1.0]
    assert rate_weights(logits, losses, known & ~known).tolist() == [0.0, 0.0]


def test_the_gradient_is_that_of_the_softmax() -> None:
    """Of sum_k z_k delta_k, through autograd."""
    logits = torch.tensor([0.3, -0.5, 1.1], dtype=F64, requires_grad=True)
    before, after = torch.tensor([1.0, 2.0, 0.5], dtype=F64), torch.tensor([0.9, 1.0, 0.6], dtype=F64)
    change = torch.log(before + 1e-8) - torch.log(after + 1e-8)
    (expected,) = torch.autograd.grad((torch.softmax(logits, 0) * change).sum(), logits)
    found = rate_gradient(logits.detach(), before, after)
    assert torch.allclose(found, expected, atol=1e-14)
    assert found.sum().item() == pytest.approx(0, abs=1e-15)
    known = torch.tensor([True, True, False])
    change = torch.where(known, change, 0.0)
    (expected,) = torch.autograd.grad((torch.softmax(logits, 0) * change).sum(), logits)
    assert torch.allclose(rate_gradient(logits.detach(), before, after, known), expected, atol=1e-14)
