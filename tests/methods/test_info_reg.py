"""InfoReg: the window, who is held back, and the published loop."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch
from torch import nn

from equimodal import Batch, Classification, MultimodalModel
from equimodal.errors import MethodError, ModelError
from equimodal.fusion import Concat
from equimodal.methods import EpochContext, InfoReg
from tests.helpers import assert_identical, sgd, weights

SIZES = {"a": 3, "b": 4, "c": 2}


def made(count: int, name: Any = InfoReg, **options: Any) -> Any:
    torch.manual_seed(0)
    names = list(SIZES)[:count]
    encoders = {m: nn.Linear(SIZES[m], 4) for m in names}
    model = MultimodalModel(encoders, Concat(dict.fromkeys(names, 4)), nn.Linear(4 * count, 3))
    return name(model, Classification(3), **options).double().train()


def data(count: int, absent: bool = False) -> Batch:
    g = torch.Generator().manual_seed(1)
    x = {m: torch.randn(6, SIZES[m], generator=g, dtype=torch.float64) for m in list(SIZES)[:count]}
    x["a"][:, :3] += 2 * torch.eye(3, dtype=torch.float64).repeat(2, 1)
    i = torch.arange(6)
    return Batch(x, i % 3, {"a": i != 2, "b": (i != 1) & (i != 4)} if absent else None)


def run(method: Any, batches: list[Batch], epochs: int, lr: float = 0.1) -> list[Any]:
    engine, reports = sgd(method, lr=lr, momentum=0.0), []
    for epoch in range(epochs):
        method.on_train_epoch_start(EpochContext(epoch))
        reports += [method.training_step(b, engine) for b in batches]
        method.on_train_epoch_end(EpochContext(epoch))
    return reports


def plain_loop(method: Any, batches: list[Batch], epochs: int, threshold: float, beta: float, lr: float = 0.1) -> int:
    """The published algorithm on the modules alone; how often something was held back."""
    names, head, held = list(method.modalities), method.model.head, 0
    history: dict[str, list[float]] = {m: [] for m in names}
    for epoch in range(epochs):
        start = {m: [p.detach().clone() for p in method.model.encoder(m).parameters()] for m in names}
        traces: dict[str, list[float]] = {m: [] for m in names}
        for batch in batches:
            y = batch.target
            assert y is not None
            has = {m: torch.ones(6).bool() if batch.present is None or m not in batch.present else batch.present[m]
                   for m in names}  # fmt: skip
            z = {m: method.model.encoder(m)(batch.inputs[m]) * has[m][:, None] for m in names}
            loss = nn.functional.cross_entropy(head(torch.cat([z[m] for m in names], 1)), y)
            scores = {}
            for k, m in enumerate(names):
                u = z[m] @ head.weight[:, 4 * k : 4 * k + 4].T + head.bias / len(names)
                own = torch.log_softmax(u, 1).gather(1, y[:, None])[has[m], 0]
                scores[m] = float(own.mean().detach())
            moved = list(method.model.parameters())
            gradients = dict(zip(moved, torch.autograd.grad(loss, moved), strict=True))
            for m in names:
                own_parameters = list(method.model.encoder(m).parameters())
                traces[m].append(sum(float(gradients[p].square().sum()) for p in own_parameters))
                behind = [scores[m] - s for j, s in scores.items() if j != m and s < scores[m]]
                t = history[m]
                if epoch >= 2 and (t[-1] - t[-2]) / t[-1] > threshold and behind:
                    held += 1
                    a = math.exp(beta * math.tanh(sum(behind) / len(behind)))
                    for p, p0 in zip(own_parameters, start[m], strict=True):
                        gradients[p] = gradients[p] + a * (p.detach() - p0)
            with torch.no_grad():
                for p, g in gradients.items():
                    p -= lr * g
        for m in names:
            history[m].append(sum(traces[m]) / len(batches))
    return held


@pytest.mark.parametrize("count", [2, 3])
@pytest.mark.parametrize("absent", [False, True])
@pytest.mark.parametrize("threshold", [-1e6, -0.3])
def test_the_published_loop(count: int, absent: bool, threshold: float) -> None:
    ours, batches = made(count, threshold=threshold, beta=0.7), [data(count, absent), data(count)]
    theirs = copy.deepcopy(ours)
    run(ours, batches, 5)
    assert plain_loop(theirs, batches, 5, threshold, 0.7) > 0
    for name, value in weights(theirs.model).items():
        assert torch.allclose(weights(ours.model)[name], value, atol=1e-12, rtol=0), name


def test_outside_of_the_window_it_is_joint_training() -> None:
    from equimodal.methods import Joint

    ours, joint, batches = made(2, threshold=0.999), made(2, Joint), [data(2)]
    run(ours, batches, 4)
    run(joint, batches, 4)
    assert_identical(weights(ours.model), weights(joint.model))


@pytest.mark.parametrize(
    ("traces", "opened"), [([1.0], False), ([1.0, 1.0], False), ([1.0, 1.05], True), ([1.0, 1.03], False),
                           ([2.0, 1.0], False), ([0.0, 0.0], False)],
)  # fmt: skip
def test_when_the_window_is_open(traces: list[float], opened: bool) -> None:
    """K = 0.04: the growth is relative to the newer trace."""
    method = made(2)
    for epoch, value in enumerate(traces):
        method.window.traces[0], method.window.traces[1] = 3 * value, 3.0
        method.on_train_epoch_end(EpochContext(epoch))
    method.on_train_epoch_start(EpochContext(len(traces)))
    assert {m: method.window.is_open(m) for m in "ab"} == dict.fromkeys("ab", opened)
    assert bool(method.window._start) is opened


def test_the_first_step_of_an_epoch_pulls_at_nothing() -> None:
    ours, plain = made(2, threshold=-1e6), made(2, threshold=0.999)
    for epoch in range(3):
        for method in (ours, plain):
            engine = sgd(method, lr=0.1, momentum=0.0)
            method.on_train_epoch_start(EpochContext(epoch))
            report = method.training_step(data(2), engine)
            method.on_train_epoch_end(EpochContext(epoch))
    assert_identical(weights(ours.model), weights(plain.model))
    strength = report.coefficients["strength"]
    assert [float(a) for a in strength.values()] == [0.0, 0.0]


def test_unimodal_losses() -> None:
    """InfoReg* adds the losses of the two parts of the head."""
    method, batch = made(2, unimodal_weight=1.0), data(2)
    with torch.no_grad():
        method.model.head.weight.zero_()
        method.model.head.bias.zero_()
    method.on_train_epoch_start(EpochContext(0))
    report = method.training_step(batch, sgd(method))
    assert float(report.losses["joint"]) == pytest.approx(3 * math.log(3), abs=1e-12)


def test_refusals() -> None:
    encoders = {"a": nn.Linear(3, 4), "b": nn.Linear(4, 4)}
    deep = nn.Sequential(nn.Linear(8, 5), nn.ReLU(), nn.Linear(5, 3))
    with pytest.raises(ModelError, match="`model`"):
        InfoReg(MultimodalModel(encoders, Concat({"a": 4, "b": 4}), deep), Classification(3))
    with pytest.raises(MethodError, match="`threshold`"):
        made(2, threshold=1.5)
