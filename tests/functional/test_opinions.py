"""Fusion of sigmoids, Gaussians and numbers: by hand and against SciPy."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from equimodal.errors import MethodError
from equimodal.functional import (
    binary_uncertainty,
    fit_gaussian_scale,
    fuse_binary,
    fuse_gaussians,
    fuse_numbers,
    gaussian_nll,
    product_weights,
    soft_dice,
    softmin_weights,
)
from tests import formulas

F64 = torch.float64


def randn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=F64)


def test_softmin_weights() -> None:
    e = {"a": torch.tensor([0.0, 1.0]), "b": torch.tensor([math.log(3.0), 1.0])}
    w = softmin_weights(e)
    assert w["a"].tolist() == pytest.approx([0.75, 0.5])
    absent = softmin_weights(e, {"b": torch.tensor([False, True])})
    assert absent["a"].tolist() == pytest.approx([1.0, 0.5])
    assert absent["b"][0] == 0.0


def test_binary_uncertainty() -> None:
    z = 3 * randn(50)
    p = formulas.expit(z.numpy())
    expected = {"entropy": formulas.entr(p) + formulas.entr(1 - p), "max_probability": np.minimum(p, 1 - p),
                "margin": 1 - np.abs(2 * p - 1)}  # fmt: skip
    for measure, value in expected.items():
        assert np.abs(binary_uncertainty(z, measure).numpy() - value).max() < 1e-12
    assert torch.isfinite(binary_uncertainty(torch.tensor([-800.0, 800.0]))).all()
    with pytest.raises(MethodError, match="`measure`"):
        binary_uncertainty(z, "energy")


def test_fused_labels() -> None:
    z = {"a": randn(6, 3), "b": 2 * randn(6, 3, seed=1)}
    w = {"a": torch.full((6,), 0.25, dtype=F64), "b": torch.full((6,), 0.75, dtype=F64)}
    p = {m: formulas.expit(v.numpy()) for m, v in z.items()}
    mean = formulas.logit(0.25 * p["a"] + 0.75 * p["b"])
    pool = 0.25 * z["a"].numpy() + 0.75 * z["b"].numpy()
    assert np.abs(fuse_binary(z, w, "probability").numpy() - mean).max() < 1e-12
    assert np.abs(fuse_binary(z, w, "log_probability").numpy() - pool).max() < 1e-12
    z["b"][2] = math.nan
    w["a"][2], w["b"][2] = 1.0, 0.0
    for space in ("probability", "log_probability"):
        assert torch.allclose(fuse_binary(z, w, space)[2], z["a"][2])


@pytest.mark.parametrize("rule", ["mean", "uncertainty", "precision"])
def test_gaussians_against_numpy(rule: str) -> None:
    outputs = {m: randn(5, 4, seed=i) for i, m in enumerate("abc")}
    mu = np.stack([z[:, :2].numpy() for z in outputs.values()])
    var = np.exp(np.stack([z[:, 2:].numpy() for z in outputs.values()]))
    raw = {"mean": np.ones_like(var), "uncertainty": var**-0.5, "precision": 1 / var}[rule]
    w = raw / raw.sum(0)
    mean = (w * mu).sum(0)
    variance = 1 / (1 / var).mean(0) if rule == "precision" else (w * (var + mu**2)).sum(0) - mean**2
    fused, weights = fuse_gaussians(outputs, rule=rule)  # type: ignore[arg-type]
    assert np.abs(fused[:, :2].numpy() - mean).max() < 1e-12
    assert np.abs(fused[:, 2:].exp().numpy() - variance).max() < 1e-12
    assert np.abs(np.stack([v.numpy() for v in weights.values()]) - w).max() < 1e-12


def test_entropy_weights_are_those_of_the_gaussian_entropy() -> None:
    """softmax(-entropy) is 1 / sigma, normalised."""
    sigma = np.array([0.3, 2.0])
    entropy = 0.5 * np.log(2 * math.pi * math.e * sigma**2)
    outputs = {m: torch.tensor([[0.0, 2 * math.log(s)]], dtype=F64) for m, s in zip("ab", sigma, strict=True)}
    _, w = fuse_gaussians(outputs, rule="uncertainty")
    assert float(w["a"]) == pytest.approx(formulas.softmax(-entropy)[0], rel=1e-12)


def test_absent_gaussians_are_not_read() -> None:
    outputs = {"a": randn(4, 2), "b": randn(4, 2, seed=1), "c": randn(4, 2, seed=2)}
    mask = torch.tensor([True, False, True, False])
    clean = {m: outputs[m] for m in ("a", "c")}
    outputs["b"] = torch.where(mask[:, None], outputs["b"], math.nan)
    for rule in ("mean", "uncertainty", "precision"):
        fused, w = fuse_gaussians(outputs, {"b": mask}, rule)
        assert torch.isfinite(fused).all()
        assert torch.allclose(fused[~mask], fuse_gaussians(clean, rule=rule)[0][~mask], rtol=1e-12)
        assert not w["b"][~mask].any()
    numbers = fuse_numbers(outputs, product_weights(outputs, {"b": mask}))
    assert torch.allclose(numbers[~mask], (outputs["a"] + outputs["c"])[~mask] / 2)


def test_scale_of_a_gaussian_has_the_highest_likelihood() -> None:
    output, y = randn(300, 2), 3 * randn(300, seed=1)

    def loss(log_t: float) -> float:
        return float(gaussian_nll(output[:, 0], output[:, 1] + 2 * log_t, y))

    optimize = pytest.importorskip("scipy.optimize")
    best = optimize.minimize_scalar(loss, bounds=(-3, 3), method="bounded", options={"xatol": 1e-10})
    assert float(fit_gaussian_scale(output, y)) == pytest.approx(math.exp(best.x), rel=1e-6)
    assert float(fit_gaussian_scale(output, 1e6 * y)) == 20.0


def test_soft_dice_slope() -> None:
    p = torch.rand(3, 2, 4, 5, generator=torch.Generator().manual_seed(0), dtype=F64).requires_grad_()
    y = (randn(3, 2, 4, 5) > 0).to(F64)
    for over_batch in (True, False):
        dice, slope = soft_dice(p, y, over_batch=over_batch)
        (expected,) = torch.autograd.grad(dice.sum(), p)
        assert (slope - expected).abs().max() < 1e-12
    with pytest.raises(MethodError, match="equal shapes"):
        soft_dice(p, y[:, :1])
