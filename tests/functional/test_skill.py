"""Formulas of the fitted fusion, by hand and against plain loops."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from equimodal.functional import (
    constant_cross_entropy,
    cross_entropy_at,
    fit_offset,
    fit_scale_and_offsets,
    fit_slope,
    pool_gaussians,
    present_weights,
    skill,
    skill_weights,
    soft_dice,
    unexplained_share,
    weighted_sum,
)

F64 = torch.float64


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=F64)


def test_skill_is_the_share_of_the_loss_that_is_saved() -> None:
    assert skill(0.25, 1.0) == 0.75
    assert skill(1.5, 1.0) == 0
    assert skill(0.5, 0.0) == 0  # a constant target: nothing can be saved
    assert skill(math.nan, 1.0) == skill(math.inf, 1.0) == 0


def test_weights_by_hand() -> None:
    assert skill_weights([0.5, 0.25, 0.0]) == [16 / 17, 1 / 17, 0.0]
    assert skill_weights([0.4, 0.2], power=1) == pytest.approx([2 / 3, 1 / 3], abs=1e-15)
    assert skill_weights([0.0, 0.0, 0.0, 0.0]) == [0.25] * 4
    assert skill_weights([1e-90, 0.0]) == [1.0, 0.0]  # the fourth power alone would be 0


def test_present_weights_by_hand() -> None:
    b = {"x": torch.tensor([1, 1, 0, 0]).bool(), "y": torch.tensor([1, 0, 1, 0]).bool(), "z": torch.ones(4).bool()}
    b["z"] = torch.tensor([1, 0, 1, 0]).bool()
    found = present_weights({"x": 0.6, "y": 0.4, "z": 0.0}, b, F64)
    # all; x alone; y and z, of which z weighs nothing; nobody
    assert torch.stack(list(found.values())).T.tolist() == [[0.6, 0.4, 0.0], [1, 0, 0], [0, 1, 0], [0, 0, 0]]
    only = present_weights({"x": 1.0, "y": 0.0, "z": 0.0}, b, F64)
    assert [float(only[e][2]) for e in "xyz"] == [0.0, 0.5, 0.5]  # those present weigh nothing: equal


def test_a_sum_does_not_read_what_weighs_nothing() -> None:
    values = {"x": torch.tensor([[1.0, 2.0], [3.0, 4.0]]), "y": torch.tensor([[math.nan, 1.0], [1.0, math.inf]])}
    weights = {"x": torch.tensor([1.0, 1.0]), "y": torch.tensor([0.0, 0.0])}
    assert torch.equal(weighted_sum(values, weights), values["x"])


def test_cross_entropies_against_a_loop() -> None:
    z, y = randn(11, 3), torch.arange(11) % 3
    q = torch.nn.functional.one_hot(y, 3).to(F64) * torch.tensor([1.0, 2.0, 0.5], dtype=F64)
    total, mass, counts = 0.0, 0.0, [0.0, 0.0, 0.0]
    for i in range(11):
        row = [1.7 * float(v) for v in z[i]]
        weight = float(q[i, y[i]])
        total -= weight * (row[int(y[i])] - math.log(sum(math.exp(v) for v in row)))
        mass += weight
        counts[int(y[i])] += weight
    assert cross_entropy_at(z, q, 1.7) == pytest.approx(total / mass, abs=1e-12)
    constant = -sum(c * math.log(c / mass) for c in counts) / mass
    assert constant_cross_entropy(q) == pytest.approx(constant, abs=1e-12)
    assert constant_cross_entropy(q[:, [0]]) == 0  # one class only
    # labels: every label has a constant of its own
    two = torch.stack([torch.stack([1 - v, v], -1) for v in torch.tensor([[1.0, 0.0], [1.0, 1.0]])])
    assert constant_cross_entropy(two) == pytest.approx(math.log(2) / 2, abs=1e-12)


@pytest.mark.parametrize("prior", [0.0, 1.0, 50.0])
def test_the_slope_is_where_a_search_finds_it(prior: float) -> None:
    z, y = 3 * randn(40, 3), torch.randint(0, 3, (40,), generator=torch.Generator().manual_seed(1))
    z[torch.arange(40), y] += 1
    q = torch.nn.functional.one_hot(y, 3).to(F64)

    def objective(beta: float) -> float:
        return cross_entropy_at(z, q, beta) + prior / 80 * (beta - 1) ** 2

    low, high = 0.0, 20.0
    for _ in range(200):  # convex: thirds
        a, b = low + (high - low) / 3, high - (high - low) / 3
        low, high = (low, b) if objective(a) < objective(b) else (a, high)
    assert fit_slope(z, q, prior) == pytest.approx((low + high) / 2, abs=1e-6)


def test_slopes_at_their_bounds() -> None:
    q = torch.eye(2, dtype=F64)
    right = 3 * torch.eye(2, dtype=F64)
    assert fit_slope(-right, q) == 0  # wrong: say nothing
    assert cross_entropy_at(right, q, fit_slope(right, q)) < 1e-12  # separable: as bold as numbers can tell
    assert fit_slope(right, q) <= 20
    assert fit_slope(right, q, 1.0) < 5
    assert fit_slope(torch.zeros(2, 2), q) == 1
    assert fit_slope(right, torch.zeros(2, 2)) == 1  # nothing counts


def test_numbers_by_hand() -> None:
    f, y = torch.tensor([[1.0, 0.0], [3.0, 0.0]]), torch.tensor([[2.0, 5.0], [6.0, 5.0]])
    assert fit_offset(f, y).tolist() == [2.0, 5.0]
    # the first number has variance 4 and squared error (1 + 9) / 2; the second does not vary
    assert unexplained_share(f, y) == pytest.approx(5 / 4, abs=1e-15)
    assert unexplained_share(f[:, 1:], y[:, 1:]) == 1
    assert unexplained_share(f[:1], y[:1]) == 1


def test_gaussians_against_a_loop() -> None:
    z = {e: randn(5, 4, seed=i) for i, e in enumerate("abc")}
    w = torch.softmax(randn(3, 5, seed=9), 0)
    found = pool_gaussians(z, dict(zip("abc", w, strict=True)))
    for i in range(5):
        for d in range(2):
            mean = sum(float(w[k, i] * z[e][i, d]) for k, e in enumerate("abc"))
            second = sum(
                float(w[k, i]) * (math.exp(float(z[e][i, 2 + d])) + float(z[e][i, d]) ** 2) for k, e in enumerate("abc")
            )
            assert float(found[i, d]) == pytest.approx(mean, abs=1e-12)
            assert float(found[i, 2 + d]) == pytest.approx(math.log(second - mean**2), abs=1e-10)


def test_scale_and_offset_are_those_of_the_data() -> None:
    """Log odds that are right but for a scale and an offset: both come back."""
    g = torch.Generator().manual_seed(0)
    odds = 2 * torch.randn(6000, generator=g, dtype=F64)
    y = (torch.rand(6000, generator=g, dtype=F64) < torch.sigmoid(odds)).long()
    z = torch.stack([torch.zeros_like(odds), 4 * odds + 3], 1)
    a, b, value = fit_scale_and_offsets(torch.log_softmax(z, 1), lambda c: torch.nn.functional.cross_entropy(c, y))
    assert a == pytest.approx(0.25, rel=0.08)
    assert b[0] == 0
    assert b[1] == pytest.approx(-0.75, abs=0.1)
    assert value <= float(torch.nn.functional.cross_entropy(torch.stack([0 * odds, odds], 1), y))


def test_scale_and_offset_of_dice() -> None:
    """Of a loss that is no sum over pixels, against a grid."""
    g = torch.Generator().manual_seed(0)
    y = (torch.rand(4, 50, 1, generator=g) < 0.2).long()
    z = torch.stack([torch.zeros(4, 50, 1, dtype=F64), 0.3 * (2.0 * y - 1) + 0.3 * randn(4, 50, 1) - 2], 1)
    truth = torch.stack([1.0 - y, y], 1).to(F64)

    def loss(c: Tensor) -> Tensor:
        dice, _ = soft_dice(torch.softmax(c, 1), truth, over_batch=True, smooth=1e-5)
        return 1 - dice[..., 1].mean() + torch.nn.functional.cross_entropy(c, y)

    logs = torch.log_softmax(z, 1)
    a, b, value = fit_scale_and_offsets(logs, loss)
    grid = min(
        float(loss(x * logs + torch.tensor([0.0, o], dtype=F64).reshape(1, 2, 1, 1)))
        for x in torch.linspace(0, 12, 49).tolist()
        for o in torch.linspace(-3, 12, 61).tolist()
    )
    assert value <= grid + 1e-3
    assert a > 1
    again = fit_scale_and_offsets(logs, loss, (a, b))
    assert again[2] <= value + 1e-9
    flat = fit_scale_and_offsets(logs, loss, constant=True)
    assert flat[0] == 0
    share = float(y.double().mean())
    chosen = fit_scale_and_offsets(logs, lambda c: torch.nn.functional.cross_entropy(c, y), constant=True)
    assert chosen[1][1] == pytest.approx(math.log(share / (1 - share)), abs=1e-4)
