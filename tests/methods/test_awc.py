"""AWC against its equations, its anchors, and what it refuses."""

from __future__ import annotations

import copy
import itertools
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from equimodal import Batch, PlainEngine, Regression
from equimodal.errors import MethodError
from equimodal.methods import AWC, EpochContext
from tests.helpers import make_method, plain_batch, plain_model

F64 = torch.float64
SIZES = {"a": 4, "b": 3, "c": 2}
ORDERS = {count: list(itertools.permutations("abc"[:count])) for count in (2, 3)}


def batch_of(sizes: dict[str, int], seed: int, absent: bool) -> Batch:
    batch, g = plain_batch(sizes, 2, 6, seed), torch.Generator().manual_seed(seed + 7)
    target = torch.randn(6, 2, generator=g, dtype=F64)
    if not absent:
        return Batch(batch.inputs, target)
    masks = {m: torch.rand(6, generator=g) < 0.6 for m in sizes}
    masks["a"] |= ~(masks["a"] | masks["b"])
    return Batch(batch.inputs, target, masks)


def output_of(method: AWC, batch: Batch, kept: Any) -> Tensor:
    """With zero features for the modalities that are not kept."""
    features = method.multimodal.encode(batch.inputs, batch.present)
    inside = {m: f if m in kept else torch.zeros_like(f) for m, f in features.items()}
    output: Tensor = method.multimodal.head(method.multimodal.fuse(inside, batch.present))
    return output


def profit_of(method: AWC, batch: Batch, kept: Any) -> float:
    assert batch.target is not None
    x, y = output_of(method, batch, kept).detach().numpy(), batch.target.numpy()
    return sum(float(np.corrcoef(x[:, d], y[:, d])[0, 1]) if np.ptp(x[:, d]) > 1e-12 else 0.0 for d in range(2))


def strengths_of(method: AWC, batch: Batch, constraint: str) -> dict[str, float]:
    """Shapley values over all orders, and the best of all splits of the sorted values."""
    names = list(method.modalities)
    if constraint == "uniform":
        return dict.fromkeys(names, 0.8)
    orders = ORDERS[len(names)]
    shares = dict.fromkeys(names, 0.0)
    for order in orders:
        for i, m in enumerate(order):
            gain = profit_of(method, batch, order[: i + 1]) - profit_of(method, batch, order[:i])
            shares[m] += gain / len(orders)
    ordered = sorted(names, key=lambda m: shares[m])
    costs = []
    for cut in range(1, len(ordered)):
        parts = [np.array([shares[m] for m in part]) for part in (ordered[:cut], ordered[cut:])]
        costs.append(sum(float(((p - p.mean()) ** 2).sum()) for p in parts))
    ahead = ordered[int(np.argmin(costs)) + 1 :]
    return {m: 0.8 if m in ahead else 0.3 for m in names}


@pytest.mark.parametrize("constraint", ["adaptive", "uniform"])
@pytest.mark.parametrize("anchor", ["epoch", "initial"])
@pytest.mark.parametrize("count", [2, 3])
@pytest.mark.parametrize("absent", [False, True])
def test_three_epochs_of_the_equations(constraint: Any, anchor: Any, count: int, absent: bool) -> None:
    """Two steps in each of three epochs; in the third the constraint has ended."""
    sizes = dict(list(SIZES.items())[:count])
    options: dict[str, Any] = {"superior_strength": 0.8, "inferior_strength": 0.3, "epochs": 2, "anchor": anchor}
    ours = AWC(plain_model(sizes, 5, 2), Regression(2, loss="mse"), constraint=constraint, **options)
    theirs = copy.deepcopy(ours)
    engine, batches = (
        PlainEngine(torch.optim.SGD(ours.parameters(), lr=0.2)),
        [batch_of(sizes, s, absent) for s in (0, 1)],
    )
    parameters = list(theirs.model.parameters())
    encoders = {m: list(theirs.multimodal.parameters_of(m)) for m in sizes}
    stars: dict[int, Tensor] = {}
    fisher: dict[int, Tensor] = {}
    seen = set()
    for epoch in range(3):
        ours.on_train_epoch_start(EpochContext(epoch, 3, 2, batches))
        if epoch < 2 and (epoch == 0 or anchor == "epoch"):
            for own in encoders.values():
                for p in own:
                    stars[id(p)], fisher[id(p)] = p.detach().clone(), torch.zeros_like(p)
            for batch in batches:
                for i in range(6):
                    one = batch.select(torch.tensor([i]))
                    assert one.target is not None
                    loss = (output_of(theirs, one, sizes) - one.target).square().mean()
                    for own in encoders.values():
                        for p, g in zip(
                            own, torch.autograd.grad(loss, own, retain_graph=True, allow_unused=True), strict=True
                        ):
                            if g is not None:
                                fisher[id(p)] += g**2 / 12
        for batch in batches:
            ours.training_step(batch, engine)
            assert batch.target is not None
            strengths = strengths_of(theirs, batch, constraint)
            seen.add(tuple(strengths.values()))
            total = (output_of(theirs, batch, sizes) - batch.target).square().mean()
            if epoch < 2:
                for m, own in encoders.items():
                    for p in own:
                        total = total + strengths[m] / 2 * (fisher[id(p)] * (p - stars[id(p)]).square()).sum()
            for p, g in zip(parameters, torch.autograd.grad(total, parameters), strict=True):
                p.data -= 0.2 * g
    for (name, p), q in zip(ours.model.named_parameters(), parameters, strict=True):
        assert torch.allclose(p, q, rtol=0, atol=1e-11), name
    assert constraint == "uniform" or any(0.8 in s and 0.3 in s for s in seen)


def test_a_strong_constraint_holds_the_encoders() -> None:
    batch = batch_of(SIZES, 0, False)
    moved = []
    for strength in (0.0, 50.0):
        method = AWC(plain_model(SIZES, 5, 2), Regression(2), constraint="uniform", superior_strength=strength)
        torch.manual_seed(0)
        for p in method.parameters():
            p.data = torch.randn(p.shape, dtype=F64)
        before = [p.detach().clone() for p in method.multimodal.parameters_of("a")]
        engine = PlainEngine(torch.optim.SGD(method.parameters(), lr=0.005))
        method.on_train_epoch_start(EpochContext(0, 1, 1, [batch]))
        for _ in range(20):
            method.training_step(batch, engine)
        now = method.multimodal.parameters_of("a")
        moved.append(sum(float((p - q).detach().square().sum()) for p, q in zip(now, before, strict=True)))
    assert moved[1] < 0.5 * moved[0]


def test_refusals() -> None:
    method = make_method("AWC", 2)
    with pytest.raises(MethodError, match=r"`context.loader`: .* or use epochs=0"):
        method.on_train_epoch_start(EpochContext(0))
    with pytest.raises(MethodError, match="`superior_strength`: expected a number >= 0"):
        make_method("AWC", 2, superior_strength=-1.0)
    make_method("AWC", 2, epochs=0).on_train_epoch_start(EpochContext(0))
