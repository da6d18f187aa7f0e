"""DGL against the two gradients written out, and what it does not do."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from equimodal import Classification, MultimodalModel, PlainEngine
from equimodal.batch import Batch
from equimodal.errors import MethodError
from equimodal.fusion import Concat, FiLM
from equimodal.methods import DGL
from equimodal.methods.parts import FixedHead
from tests.helpers import assert_near, weights
from tests.methods.affine import (
    WIDTH,
    batch_of,
    cross_entropy,
    descend,
    encoders_of,
    features_of,
    head_of,
    make,
    masks_of,
    steps,
)


@pytest.mark.parametrize("count", [2, 3])
@pytest.mark.parametrize("absent", [False, True])
def test_three_steps_are_those_of_the_two_gradients(count: int, absent: bool) -> None:
    """The fused loss for the head on fixed features; unimodal losses through the fixed head for the encoders."""
    ours, theirs = make(DGL, count, weight=2.5), make(DGL, count)
    data = [batch_of(count, seed, absent) for seed in range(3)]
    reports = steps(ours, data)
    encoders, head = encoders_of(theirs), head_of(theirs)
    own = [p for e in encoders.values() for p in (e.weight, e.bias)]
    for batch, report in zip(data, reports, strict=True):
        z, y = features_of(encoders, batch), batch.target
        assert y is not None
        fused = cross_entropy(torch.cat([h.detach() for h in z.values()], 1) @ head.weight.T + head.bias, y)
        alone = []
        for i, (m, mask) in enumerate(masks_of(batch).items()):
            block = head.weight[:, i * WIDTH : (i + 1) * WIDTH].detach()
            alone.append(cross_entropy((z[m] @ block.T + head.bias.detach())[mask], y[mask]))
        of_head = torch.autograd.grad(fused, [head.weight, head.bias])
        of_encoders = torch.autograd.grad(2.5 * torch.stack(alone).sum(), own)
        descend([head.weight, head.bias, *own], [*of_head, *of_encoders])
        assert abs(float(report.losses["fused"] - fused.detach())) < 1e-12
    assert_near(weights(ours), weights(theirs), 1e-12)


def test_a_worked_step() -> None:
    """One sample, one feature each, u = z1 + z2: the residuals of 1, 1 and 2 are all there is."""
    encoders: dict[str, Any] = {m: nn.Linear(1, 1, bias=False) for m in ("a", "b")}
    head = nn.Linear(2, 2, bias=False)
    model = MultimodalModel(encoders, Concat({"a": 1, "b": 1}), head).double()
    with torch.no_grad():
        for p in model.parameters():
            p.fill_(1.0)
        head.weight[1] = -1.0
    method = DGL(model, Classification(2), weight=3.0)
    x = torch.ones(1, 1, dtype=torch.float64)
    engine = PlainEngine(torch.optim.SGD(model.parameters(), 1.0))
    method.training_step(Batch({"a": x, "b": x}, torch.tensor([1])), engine)
    one, two = (float(torch.sigmoid(torch.tensor(2.0 * u, dtype=torch.float64))) for u in (1, 2))  # the wrong class
    for m in ("a", "b"):  # dL/dz = p_wrong * (1 - (-1)), through the head alone with z of one modality
        assert encoders[m].weight.item() == pytest.approx(1 - 3 * 2 * one, abs=1e-12)
    assert torch.allclose(head.weight, torch.tensor([[1.0], [-1.0]]).double() * (1 - two), atol=1e-12)


def test_unimodal_losses_do_not_reach_fusion_and_head() -> None:
    """With any fusion; and running statistics in the head count the fused pass only."""
    torch.manual_seed(0)
    encoders: dict[str, Any] = {"a": nn.Linear(5, 4), "b": nn.Linear(3, 4)}
    head = nn.Sequential(nn.BatchNorm1d(4), nn.Linear(4, 3))
    model = MultimodalModel(encoders, FiLM({"a": 4, "b": 4}), head).double()
    z = {m: torch.randn(6, 4, dtype=torch.float64, requires_grad=True) for m in encoders}
    torch.autograd.backward(FixedHead(model)(z).square().sum())
    assert all(p.grad is None for p in model.parameters())
    assert all(h.grad is not None for h in z.values())
    assert int(head[0].num_batches_tracked) == 0  # type: ignore[arg-type]
    method = DGL(model, Classification(3))
    batch = Batch({"a": torch.randn(6, 5).double(), "b": torch.randn(6, 3).double()}, torch.tensor([0, 1, 2] * 2))
    method.training_step(batch, PlainEngine(torch.optim.SGD(model.parameters(), 0.1)))
    assert int(head[0].num_batches_tracked) == 1  # type: ignore[arg-type]


def test_a_parameter_that_two_modules_share_is_held_too() -> None:
    head = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 3))
    head[1].weight = head[0].weight
    model = MultimodalModel({"a": nn.Linear(5, 4)}, Concat({"a": 4}), head)
    z = torch.randn(2, 4, requires_grad=True)
    torch.autograd.backward(FixedHead(model)({"a": z}).sum())
    assert all(p.grad is None for p in head.parameters())
    assert all(isinstance(p, nn.Parameter) for p in (head[0].weight, head[1].weight))


def test_a_weight_of_zero_is_refused() -> None:
    with pytest.raises(MethodError, match=r"`weight`: expected a number > 0\. Found 0"):
        make(DGL, 2, weight=0.0)


@pytest.mark.parametrize(("optimizer", "ratio"), [(torch.optim.SGD, 4.0), (torch.optim.Adam, 1.0)])
def test_the_weight_is_a_learning_rate_that_adam_cancels(optimizer: Any, ratio: float) -> None:
    moved = []
    for weight in (1.0, 4.0):
        method = make(DGL, 2, weight=weight)
        before = [p.detach().clone() for e in encoders_of(method).values() for p in e.parameters()]
        method.training_step(batch_of(2, 0, False), PlainEngine(optimizer(method.parameters(), lr=1e-3)))
        after = [p.detach() for e in encoders_of(method).values() for p in e.parameters()]
        moved.append(float(torch.stack([(a - b).norm() for a, b in zip(after, before, strict=True)]).norm()))
    assert moved[1] / moved[0] == pytest.approx(ratio, rel=1e-3)
