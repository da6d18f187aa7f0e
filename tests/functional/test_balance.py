"""CGGM's formulas: balance terms, closed-form gradients, direction loss."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from equimodal import Classification
from equimodal.errors import MethodError
from equimodal.functional import (
    balance_terms,
    cosine_similarity,
    direction_loss,
    output_weight_gradient,
    softmax_cross_entropy_residual,
)

F64 = torch.float64


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=F64)


def test_balance_by_hand() -> None:
    # delta (0.03, 0.01): S = 0.04, B = (0.01, 0.03) / 0.04
    b = balance_terms(torch.tensor([0.03, 0.01], dtype=F64), floor=1e-15)
    assert torch.allclose(b, torch.tensor([0.25, 0.75], dtype=F64), atol=1e-12)
    raw = balance_terms(torch.tensor([0.03, -0.01, 0.02], dtype=F64), "released")
    assert np.allclose(raw.numpy(), (0.04 + 1e-8 - np.array([0.03, -0.01, 0.02])) / (0.04 + 1e-8), atol=1e-14)


def test_released_balance_is_as_wild_as_published() -> None:
    wild = balance_terms(torch.tensor([0.05, -0.05], dtype=F64), "released")
    assert wild.abs().max() > 1e6
    assert wild[0] < 0 < wild[1]
    assert torch.isfinite(balance_terms(torch.zeros(3, dtype=F64), "released")).all()


@pytest.mark.parametrize("count", [2, 3, 5])
@pytest.mark.parametrize("seed", range(5))
def test_balance_sums_to_one_less_than_the_number_of_modalities(count: int, seed: int) -> None:
    delta = 0.1 * randn(count, seed=seed)
    b = balance_terms(delta)
    assert abs(float(b.sum()) - (count - 1)) < 1e-12
    assert (b >= 0).all()
    # the reference: the equation on clamped improvements
    d = np.maximum(delta.numpy(), 0) + 1e-6
    reference = (d.sum() - d) / d.sum()
    if np.maximum(delta.numpy(), 0).sum() > 1e-8:
        assert np.allclose(b.numpy(), reference, atol=1e-12)


@pytest.mark.parametrize("count", [2, 3, 5])
def test_equal_improvements_give_equal_terms(count: int) -> None:
    for value in (-1.0, 0.0, 1e-9, 0.37, 1.0):
        b = balance_terms(torch.full((count,), value, dtype=F64))
        assert (b == b[0]).all()
        assert abs(float(b[0]) - (count - 1) / count) < 1e-14


def test_balance_is_bounded_and_order_preserving() -> None:
    b = balance_terms(torch.tensor([0.9, 0.001, 0.0], dtype=F64), maximum=0.8)
    assert abs(float(b.sum()) - 2) < 1e-12
    plain = balance_terms(torch.tensor([0.5, 0.2, 0.1], dtype=F64))
    assert plain[0] < plain[1] < plain[2]
    assert (
        balance_terms(torch.tensor([-0.5, 0.2], dtype=F64)) == balance_terms(torch.tensor([0.0, 0.2], dtype=F64))
    ).all()


def test_permuted_improvements_give_permuted_terms() -> None:
    delta, order = randn(5).abs(), torch.tensor([3, 1, 4, 0, 2])
    assert torch.allclose(balance_terms(delta)[order], balance_terms(delta[order]), atol=1e-14)


def test_below_the_threshold_all_are_equal() -> None:
    b = balance_terms(torch.tensor([0.02, 0.0, 0.0], dtype=F64), threshold=0.05)
    assert torch.allclose(b, torch.full((3,), 2 / 3, dtype=F64), atol=1e-15)


@pytest.mark.parametrize("bad", [torch.zeros(1), torch.zeros(2, 2), torch.tensor(1.0)])
def test_balance_refuses_other_shapes(bad: Tensor) -> None:
    with pytest.raises(MethodError, match="`improvements`"):
        balance_terms(bad)
    with pytest.raises(MethodError, match="`variant`"):
        balance_terms(torch.zeros(2), "other")  # type: ignore[arg-type]


def closed_form_case(kind: str) -> tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]:
    """A loss of the output and its residual."""
    y = torch.tensor([0, 2, 1, 1, 3, 0, 2])
    soft = torch.softmax(randn(7, 4, seed=5), 1)
    real = randn(7, 4, seed=6)
    tasks = {
        "ce": (Classification(4), y),
        "weighted": (Classification(4, class_weight=[0.2, 1.0, 3.0, 0.5]), y),
        "smooth": (Classification(4, label_smoothing=0.1), y),
        "soft": (Classification(4), soft),
        "all": (Classification(4, class_weight=[0.2, 1.0, 3.0, 0.5], label_smoothing=0.2), soft),
        "weighted+smooth": (Classification(4, class_weight=[0.2, 1.0, 3.0, 0.5], label_smoothing=0.2), y),
    }
    if kind == "mse":
        return (lambda z: ((z - real) ** 2).mean(0).sum()), (lambda z: 2 * (z - real) / 7)
    if kind == "l1":
        return (lambda z: (z - real).abs().sum() / 7), (lambda z: torch.sign(z - real) / 7)
    task, target = tasks[kind]
    return (lambda z: task.loss(z, target)), (lambda z: task.residual(z, target))


@pytest.mark.parametrize("kind", ["ce", "weighted", "smooth", "soft", "all", "weighted+smooth", "mse", "l1"])
def test_closed_form_gradient_equals_autograds(kind: str) -> None:
    loss, residual = closed_form_case(kind)
    u = randn(7, 5, seed=1)
    layer = nn.Linear(5, 4, dtype=F64)
    z = layer(u)
    (expected,) = torch.autograd.grad(loss(z), layer.weight)
    assert (output_weight_gradient(residual(z), u) - expected).abs().max() < 1e-10


@pytest.mark.parametrize("kind", ["ce", "weighted", "smooth", "soft"])
def test_direction_loss_has_the_true_gradient(kind: str) -> None:
    """The closed form against double backward and against finite differences."""
    loss, residual = closed_form_case(kind)
    x = randn(7, 3, seed=2)
    inner, outer = nn.Linear(3, 5, dtype=F64), nn.Linear(5, 4, dtype=F64)
    own = [randn(4, 5, seed=s) for s in (7, 8)]
    b = torch.tensor([0.3, 0.7], dtype=F64)
    parameters = [inner.weight, inner.bias, outer.weight, outer.bias]

    def closed() -> Tensor:
        u = torch.tanh(inner(x))
        return direction_loss(output_weight_gradient(residual(outer(u)), u), own, b)

    def oracle() -> Tensor:
        (g,) = torch.autograd.grad(loss(outer(torch.tanh(inner(x)))), outer.weight, create_graph=True)
        cosines = torch.stack([(g * o).sum() / (g.norm() * o.norm()) for o in own])
        return (b.abs() - b * cosines).sum() / 2

    assert abs(float((closed() - oracle()).detach())) < 1e-12
    for ours, theirs in zip(
        torch.autograd.grad(closed(), parameters), torch.autograd.grad(oracle(), parameters), strict=True
    ):
        assert (ours - theirs).abs().max() < 1e-10
    (gradient,) = torch.autograd.grad(closed(), inner.weight)
    step = 1e-6
    for i, j in ((0, 0), (3, 2), (4, 1)):
        with torch.no_grad():
            inner.weight[i, j] += step
            up = closed()
            inner.weight[i, j] -= 2 * step
            down = closed()
            inner.weight[i, j] += step
        assert abs(float((up - down).detach() / (2 * step) - gradient[i, j])) < 1e-8


def test_direction_loss_by_hand_and_its_bounds() -> None:
    g = torch.tensor([[1.0, 0.0]], dtype=F64)
    diagonal = torch.tensor([[1.0, 1.0]], dtype=F64)
    b = torch.tensor([0.6, 0.4], dtype=F64)
    # cos = 1 and 1/sqrt 2
    assert abs(float(direction_loss(g, [g, diagonal], b)) - (0.6 - 0.6 + 0.4 - 0.4 / 2**0.5) / 2) < 1e-15
    assert float(direction_loss(g, [g, 2 * g], b)) == 0
    assert abs(float(direction_loss(g, [-g, -g], b)) - 1.0) < 1e-15
    assert abs(float(direction_loss([g, diagonal], [g, diagonal], -b)) - 1.0) < 1e-15


def test_direction_loss_treats_unimodal_gradients_and_balance_as_constants() -> None:
    g, own = randn(2, 3).requires_grad_(), randn(2, 3, seed=1).requires_grad_()
    b = torch.tensor([1.0], dtype=F64, requires_grad=True)
    direction_loss(g, [own], b).backward()  # type: ignore[no-untyped-call]
    assert g.grad is not None
    assert own.grad is None
    assert b.grad is None


def test_a_vanishing_gradient_is_harmless() -> None:
    g = torch.zeros(2, 3, dtype=F64, requires_grad=True)
    value = direction_loss(g, [randn(2, 3)], torch.ones(1, dtype=F64))
    value.backward()  # type: ignore[no-untyped-call]
    assert float(value.detach()) == 1.0
    assert g.grad is not None
    assert torch.isfinite(g.grad).all()
    # far below the square root of the smallest number, and far above the square root of the largest
    for scale in (1e-150, 1e-12, 1e12, 1e100):
        a = randn(3) * scale
        assert abs(float(cosine_similarity(a, a)) - 1) < 1e-9, scale


def test_direction_loss_refuses_mismatches() -> None:
    with pytest.raises(MethodError, match="`balance`"):
        direction_loss(torch.zeros(2, 2), [torch.zeros(2, 2)], torch.zeros(2))
    with pytest.raises(MethodError, match=r"`unimodal_gradients\[0\]`"):
        direction_loss(torch.zeros(2, 2), [torch.zeros(2, 3)], torch.zeros(1))


def test_pixels_are_rows_of_a_one_by_one_convolution() -> None:
    conv = nn.Conv2d(3, 4, 1, dtype=F64)
    u, y = randn(2, 3, 5, 6), torch.randint(0, 4, (2, 5, 6), generator=torch.Generator().manual_seed(0))
    z = conv(u)
    (expected,) = torch.autograd.grad(nn.functional.cross_entropy(z, y), conv.weight)
    q = nn.functional.one_hot(y, 4).movedim(-1, 1).double() / y.numel()
    ours = output_weight_gradient(softmax_cross_entropy_residual(z, q), u)
    assert (ours - expected[:, :, 0, 0]).abs().max() < 1e-12
    with pytest.raises(MethodError, match="`residual`"):
        output_weight_gradient(torch.zeros(2, 3), torch.zeros(3, 3))
