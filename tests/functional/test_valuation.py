"""Shapley values and copies: the table for two modalities, and three by the definition."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

from equimodal.errors import MethodError
from equimodal.functional import bernoulli_draws, copies_alone, distance_from_uniform, shapley_values, weakest_share


@pytest.mark.parametrize(
    ("right", "expected"),
    [((0, 0, 0), (0, 0)), ((1, 0, 0), (0.5, -0.5)), ((0, 1, 0), (-0.5, 0.5)), ((1, 1, 0), (0, 0)),
     ((0, 0, 1), (1, 1)), ((1, 0, 1), (1.5, 0.5)), ((0, 1, 1), (0.5, 1.5)), ((1, 1, 1), (1, 1))],
)  # fmt: skip
def test_two_modalities(right: tuple[int, int, int], expected: tuple[float, float]) -> None:
    """Right alone, right alone, right together."""
    values = torch.tensor([[0.0, right[0], right[1], 2.0 * right[2]]])
    assert shapley_values(values)[0].tolist() == list(expected)


def test_three_by_orders() -> None:
    """The mean over the 6 orders in which they may come of what each adds."""
    values = torch.randn(4, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    expected = torch.zeros(4, 3, dtype=torch.float64)
    for order in itertools.permutations(range(3)):
        there = 0
        for m in order:
            expected[:, m] += (values[:, there | 1 << m] - values[:, there]) / math.factorial(3)
            there |= 1 << m
    assert torch.allclose(shapley_values(values), expected, atol=1e-12)


def test_a_player_that_adds_nothing() -> None:
    values = torch.tensor([[0.0, 1.0, 0.0, 2.0, 0.0, 1.0, 0.0, 2.0]])  # the third
    assert shapley_values(values).tolist() == [[1.5, 0.5, 0.0]]


def test_copies() -> None:
    worth = torch.tensor([-0.5, -0.1, 0.0, 0.39, 0.4, 0.5, 0.99, 1.0, 1.5])
    assert copies_alone(worth).tolist() == [3, 0, 2, 2, 0, 1, 1, 0, 0]


def test_weakest_share_by_hand() -> None:
    """Means 1, 1/2 and 1/4, the last over two samples that have it: g = 3/4 - 1/4, and a share of 2/3 alpha / 2."""
    worth = torch.tensor([[2.0, 0.5, 0.0], [1.0, 1.0, 0.5], [0.0, 0.0, 9.0]], dtype=torch.float64)
    there = torch.tensor([[True, True, True], [True, True, True], [True, True, False]])
    weakest, share = weakest_share(worth, there, 0.75)
    assert weakest == 2
    assert share == pytest.approx(0.25, abs=1e-12)
    assert weakest_share(worth, there, 30.0)[1] == 1.0
    assert weakest_share(torch.ones(2, 2), torch.ones(2, 2, dtype=torch.bool), 1.0) == (0, 0.0)  # the first of equals


def test_draws_by_chance() -> None:
    """One number per sample that can be drawn, in their order; nobody else."""
    able = torch.arange(400) % 4 != 1
    drawn = bernoulli_draws(able, 0.3, torch.Generator().manual_seed(3))
    assert drawn[able].tolist() == (torch.rand(300, generator=torch.Generator().manual_seed(3)) < 0.3).long().tolist()
    assert int(drawn[~able].sum()) == 0
    assert int(bernoulli_draws(able, 0.0, torch.Generator()).sum()) == 0


def test_what_is_no_table() -> None:
    for values in (torch.zeros(2, 3), torch.zeros(2, 1), torch.zeros(4)):
        with pytest.raises(MethodError, match="2\\^M"):
            shapley_values(values)


def test_distance_from_uniform_by_hand() -> None:
    """p = (3/4, 1/4): log 2 - H = 3/4 log(3/2) + 1/4 log(1/2)."""
    output = torch.tensor([[math.log(3.0), 0.0]], dtype=torch.float64)
    expected = 0.75 * math.log(1.5) + 0.25 * math.log(0.5)
    output[0, 0] = torch.tensor(3.0, dtype=torch.float64).log()
    assert float(distance_from_uniform(output)) == pytest.approx(expected, abs=1e-12)
    assert float(distance_from_uniform(output, labels=True)) == pytest.approx(expected, abs=1e-12)
    assert float(distance_from_uniform(torch.zeros(1, 5))) == pytest.approx(0, abs=1e-6)
