"""Gradient operators on linear layers and convolutions."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from equimodal.engine import recorded_inputs
from equimodal.errors import ModelError
from equimodal.projection import (
    FlatProjector,
    InputCovariance,
    OrthogonalProjector,
    input_width,
    layer_inputs,
    project_gradient,
    projectable_layers,
)

F64 = torch.float64


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=F64)


def test_projectable_layers() -> None:
    attention = nn.MultiheadAttention(4, 2)
    module = nn.Sequential(
        nn.Linear(2, 3), nn.Conv1d(2, 2, 3), nn.Conv2d(2, 2, 3, groups=2), nn.Sequential(nn.Linear(3, 1)), attention,
        nn.Conv1d(2, 2, 3, padding=1, padding_mode="circular"),
    )  # fmt: skip
    assert projectable_layers(module) == [module[0], module[3][0]]  # type: ignore[index]
    assert projectable_layers(module, convolutions=True) == [module[0], module[1], module[3][0]]  # type: ignore[index]
    assert projectable_layers(nn.Linear(1, 1)) != []
    assert projectable_layers(nn.ReLU()) == []


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (nn.Linear(4, 3), (5, 4)),
        (nn.Linear(4, 3), (5, 2, 4)),
        (nn.Conv1d(2, 3, 3), (2, 2, 9)),
        (nn.Conv1d(2, 3, 4, stride=2, padding=2, dilation=2), (2, 2, 11)),
        (nn.Conv1d(2, 3, 5, padding="same", dilation=2), (2, 2, 9)),
        (nn.Conv1d(2, 3, 3, padding="valid"), (2, 2, 9)),
        (nn.Conv2d(2, 3, (2, 3), stride=(2, 1), padding=(1, 2), dilation=(1, 2)), (2, 2, 7, 8)),
        (nn.Conv2d(2, 3, (2, 3), padding="same", dilation=(2, 1)), (2, 2, 7, 8)),
    ],
)
def test_layer_inputs_are_what_the_weight_multiplies(layer: nn.Module, shape: tuple[int, ...]) -> None:
    """output = rows @ W^T + b, so G = sum of outer products of output gradients and rows."""
    layer = layer.double()
    x = randn(*shape)
    rows = layer_inputs(layer, x)  # type: ignore[arg-type]
    weight, bias = layer.weight.flatten(1), layer.bias  # type: ignore[operator]
    assert rows.shape[1] == input_width(layer)  # type: ignore[arg-type]
    expected = layer(x)
    expected = expected.movedim(1, -1) if expected.ndim > 2 and isinstance(layer, (nn.Conv1d, nn.Conv2d)) else expected
    assert (rows @ weight.mT + bias - expected.reshape(-1, 3)).abs().max() < 1e-12  # type: ignore[operator]


def test_recorded_inputs() -> None:
    a, b = nn.Linear(2, 2), nn.Linear(2, 2)
    x = torch.randn(3, 2, requires_grad=True)
    with recorded_inputs([a, b]) as seen:
        b(a(x))
        a(x * 2)
    assert [len(s) for s in seen] == [2, 1]
    assert torch.equal(seen[0][1], x.detach() * 2)
    assert not seen[0][0].requires_grad
    a(x)
    assert len(seen[0]) == 2  # the hooks are gone
    with recorded_inputs([a], detach=False) as kept:
        a(x)
    assert kept[0][0] is x
    with pytest.raises(RuntimeError), recorded_inputs([a]):
        raise RuntimeError
    assert not a._forward_pre_hooks


def test_project_gradient() -> None:
    layer = nn.Linear(3, 2, dtype=F64)
    p = randn(3, 3)
    project_gradient(layer, p)
    assert layer.weight.grad is None
    layer(randn(4, 3)).sum().backward()
    before, bias = layer.weight.grad.clone(), layer.bias.grad.clone()  # type: ignore[attr-defined, union-attr]
    project_gradient(layer, p)
    assert np.abs(layer.weight.grad.numpy() - before.numpy() @ p.numpy()).max() < 1e-14  # type: ignore[attr-defined]
    assert torch.equal(layer.bias.grad, bias)  # type: ignore[arg-type]


def test_a_projected_step_does_not_change_outputs_in_removed_directions() -> None:
    """What MLA promises: with hard projection the head's answer for the learnt direction stays."""
    layer = nn.Linear(4, 2, bias=False, dtype=F64)
    projector = OrthogonalProjector(4).double()
    h = randn(4)
    projector.update(h, 1e-12, False)
    layer(randn(5, 4, seed=3)).square().sum().backward()
    project_gradient(layer, projector.matrix)
    before = layer(h)
    with torch.no_grad():
        layer.weight -= 0.1 * layer.weight.grad  # type: ignore[operator]
    assert (layer(h) - before).abs().max() < 1e-10


