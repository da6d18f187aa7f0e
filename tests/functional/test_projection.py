"""Projectors: MLA's orthogonal one and MIE's flat one."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from equimodal.errors import MethodError, NonFiniteError
from equimodal.functional import (
    flat_projector,
    orthogonal_projector_update,
    plasticity,
    project_rows,
    remove_direction_,
    removed_direction,
    uncentred_covariance_sum,
)

F64 = torch.float64


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=F64)


# ---- orthogonal -----------------------------------------------------------------------------------------------------


def test_orthogonal_update_by_hand() -> None:
    # P = I, h = (3, 4), alpha = 25: k = h / 50, P = I - h h^T / 50
    p = orthogonal_projector_update(torch.eye(2, dtype=F64), torch.tensor([3.0, 4.0], dtype=F64), 25.0)
    assert torch.allclose(p, torch.tensor([[1 - 9 / 50, -12 / 50], [-12 / 50, 1 - 16 / 50]], dtype=F64), atol=1e-15)


@pytest.mark.parametrize("alpha", [1e-4, 0.1, 3.0])
def test_orthogonal_update_keeps_symmetry_and_spectrum(alpha: float) -> None:
    p = torch.eye(7, dtype=F64)
    for step in range(40):
        h = randn(7, seed=step) * 3
        old, p = p, orthogonal_projector_update(p, h, alpha)
        assert torch.equal(p, p.mT) or (p - p.mT).abs().max() < 1e-15
        values = np.linalg.eigvalsh(p.numpy())
        assert values.min() > -1e-12
        assert values.max() <= 1 + 1e-12
        expected = alpha / (alpha + h @ old @ h) * (old @ h)
        assert (p @ h - expected).abs().max() < 1e-12
        # the textbook form of recursive least squares
        k = old.numpy() @ h.numpy() / (alpha + h.numpy() @ old.numpy() @ h.numpy())
        assert np.abs(p.numpy() - (old.numpy() - np.outer(k, h.numpy() @ old.numpy()))).max() < 1e-12
    assert plasticity(p) < 0.2


def test_it_is_the_regularised_inverse_covariance() -> None:
    """With constant alpha, P = alpha (alpha I + sum h h^T)^-1."""
    hs, p = randn(9, 5), torch.eye(5, dtype=F64)
    for h in hs:
        p = orthogonal_projector_update(p, h, 0.3)
    assert (p - 0.3 * torch.linalg.inv(0.3 * torch.eye(5, dtype=F64) + hs.mT @ hs)).abs().max() < 1e-12


@pytest.mark.parametrize("alpha", [0.1, 1.0])
def test_orthonormal_features_get_the_exact_eigenvalue(alpha: float) -> None:
    q, _ = torch.linalg.qr(randn(6, 6))
    p = torch.eye(6, dtype=F64)
    for k in range(4):
        p = orthogonal_projector_update(p, q[:, k], alpha)
    inside = q.mT @ p @ q
    expected = torch.diag(torch.tensor([1 / (1 + 1 / alpha)] * 4 + [1.0] * 2, dtype=F64))
    assert (inside - expected).abs().max() < 1e-14


def test_a_hard_exhausted_projector_stays_finite_in_float32() -> None:
    p = torch.eye(8)
    for step in range(500):  # |h|^2 / alpha far above 1 / eps
        p = orthogonal_projector_update(p, randn(8, seed=step).float() * 10, 1e-8)
    values = np.linalg.eigvalsh(p.double().numpy())
    assert np.abs(values).max() < 1e-2


@pytest.mark.parametrize("alpha", [1e-14, 1e-9, 0.3])  # with the guard against rounding, and without
def test_an_update_in_place_is_the_formula(alpha: float) -> None:
    p, expected = torch.eye(6, dtype=F64), np.eye(6)
    for step in range(4):
        h = randn(6, seed=step)
        direction = expected @ h.numpy()
        expected = expected - np.outer(direction, direction) / (alpha + h.numpy() @ direction)
        before = p.clone()
        given = remove_direction_(p, h, alpha, None if step % 2 else torch.dot(h, h))
        assert given is p
        assert np.abs(p.numpy() - expected).max() < (1e-12 if alpha > 1e-12 else 1e-6)
        v = removed_direction(before, h, alpha)
        assert (before - torch.outer(v, v) - p).abs().max() < 1e-15


@pytest.mark.parametrize("alpha", [2e-3, 5e-2])  # one is guarded in float32 with these features, one is not
def test_a_projector_that_is_shown_the_same_for_long_stays_positive(alpha: float) -> None:
    p, h = torch.eye(8), randn(8, seed=5).float() * 2
    for step in range(4000):
        remove_direction_(p, h + 1e-3 * randn(8, seed=step).float(), alpha)
    values = np.linalg.eigvalsh(p.double().numpy())
    assert values.min() > -1e-6
    assert values.max() < 1 + 1e-6


def test_orthogonal_update_refuses_bad_arguments() -> None:
    eye = torch.eye(3)
    for alpha in (0.0, -1.0, math.nan):
        with pytest.raises(MethodError, match="`alpha`"):
            orthogonal_projector_update(eye, torch.ones(3), alpha)
    for projector, mean in ((torch.ones(3), torch.ones(3)), (torch.ones(3, 2), torch.ones(3)), (eye, torch.ones(2))):
        with pytest.raises(MethodError, match="`projector`"):
            orthogonal_projector_update(projector, mean, 0.1)


# ---- flat -----------------------------------------------------------------------------------------------------------


def covariance(width: int = 6, seed: int = 0) -> Tensor:
    u = randn(40, width, seed=seed) * torch.arange(1, width + 1, dtype=F64)
    return u.mT @ u / 40


@pytest.mark.parametrize("tau", [0.1, 0.4, 3.0])
def test_flat_projector_against_numpy(tau: float) -> None:
    c = covariance()
    p = flat_projector(c, tau)
    values, vectors = np.linalg.eigh(c.numpy())
    w = np.exp(-tau * (values - values[0]) / (values[-1] - values[0]))
    assert np.abs(p.numpy() - vectors @ np.diag(w) @ vectors.T).max() < 1e-13
    assert torch.equal(p, p.mT)
    assert (p @ c - c @ p).abs().max() < 1e-11
    spectrum = np.linalg.eigvalsh(p.numpy())
    assert abs(spectrum[0] - math.exp(-tau)) < 1e-13
    assert abs(spectrum[-1] - 1) < 1e-13
    top, flattest = torch.from_numpy(vectors[:, -1]), torch.from_numpy(vectors[:, 0])
    assert (p @ top - math.exp(-tau) * top).abs().max() < 1e-13
    assert (p @ flattest - flattest).abs().max() < 1e-13


def test_flat_projector_by_hand() -> None:
    p = flat_projector(torch.diag(torch.tensor([4.0, 0.0, 2.0], dtype=F64)), math.log(4))
    assert torch.allclose(p, torch.diag(torch.tensor([0.25, 1.0, 0.5], dtype=F64)), atol=1e-15)


@pytest.mark.parametrize("scale", [0.0, 1e-30, 1.0, 1e20])
def test_isotropic_covariance_or_zero_temperature_is_the_identity(scale: float) -> None:
    eye = torch.eye(4, dtype=F64)
    assert torch.equal(flat_projector(scale * eye, 0.4), eye)
    assert torch.equal(flat_projector(covariance(4), 0.0), eye)


def test_flat_projector_does_not_depend_on_the_scale_of_the_covariance() -> None:
    assert (flat_projector(covariance() * 1e-8, 0.4) - flat_projector(covariance(), 0.4)).abs().max() < 1e-10


def test_high_temperature_is_a_null_space_projection() -> None:
    u = torch.zeros(10, 4, dtype=F64)
    u[:, :2] = torch.linalg.qr(randn(10, 2))[0]  # two directions of one energy, two of none
    p = flat_projector(u.mT @ u, 1e4)
    assert (p - torch.diag(torch.tensor([0.0, 0.0, 1.0, 1.0], dtype=F64))).abs().max() < 1e-9


@pytest.mark.parametrize("seed", [17, 22, 35, 106, 128, 133])
def test_flat_projector_of_a_covariance_with_many_dead_units(seed: int) -> None:
    # LAPACK's float32 solver fails on most of these (rarely active, mostly dead rectified units): error or NaN
    generator = torch.Generator().manual_seed(seed)
    rows = torch.relu(torch.randn(900, 64, generator=generator) - 1.5 - 1.5 * torch.rand(64, generator=generator))
    rows = rows * 10 ** (-3 * torch.rand(64, generator=generator))
    alive = torch.rand(64, generator=generator) < 0.3
    rows = rows * alive
    rows[:, alive.nonzero()[0]] += 3
    covariance = rows.mT @ rows / 900
    projector = flat_projector(covariance, 0.4)
    assert projector.dtype == torch.float32
    torch.testing.assert_close(projector.double(), flat_projector(covariance.double(), 0.4), rtol=0, atol=1e-5)
    torch.testing.assert_close(projector @ torch.eye(64)[~alive].mT, torch.eye(64)[~alive].mT, rtol=0, atol=1e-5)


def rounded_covariance(seed: int) -> Tensor:
    """A float32 covariance whose widths of directions differ by ten orders of magnitude."""
    rows = randn(50, 12, seed=seed) * 10 ** torch.linspace(-5, 5, 12, dtype=F64)
    return (rows.mT @ rows / 50).float()


@pytest.mark.parametrize("seed", range(5))
def test_a_float32_projector_is_the_float64_one_cast(seed: int) -> None:
    c = rounded_covariance(seed)
    projector = flat_projector(c, 0.4)
    assert projector.dtype == torch.float32
    torch.testing.assert_close(projector, flat_projector(c.double(), 0.4).float(), rtol=0, atol=1e-6)


def test_rounding_of_a_float32_covariance_is_no_direction() -> None:
    noise = randn(64, 64, seed=3).float() * 1e-8
    assert torch.equal(flat_projector(torch.eye(64) + noise + noise.mT, 0.4), torch.eye(64))


SOLVE = torch.linalg.eigh


def raises(matrix: Tensor) -> tuple[Tensor, Tensor]:
    raise RuntimeError("linalg.eigh: the algorithm failed to converge")


def answers_nan(matrix: Tensor) -> tuple[Tensor, Tensor]:
    values, vectors = SOLVE(matrix)
    return values, torch.full_like(vectors, math.nan)


@pytest.mark.parametrize("failure", [raises, answers_nan])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_the_solver_never_sees_less_than_float64(
    monkeypatch: pytest.MonkeyPatch, failure: Callable[[Tensor], tuple[Tensor, Tensor]], dtype: torch.dtype
) -> None:
    """A float32 solver may fail, with or without an error, on one processor and not on another."""
    covariance = torch.diag(torch.tensor([4.0, 0.0, 2.0])).to(dtype)
    monkeypatch.setattr(torch.linalg, "eigh", lambda m: SOLVE(m) if m.dtype == F64 else failure(m))
    projector = flat_projector(covariance, math.log(4))
    torch.testing.assert_close(projector, torch.diag(torch.tensor([0.25, 1.0, 0.5])), rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("failure", "words"), [(raises, "failed to converge"), (answers_nan, "returned NaN or infinity")]
)
@pytest.mark.parametrize("dtype", [torch.float32, F64])
def test_a_projector_that_is_not_finite_is_refused(
    monkeypatch: pytest.MonkeyPatch, failure: object, words: str, dtype: torch.dtype
) -> None:
    monkeypatch.setattr(torch.linalg, "eigh", failure)
    with pytest.raises(NonFiniteError, match=rf"`covariance`.*float64 matrix of \(6, 6\); .*{words}.*Next: "):
        flat_projector(covariance().to(dtype), 0.4)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_covariance_that_is_not_finite_is_refused(value: float) -> None:
    matrix = covariance()
    matrix[2, 3] = value
    with pytest.raises(NonFiniteError, match="`covariance`.*NaN or infinity.*Next: "):
        flat_projector(matrix, 0.4)


class WithoutFloat64(TorchFunctionMode):
    """Tensors of the CPU pass for those of a device without float64, until they are copied to the CPU."""

    def __init__(self) -> None:
        super().__init__()
        self.on_cpu: list[Tensor] = []
        self.returned: list[Tensor] = []

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        tensors = [a for a in args if isinstance(a, Tensor)]
        inside = any(t is c for t in tensors for c in self.on_cpu) or kwargs.get("device") == torch.device("cpu")
        if func == Tensor.device.__get__:
            return torch.device("cpu" if inside else "mps")
        if func == Tensor.to and torch.device("mps") in args:
            self.returned.append(args[0])
            return args[0]
        result = args[0].clone() if func == Tensor.cpu else func(*args, **kwargs)  # a copy, as from another device
        made = [r for r in (result if isinstance(result, tuple) else (result,)) if isinstance(r, Tensor)]
        if func == Tensor.cpu or inside:
            self.on_cpu += made
        elif any(r.dtype == F64 for r in made):
            raise TypeError("Cannot convert a MPS Tensor to float64 dtype as the MPS framework doesn't support float64")
        return result


def test_a_device_without_float64_decomposes_on_the_cpu() -> None:
    c = covariance().float()
    expected = flat_projector(c, 0.4)
    with WithoutFloat64(), pytest.raises(TypeError, match="float64"):
        c.double()  # the stand-in refuses what such a device refuses
    with WithoutFloat64() as device:
        projector = flat_projector(c, 0.4)
    assert torch.equal(projector, expected)
    assert len(device.returned) == 1  # and the projector is moved back
    assert device.returned[0].dtype == torch.float32


def test_flat_projector_precision_and_errors() -> None:
    assert flat_projector(covariance().half(), 0.4).dtype == torch.float32
    for tau in (-0.1, math.nan):
        with pytest.raises(MethodError, match="`temperature`"):
            flat_projector(covariance(), tau)
    with pytest.raises(MethodError, match="`covariance`"):
        flat_projector(torch.zeros(2, 3), 0.4)


# ---- shared ---------------------------------------------------------------------------------------------------------


def test_project_rows_is_a_right_multiplication() -> None:
    g, p = randn(3, 4), randn(4, 4, seed=1)
    assert np.abs(project_rows(g, p).numpy() - g.numpy() @ p.numpy()).max() < 1e-14
    kernel, q = randn(3, 2, 2), randn(4, 4, seed=1)
    assert torch.equal(project_rows(kernel, q), (kernel.reshape(3, 4) @ q).reshape(3, 2, 2))
    half = project_rows(g.to(torch.bfloat16), p.float())
    assert half.dtype == torch.bfloat16


def test_uncentred_covariance_sum() -> None:
    rows = randn(2, 5, 3)
    total, count = uncentred_covariance_sum(rows)
    expected = sum(np.outer(u, u) for u in rows.reshape(-1, 3).numpy())
    assert count == 10
    assert np.abs(total.numpy() - expected).max() < 1e-13
    assert uncentred_covariance_sum(rows.to(torch.bfloat16))[0].dtype == torch.float32


def test_plasticity_is_the_mean_eigenvalue() -> None:
    p = flat_projector(covariance(), 0.7)
    assert abs(float(plasticity(p)) - np.linalg.eigvalsh(p.numpy()).mean()) < 1e-14
