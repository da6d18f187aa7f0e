"""Distances between predictions and the contrastive loss between modalities, with numbers worked out by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from equimodal.errors import MethodError
from equimodal.functional import binary_jensen_shannon, cross_modal_contrast, jensen_shannon
from tests import formulas


def test_jensen_shannon_of_known_distributions() -> None:
    """p = (1/2, 1/2) and q = (1, 0): m = (3/4, 1/4)."""
    p, q = torch.tensor([[0.0, 0.0]], dtype=torch.float64), torch.tensor([[800.0, -800.0]], dtype=torch.float64)
    by_hand = 0.5 * (0.5 * math.log(0.5 / 0.75) + 0.5 * math.log(0.5 / 0.25)) + 0.5 * math.log(1 / 0.75)
    assert float(jensen_shannon(p, q)) == pytest.approx(by_hand, abs=1e-12)
    assert float(jensen_shannon(q, -q)) == pytest.approx(math.log(2), abs=1e-12)
    assert float(jensen_shannon(q, q)) == 0


def test_jensen_shannon_against_a_loop() -> None:
    g = torch.Generator().manual_seed(0)
    a, b = torch.randn(2, 5, 4, 3, generator=g, dtype=torch.float64).unbind()
    p, q = formulas.softmax(a.numpy(), 1), formulas.softmax(b.numpy(), 1)
    m = (p + q) / 2
    expected = 0.5 * (p * np.log(p / m) + q * np.log(q / m)).sum(1)
    found = jensen_shannon(a, b)
    assert found.shape == (5, 3)
    assert np.abs(found.numpy() - expected).max() < 1e-12
    assert torch.equal(found, jensen_shannon(b, a))
    assert float(found.max()) < math.log(2)


def test_a_label_is_a_choice_of_two() -> None:
    """sigma(0) = 1/2 against sigma(800) = 1, as above."""
    z = torch.tensor([[0.0, 800.0]], dtype=torch.float64)
    by_hand = 0.5 * (0.5 * math.log(0.5 / 0.75) + 0.5 * math.log(0.5 / 0.25)) + 0.5 * math.log(1 / 0.75)
    found = binary_jensen_shannon(z, z.flip(1))
    assert found[0].tolist() == pytest.approx([by_hand, by_hand], abs=1e-12)


def test_gradients_stay_finite_far_out() -> None:
    z = torch.tensor([[1e4, -1e4]], requires_grad=True)
    torch.autograd.backward(jensen_shannon(z, -z.detach()).sum())
    assert z.grad is not None
    assert bool(z.grad.isfinite().all())


def contrast_by_loop(a: torch.Tensor, b: torch.Tensor, y: list[int], valid: list[bool], tau: float) -> float:
    rows = [i for i, v in enumerate(valid) if v]
    total = 0.0
    for first, second in ((a, b), (b, a)):
        for i in rows:
            s = {j: float(torch.cosine_similarity(first[i], second[j], dim=0)) / tau for j in rows}
            all_ = math.log(sum(math.exp(v) for v in s.values()))
            same = [j for j in rows if y[j] == y[i]]
            total -= sum(s[j] - all_ for j in same) / len(same) / len(rows) / 2
    return total


def test_contrast_against_a_loop() -> None:
    g = torch.Generator().manual_seed(1)
    a, b = torch.randn(2, 6, 4, generator=g, dtype=torch.float64).unbind()
    y, valid = [0, 1, 0, 2, 1, 0], [True, True, True, False, True, False]
    target = torch.tensor(y)
    for present in (valid, [True] * 6, [False] * 5 + [True]):
        spoilt = a.masked_fill(~torch.tensor(present)[:, None], torch.nan)
        found = cross_modal_contrast(spoilt, b, target[:, None] == target, torch.tensor(present), 0.5)
        assert float(found) == pytest.approx(contrast_by_loop(a, b, y, present, 0.5), abs=1e-12)


def test_contrast_without_a_sample_is_nothing() -> None:
    z = torch.randn(3, 2, requires_grad=True)
    found = cross_modal_contrast(z, z, torch.eye(3, dtype=torch.bool), torch.zeros(3, dtype=torch.bool))
    torch.autograd.backward(found)
    assert float(found.detach()) == 0
    assert z.grad is not None
    assert not bool(z.grad.any())


def test_shapes_are_checked() -> None:
    with pytest.raises(MethodError, match="equal width"):
        cross_modal_contrast(torch.zeros(2, 3), torch.zeros(2, 4), torch.eye(2, dtype=torch.bool))
    with pytest.raises(MethodError, match=r"\(B, C, \.\.\.\)"):
        jensen_shannon(torch.zeros(2, 3), torch.zeros(2, 4))