def test_orthogonal_projector_module() -> None:
    projector = OrthogonalProjector(3).double()
    assert float(projector.plasticity()) == 1
    h = torch.tensor([3.0, 4.0, 0.0], dtype=F64)
    ratio = projector.update(h, 25.0, False)
    assert float(ratio) == pytest.approx(1.0)
    assert projector.matrix[:2, :2].flatten().tolist() == pytest.approx([1 - 9 / 50, -12 / 50, -12 / 50, 1 - 16 / 50])
    assert float(projector.plasticity()) == pytest.approx((3 - 0.5) / 3)
    # relative: alpha times the running mean of |h|^2, momentum 0.9, started at the first value
    projector.reset()
    assert torch.equal(projector.matrix, torch.eye(3, dtype=F64))
    ratio = projector.update(2 * h, 0.5, True)
    energy = 0.9 * 25 + 0.1 * 100
    assert float(ratio) == pytest.approx(0.5)
    expected = 1 - 4 * 25 / (0.5 * energy + 100)
    assert float(h @ projector.matrix @ h / 25) == pytest.approx(expected)


def test_relative_alpha_does_not_depend_on_the_scale_of_the_features() -> None:
    a, b = OrthogonalProjector(3).double(), OrthogonalProjector(3).double()
    for step in range(5):
        h = randn(3, seed=step)
        a.update(h, 0.1, True)
        b.update(1000 * h, 0.1, True)
    assert (a.matrix - b.matrix).abs().max() < 1e-10


def test_covariance_is_the_same_in_one_part_or_many() -> None:
    rows = randn(10, 3)
    whole, parts = InputCovariance(3).double(), InputCovariance(3).double()
    whole.add(rows)
    parts.add(rows[:4])
    parts.add_sum(rows[4:].mT @ rows[4:], torch.tensor([6.0]))
    assert (whole.total - parts.total).abs().max() < 1e-12
    assert float(whole.count) == float(parts.count) == 10
    whole.reset()
    assert float(whole.count) == 0
    assert float(whole.total.abs().sum()) == 0


def test_flat_projector_module() -> None:
    projector = FlatProjector(2).double()
    assert torch.equal(projector.matrix, torch.eye(2, dtype=F64))
    projector.refresh(torch.diag(torch.tensor([2.0, 0.0], dtype=F64)), np.log(2))
    assert torch.allclose(projector.matrix, torch.diag(torch.tensor([0.5, 1.0], dtype=F64)), atol=1e-15)
    assert float(projector.plasticity()) == pytest.approx(0.75)
    with pytest.raises(ModelError, match="`covariance`"):
        projector.refresh(torch.eye(3), 0.4)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_projectors_and_covariances_stay_in_float32(dtype: torch.dtype) -> None:
    module = nn.ModuleList([OrthogonalProjector(3), InputCovariance(3), FlatProjector(3), nn.Linear(3, 3)]).to(dtype)
    kept = {t.dtype for m in list(module)[:3] for t in m.buffers() if t.is_floating_point()}
    assert kept == {torch.float32}
    assert next(module[3].parameters()).dtype == dtype
    module.double()
    assert {t.dtype for m in list(module)[:3] for t in m.buffers() if t.is_floating_point()} == {F64}
    covariance = InputCovariance(2).to(dtype)
    covariance.add(torch.ones(3, 2, dtype=dtype))
    assert covariance.total.tolist() == [[3, 3], [3, 3]]
