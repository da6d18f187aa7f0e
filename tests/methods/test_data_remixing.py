"""Data Remixing: who is assigned to what, in which batches, and the loop written out."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from equimodal import Batch, Classification
from equimodal.errors import MethodError, UnsupportedError
from equimodal.methods import DataRemixing, EpochContext
from equimodal.testing import ToyData
from tests.helpers import sgd, weights
from tests.methods.toys import linear_model, random_batch


def made(count: int, **options: Any) -> Any:
    return DataRemixing(linear_model(count), Classification(3), **{"warmup": 1, **options}).double().train()


def data(count: int, absent: bool = False, size: int = 30) -> Batch:
    return random_batch(count, size, absent)


def has(batch: Batch, m: str, i: int) -> bool:
    return batch.present is None or m not in batch.present or bool(batch.present[m][i])


def assigned_by_loops(method: Any, batch: Batch) -> list[str]:
    """Of the modalities that a sample has, the one whose prediction has the largest entropy."""
    found = []
    for i in range(len(batch)):
        entropies = {}
        for m in method.modalities:
            if has(batch, m, i):
                p = torch.softmax(method.heads[m](method.model.encoder(m)(batch.inputs[m][i : i + 1])), 1)[0]
                entropies[m] = float(-(p * p.log()).sum().detach())
        found.append(max(entropies, key=lambda m: entropies[m]))
    return found


@pytest.mark.parametrize("count", [2, 3])
@pytest.mark.parametrize("absent", [False, True])
@pytest.mark.parametrize("variant", ["paper", "released"])
def test_the_plan(count: int, absent: bool, variant: Any) -> None:
    method, batch = made(count, variant=variant), data(count, absent, 90)
    expected = assigned_by_loops(method, batch)
    assert set(expected) == set(method.modalities)
    source = ToyData([batch])
    method.on_train_epoch_start(source.context(1))
    order: list[str] = []
    seen: dict[int, str] = {}
    for b in source.epoch():
        assert b.present is not None
        (m,) = [m for m in method.modalities if bool(b.present[m].any())]
        assert bool(b.present[m].all())
        order.append(m)
        seen |= dict.fromkeys(b.index.tolist(), m)
    assert [seen[i] for i in range(90)] == expected
    names = list(method.modalities)
    assert order == (names[::-1] if variant == "released" else names)


def test_the_loop_written_out() -> None:
    """Two epochs of warm-up, two remixed: the weights of a loop without the library."""
    ours, batch = made(2, warmup=2, warmup_weight=0.3, weight=0.7), data(2)
    theirs, source = copy.deepcopy(ours), ToyData([batch])
    engine = sgd(ours, lr=0.1, momentum=0.0)
    for epoch in range(4):
        ours.on_train_epoch_start(source.context(epoch))
        if epoch < 2:
            step(theirs, batch, list(range(30)), ("a", "b"), 0.3)
        else:
            assigned = assigned_by_loops(theirs, batch)
            for m in theirs.modalities:
                step(theirs, batch, [i for i in range(30) if assigned[i] == m], (m,), 0.7)
        for b in source.epoch():
            ours.training_step(b, engine)
    for name, value in weights(theirs).items():
        assert torch.allclose(weights(ours)[name], value, atol=1e-12, rtol=0), name


def step(method: Any, batch: Batch, rows: list[int], kept: tuple[str, ...], weight: float) -> None:
    assert batch.target is not None
    y = batch.target[rows]
    z = {m: method.model.encoder(m)(batch.inputs[m][rows]) for m in method.modalities}
    joined = torch.cat([z[m] if m in kept else torch.zeros_like(z[m]) for m in method.modalities], 1)
    loss = nn.functional.cross_entropy(method.model.head(joined), y)
    for m in kept:
        loss = loss + weight * nn.functional.cross_entropy(method.heads[m](z[m]), y)
    moved = [p for m in kept for p in (*method.model.encoder(m).parameters(), *method.heads[m].parameters())]
    moved += list(method.model.head.parameters())
    gradients: tuple[Tensor, ...] = torch.autograd.grad(loss, moved)
    with torch.no_grad():
        for p, g in zip(moved, gradients, strict=True):
            p -= 0.1 * g


@pytest.mark.parametrize("absent", [False, True])
def test_samples_that_stay_complete(absent: bool) -> None:
    """A drawn share of the samples keeps all that it has; the others keep one modality, as without the share."""
    method, batch = made(3, keep_joint=0.4, seed=7), data(3, absent, 90)
    expected = assigned_by_loops(method, batch)
    kept = torch.rand(90, generator=torch.Generator().manual_seed(7)) < 0.4
    source = ToyData([batch])
    method.on_train_epoch_start(source.context(1))
    seen: dict[int, set[str]] = {i: set() for i in range(90)}
    for b in source.epoch():
        assert b.index is not None
        assert b.present is not None
        for m in method.modalities:
            for i in b.index[b.present.get(m, torch.ones(len(b), dtype=torch.bool))].tolist():
                seen[i].add(m)
    for i in range(90):
        whole = {m for m in method.modalities if has(batch, m, i)}
        assert seen[i] == (whole if kept[i] else {expected[i]}), i
    with pytest.raises(MethodError, match="`keep_joint`"):
        made(2, keep_joint=1.5)


def test_equal_predictions() -> None:
    """All say nothing: the first, in the released variant the last."""
    for variant, m in (("paper", "a"), ("released", "b")):
        method = made(2, variant=variant)
        with torch.no_grad():
            for p in method.heads.parameters():
                p.zero_()
        source = ToyData([data(2)])
        method.on_train_epoch_start(source.context(1))
        (only,) = source.epoch()
        assert only.count(m) == 30


def test_warmup_and_refusals() -> None:
    method, batch = made(2), data(2)
    method.on_train_epoch_start(EpochContext(0))
    assert method.weight == 0.5
    with pytest.raises(MethodError, match=r"context.loader"):
        method.on_train_epoch_start(EpochContext(1))
    with pytest.raises(UnsupportedError, match="plan"):
        method.on_train_epoch_start(EpochContext(1, loader=[batch]))
    with pytest.raises(MethodError, match="`warmup`"):
        made(2, warmup=-1)
