"""Entropy, weights from uncertainty, fusion, temperatures."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from equimodal.errors import MethodError
from equimodal.functional import (
    MEASURES,
    entropy,
    fit_temperature,
    fuse,
    product_weights,
    uncertainty,
    uncertainty_weights,
)
from tests import formulas

F64 = torch.float64


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=F64)


def logits(count: int = 3, size: int = 8, classes: int = 4) -> dict[str, Tensor]:
    return {f"m.{i}": randn(size, classes, seed=i) * (i + 1) for i in range(count)}


def test_entropy_against_scipy_and_by_hand() -> None:
    z = randn(20, 5) * 4
    assert np.abs(entropy(z).numpy() - formulas.entropy(formulas.softmax(z.numpy(), 1), axis=1)).max() < 1e-13
    # p = (3/4, 1/4): 2 log 2 - 3/4 log 3
    value = entropy(torch.tensor([[math.log(3.0), 0.0]], dtype=F64))
    assert abs(float(value) - (2 * math.log(2) - 0.75 * math.log(3))) < 1e-15
    assert float(entropy(torch.zeros(1, 7, dtype=F64))) == pytest.approx(math.log(7), abs=1e-14)


def test_entropy_of_a_certain_prediction_is_zero_with_a_finite_gradient() -> None:
    z = torch.tensor([[1e4, 0.0, -1e4]], dtype=F64, requires_grad=True)
    value = entropy(z)
    value.sum().backward()  # type: ignore[no-untyped-call]
    assert float(value.detach()) == 0
    assert z.grad is not None
    assert torch.isfinite(z.grad).all()


def test_entropy_with_impossible_classes() -> None:
    assert float(entropy(torch.tensor([[0.0, 0.0, -math.inf]]))) == pytest.approx(math.log(2), abs=1e-6)


def test_entropy_per_pixel_and_precision() -> None:
    z = randn(2, 3, 4, 5)
    assert entropy(z).shape == (2, 4, 5)
    assert torch.equal(entropy(z)[1, 2, 3], entropy(z[1:2, :, 2, 3])[0])
    assert entropy(z.half()).dtype == torch.float32


def test_measures_by_hand() -> None:
    p = torch.tensor([[0.5, 0.3, 0.2]], dtype=F64)
    assert float(uncertainty(p.log(), "max_probability")) == pytest.approx(0.5)
    assert float(uncertainty(p.log(), "margin")) == pytest.approx(0.8)
    assert float(uncertainty(p.log() + 2, "energy")) == pytest.approx(-2.0)
    with pytest.raises(MethodError, match="`measure`"):
        uncertainty(p, "other")  # type: ignore[arg-type]


@pytest.mark.parametrize("count", [1, 2, 3, 5])
def test_weights_against_the_papers_equation(count: int) -> None:
    z = logits(count)
    w = uncertainty_weights(z)
    e = np.stack([formulas.entropy(formulas.softmax(v.numpy(), 1), axis=1) for v in z.values()])
    raw = np.exp(e.max(0) - e)
    assert np.abs(torch.stack(list(w.values())).numpy() - raw / raw.sum(0)).max() < 1e-13
    assert (torch.stack(list(w.values())).sum(0) - 1).abs().max() < 1e-14


@pytest.mark.parametrize("measure", MEASURES)
def test_weights_invariants(measure: str) -> None:
    z = logits(3)
    w = uncertainty_weights(z, measure=measure)  # type: ignore[arg-type]
    turned = uncertainty_weights(dict(reversed(z.items())), measure=measure)  # type: ignore[arg-type]
    for m in z:  # a permutation of modalities permutes weights
        assert (w[m] - turned[m]).abs().max() < 1e-14
    order = torch.tensor([3, 1, 0, 2, 7, 6, 5, 4])  # a permutation of the batch permutes rows
    rows = uncertainty_weights({m: v[order] for m, v in z.items()}, measure=measure)  # type: ignore[arg-type]
    for m in z:
        assert torch.equal(rows[m], w[m][order])
    same = uncertainty_weights(dict.fromkeys(z, z["m.0"]), measure=measure)  # type: ignore[arg-type]
    for m in z:
        assert (same[m] - 1 / 3).abs().max() < 1e-15


def test_absent_content_is_not_read() -> None:
    z = logits(3)
    mask = torch.tensor([True, False] * 4)
    z["m.1"][~mask] = math.nan
    w = uncertainty_weights(z, {"m.1": mask})
    assert (w["m.1"][~mask] == 0).all()
    two = uncertainty_weights({m: z[m] for m in ("m.0", "m.2")})
    assert (w["m.0"][~mask] - two["m.0"][~mask]).abs().max() < 1e-14
    for space in ("probability", "log_probability", "logit"):
        assert torch.isfinite(fuse(z, w, space)).all()
    equal = product_weights(z, {"m.1": mask})
    assert equal["m.0"].tolist() == pytest.approx([1 / 3, 1 / 2] * 4)
    assert torch.isfinite(fuse(z, equal)).all()


def test_absent_content_leaves_finite_gradients() -> None:
    z = {m: v.requires_grad_() for m, v in logits(2).items()}
    mask = torch.tensor([True, False] * 4)
    fuse(z, uncertainty_weights(z, {"m.1": mask})).square().sum().backward()  # type: ignore[no-untyped-call]
    for v in z.values():
        assert v.grad is not None
        assert torch.isfinite(v.grad).all()
    assert z["m.1"].grad is not None
    assert (z["m.1"].grad[~mask] == 0).all()


def test_temperature_divides_the_logits() -> None:
    z = logits(2)
    a = uncertainty_weights(z, temperature={"m.0": 2.0})
    b = uncertainty_weights({"m.0": z["m.0"] / 2, "m.1": z["m.1"]})
    assert torch.equal(a["m.0"], b["m.0"])


def test_fusion_by_hand() -> None:
    z = {"a": torch.tensor([[math.log(3.0), 0.0]], dtype=F64), "b": torch.zeros(1, 2, dtype=F64)}
    half = {"a": torch.tensor([0.5], dtype=F64), "b": torch.tensor([0.5], dtype=F64)}
    assert fuse(z, half).tolist()[0] == pytest.approx([(0.75 + 0.5) / 2, (0.25 + 0.5) / 2])
    root = math.sqrt(3)  # product pool: sqrt(3/4 * 1/2) against sqrt(1/4 * 1/2)
    assert fuse(z, half, "log_probability").tolist()[0] == pytest.approx([root / (1 + root), 1 / (1 + root)])
    assert fuse(z, half, "logit").tolist()[0] == pytest.approx([math.log(3) / 2, 0.0])
    with pytest.raises(MethodError, match="`space`"):
        fuse(z, half, "other")  # type: ignore[arg-type]
    with pytest.raises(MethodError, match="`logits`"):
        fuse({}, {})


def test_fused_probabilities_are_probabilities() -> None:
    z = logits(4)
    w = uncertainty_weights(z)
    for space in ("probability", "log_probability"):
        p = fuse(z, w, space)
        assert (p.sum(1) - 1).abs().max() < 1e-14
        assert (p >= 0).all()


def test_maps_of_pixels_can_be_fused() -> None:
    z = {m: randn(2, 3, 4, 5, seed=i) for i, m in enumerate("ab")}
    w = uncertainty_weights(z)
    assert w["a"].shape == (2, 4, 5)
    assert (fuse(z, w).sum(1) - 1).abs().max() < 1e-14
    assert fuse(z, product_weights(z)).shape == (2, 3, 4, 5)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("scale", [0.3, 2.0, 10.0])
def test_temperature_against_scipy(seed: int, scale: float) -> None:
    z = randn(60, 4, seed=seed) * scale
    y = torch.randint(0, 4, (60,), generator=torch.Generator().manual_seed(seed))
    y[:40] = z[:40].argmax(1)

    def loss(beta: float) -> float:
        return float(-formulas.log_softmax(beta * z.numpy(), axis=1)[np.arange(60), y.numpy()].mean())

    optimize = pytest.importorskip("scipy.optimize")
    best = optimize.minimize_scalar(loss, bounds=(1 / 20, 1 / 0.05), method="bounded", options={"xatol": 1e-12})
    assert float(fit_temperature(z, y)) == pytest.approx(1 / best.x, rel=1e-5)


def test_temperature_by_hand_and_at_its_bounds() -> None:
    z = torch.tensor([[2.0, 0.0]] * 4, dtype=F64)  # best: p = 3/4, logit difference log 3 = 2 / T
    assert float(fit_temperature(z, torch.tensor([0, 0, 0, 1]))) == pytest.approx(2 / math.log(3), rel=1e-9)
    assert float(fit_temperature(z, torch.tensor([0, 0, 0, 0]))) < 0.07  # flat down to 0.05
    assert float(fit_temperature(z, torch.tensor([1, 1, 1, 1]))) == pytest.approx(20.0)
    assert torch.isfinite(fit_temperature(torch.zeros(3, 2), torch.tensor([0, 1, 1])))
    assert float(fit_temperature(z * 1e4, torch.tensor([0, 0, 0, 1]))) == pytest.approx(20.0)
    with pytest.raises(MethodError, match="`logits`"):
        fit_temperature(torch.zeros(0, 2), torch.zeros(0, dtype=torch.int64))
    with pytest.raises(MethodError, match="`logits`"):
        fit_temperature(torch.zeros(3, 2), torch.zeros(2, dtype=torch.int64))


def test_temperature_is_a_fixed_point_and_scales() -> None:
    z = randn(50, 3) * 3
    y = torch.randint(0, 3, (50,), generator=torch.Generator().manual_seed(1))
    y[:30] = z[:30].argmax(1)
    t = fit_temperature(z, y)
    assert float(fit_temperature(z / t, y)) == pytest.approx(1.0, rel=1e-6)
    assert float(fit_temperature(2 * z, y)) == pytest.approx(2 * float(t), rel=1e-6)
