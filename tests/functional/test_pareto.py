"""The direction of two gradients, worked out by hand."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from equimodal.functional import norm_restoration, pareto_weights

F64 = torch.float64


def gram(first: list[float], second: list[float]) -> Tensor:
    g = torch.tensor([first, second], dtype=F64)
    return g @ g.T


def test_conflicting_gradients_get_the_shortest_combination() -> None:
    # g0 = (1, 0), g1 = (-1/2, 1): w = <g1 - g0, g1> / |g0 - g1|^2 = (1.25 + 0.5) / (1 + 1.25 + 1) = 7/13
    products = gram([1, 0], [-0.5, 1])
    weights = pareto_weights(products)
    assert weights.tolist() == pytest.approx([7 / 13, 6 / 13], abs=1e-15)
    # h = 2 (7/13 g0 + 6/13 g1) = (8/13, 12/13), |h|^2 = 16/13; G = (1/2, 1), |G|^2 = 5/4
    assert float(norm_restoration(products, weights)) == pytest.approx(math.sqrt(5 / 4 * 13 / 16), abs=1e-14)
    # the direction descends in both losses
    h = 14 / 13 * torch.tensor([1.0, 0], dtype=F64) + 12 / 13 * torch.tensor([-0.5, 1], dtype=F64)
    assert float(h @ torch.tensor([1.0, 0], dtype=F64)) > 0
    assert float(h @ torch.tensor([-0.5, 1], dtype=F64)) > 0


def test_gradients_that_agree_are_added() -> None:
    products = gram([1, 0], [3, 1])
    assert pareto_weights(products).tolist() == [0.5, 0.5]
    assert float(norm_restoration(products, pareto_weights(products))) == 1
    same = gram([2, 1], [2, 1])
    assert pareto_weights(same).tolist() == [0.5, 0.5]


def test_a_right_angle_counts_as_a_conflict() -> None:
    assert pareto_weights(gram([1, 0], [0, 1])).tolist() == pytest.approx([0.5, 0.5])
    assert pareto_weights(gram([1, 0], [0, 2])).tolist() == pytest.approx([0.8, 0.2])  # 4 / (1 + 4)


@pytest.mark.parametrize("c", [1.0, 0.25, 4.0])
def test_opposite_gradients_have_a_finite_step(c: float) -> None:
    products = gram([1, 2], [-c, -2 * c])
    weights = pareto_weights(products)
    assert float(weights[0]) == pytest.approx(c / (1 + c))  # h = 0
    assert float(norm_restoration(products, weights)) == (1 if c == 1 else 10)
    assert float(norm_restoration(products, weights, maximum=3.0)) == (1 if c == 1 else 3)


def test_zero_gradients() -> None:
    nothing, one = gram([0, 0], [0, 0]), gram([0, 0], [0, 3])
    assert pareto_weights(nothing).tolist() == [0.5, 0.5]
    assert float(norm_restoration(nothing, pareto_weights(nothing))) == 1
    assert pareto_weights(one).tolist() == [1, 0]  # the shortest is the one that is zero
    assert torch.isfinite(norm_restoration(one, pareto_weights(one)))


def test_the_norm_never_shrinks_by_it() -> None:
    torch.manual_seed(0)
    for _ in range(200):
        g = torch.randn(2, 3, dtype=F64)
        products = g @ g.T
        w = pareto_weights(products)
        h = 2 * (w[0] * g[0] + w[1] * g[1])
        restored = norm_restoration(products, w, maximum=1e9) * h.norm()
        assert float(restored) == pytest.approx(float((g[0] + g[1]).norm()), rel=1e-9)
        assert min(float(h @ g[0]), float(h @ g[1])) > -1e-12
