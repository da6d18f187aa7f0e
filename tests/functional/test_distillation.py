"""The divergence of a student from its teacher, with numbers worked out by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from equimodal.functional import distillation
from tests import formulas


def test_by_hand() -> None:
    """p^T = (3/4, 1/4), p = (1/2, 1/2): 3/4 log 3/2 + 1/4 log 1/2."""
    teacher = torch.tensor([[math.log(3.0), 0.0]], dtype=torch.float64)
    found = distillation(teacher, torch.zeros(1, 2, dtype=torch.float64))
    assert float(found) == pytest.approx(0.75 * math.log(1.5) + 0.25 * math.log(0.5), abs=1e-12)


def test_against_a_loop_with_a_temperature() -> None:
    g = torch.Generator().manual_seed(0)
    t, s = torch.randn(2, 4, 3, 5, generator=g, dtype=torch.float64).unbind()
    p, q = formulas.softmax(t.numpy() / 3, 1), formulas.softmax(s.numpy() / 3, 1)
    assert np.abs(distillation(t, s, 3.0).numpy() - 9 * (p * np.log(p / q)).sum(1)).max() < 1e-12


def test_the_teacher_is_a_constant() -> None:
    t, s = torch.randn(2, 3, requires_grad=True), torch.randn(2, 3, requires_grad=True)
    torch.autograd.backward(distillation(t, s).sum())
    assert t.grad is None
    assert s.grad is not None
