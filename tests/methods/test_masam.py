"""MASAM against its two passes written out, its choices, and what it refuses."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from equimodal import Batch, PlainEngine
from equimodal.engine import Sharpness
from equimodal.errors import MethodError, UnsupportedError
from equimodal.methods import MASAM, MultiLoss
from tests.helpers import assert_identical, assert_near, weights
from tests.methods.affine import (
    LR,
    batch_of,
    cross_entropy,
    encoders_of,
    features_of,
    head_of,
    make,
    masks_of,
    steps,
)

RHO, ALPHA, BETA, LAMBDA = 0.4, 0.6, 0.7, 0.5


def losses(method: Any, batch: Batch) -> tuple[Tensor, list[Tensor]]:
    """Fused, and of each modality."""
    encoders, head = encoders_of(method), head_of(method)
    z, y = features_of(encoders, batch), batch.target
    assert y is not None
    fused = cross_entropy(torch.cat(list(z.values()), 1) @ head.weight.T + head.bias, y)
    own = []
    for m, mask in masks_of(batch).items():
        layer = method.heads[m][-1]
        own.append(cross_entropy((z[m] @ layer.weight.T + layer.bias)[mask], y[mask]))
    return fused, own


@pytest.mark.parametrize("count", [2, 3])
@pytest.mark.parametrize("absent", [False, True])
@pytest.mark.parametrize("select", ["score", "all"])
def test_steps_are_those_of_the_equations(count: int, absent: bool, select: str) -> None:
    options: dict[str, Any] = {"radius": RHO, "share": ALPHA, "momentum": BETA, "weight": LAMBDA}
    ours, theirs = make(MASAM, count, select=select, **options), make(MultiLoss, count)
    data = [batch_of(count, seed, absent) for seed in range(5)]
    reports = steps(ours, data)
    parameters, encoders = list(theirs.parameters()), list(encoders_of(theirs).values())
    average: list[float] = []
    previous: list[float] = []
    chosen = []
    for batch, report in zip(data, reports, strict=True):
        fused, own = losses(theirs, batch)
        plain = torch.autograd.grad(fused + LAMBDA * torch.stack(own).sum(), parameters, retain_graph=True)
        cosines, along, scores = [], [], []
        for i, encoder in enumerate(encoders):
            pair = [encoder.weight, encoder.bias]
            g = torch.cat([t.flatten() for t in torch.autograd.grad(fused, pair, retain_graph=True)])
            h = torch.cat([t.flatten() for t in torch.autograd.grad(own[i], pair, retain_graph=True)])
            cosines.append(float(g @ h / g.norm() / h.norm()))
            along.append(g / g.norm())
            now = float(own[i].detach())
            if len(average) == i:
                average.append(now)
                decay = 0.0
            else:
                average[i] = BETA * average[i] + (1 - BETA) * now
                decay = max(0.0, previous[i] - average[i])
            scores.append(ALPHA * decay + (1 - ALPHA) * cosines[i])
        previous = [float(v.detach()) for v in own]
        assert [float(v) for v in report.coefficients["alignment"].values()] == pytest.approx(cosines, abs=1e-12)
        at = [scores.index(max(scores))] if select == "score" else list(range(count))
        chosen += at
        at = [i for i in at if cosines[i] > 0]
        saved = {i: (encoders[i].weight.detach().clone(), encoders[i].bias.detach().clone()) for i in at}
        with torch.no_grad():
            for i in at:
                move, size = RHO * cosines[i] * along[i], encoders[i].weight.numel()
                encoders[i].weight += move[:size].reshape(encoders[i].weight.shape)
                encoders[i].bias += move[size:]
        receivers = [p for i in at for p in (encoders[i].weight, encoders[i].bias)]
        there = torch.autograd.grad(losses(theirs, batch)[0], receivers) if at else ()
        with torch.no_grad():
            for i, (w, b) in saved.items():
                encoders[i].weight.copy_(w)
                encoders[i].bias.copy_(b)
        here = torch.autograd.grad(fused, receivers) if at else ()
        change = {id(p): a - b for p, a, b in zip(receivers, there, here, strict=True)}
        with torch.no_grad():
            for p, g in zip(parameters, plain, strict=True):
                p -= LR * (g + change.get(id(p), 0.0))
    assert_near(dict(ours.named_parameters()), dict(theirs.named_parameters()), 1e-12)
    assert len(set(chosen)) > 1  # more than one was chosen on the way


def test_without_a_choice_it_is_multi_loss() -> None:
    ours, theirs = make(MASAM, 2, select="none", weight=LAMBDA), make(MultiLoss, 2, weight=LAMBDA)
    data = [batch_of(2, seed) for seed in range(2)]
    steps(ours, data)
    steps(theirs, data)
    assert_identical(dict(ours.named_parameters()), dict(theirs.named_parameters()))


def test_a_modality_of_nobody_is_not_chosen_and_keeps_its_mean() -> None:
    method, full = make(MASAM, 2), batch_of(2, absent=False)
    gone = next(iter(full.inputs))
    steps(method, [full])
    before = method.memory.average.clone()
    nobody = Batch(full.inputs, full.target, {gone: torch.zeros(len(full), dtype=torch.bool)})
    (report,) = steps(method, [nobody])
    assert bool(report.loss.isfinite())
    assert float(method.memory.average[0]) == float(before[0])
    assert float(method.memory.average[1]) != float(before[1])
    assert float(report.coefficients["alignment"][gone]) == 0


def test_opposed_gradients_move_nothing() -> None:
    """Own heads of the opposite sign of the joint head's block: the cosine is below 0, and the step is MultiLoss's."""
    ours, theirs = make(MASAM, 2, share=0.0), make(MultiLoss, 2)
    with torch.no_grad():
        for method in (ours, theirs):
            for i, m in enumerate(method.modalities):
                method.heads[m][-1].weight.copy_(-head_of(method).weight[:, 4 * i : 4 * i + 4])
    (report,) = steps(ours, [batch_of(2, absent=False, size=1)])
    steps(theirs, [batch_of(2, absent=False, size=1)])
    assert all(float(c) < 0 for c in report.coefficients["alignment"].values())
    assert_near(dict(ours.named_parameters()), dict(theirs.named_parameters()), 1e-14)


def test_a_frozen_encoder_is_not_chosen() -> None:
    method = make(MASAM, 2)
    for p in encoders_of(method)["audio.raw"].parameters():
        p.requires_grad_(False)
    before = weights(method)
    steps(method, [batch_of(2, seed) for seed in range(3)])
    assert torch.equal(before["model.encoders.0.weight"], weights(method)["model.encoders.0.weight"])
    assert not torch.equal(before["model.encoders.1.weight"], weights(method)["model.encoders.1.weight"])


def test_refusals() -> None:
    with pytest.raises(MethodError, match="`radius`"):
        make(MASAM, 2, radius=0.0)
    with pytest.raises(MethodError, match="`select`"):
        make(MASAM, 2, select="best")
    method = make(MASAM, 2)
    method.sharpness = Sharpness("full")
    method.sharpness.attach(method)
    with pytest.raises(UnsupportedError, match="sharpness"):
        method.training_step(batch_of(2), PlainEngine(torch.optim.SGD(method.parameters(), 0.1)))
