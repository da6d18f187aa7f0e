"""SMV: the values and the plan, by loops over samples and sets."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from equimodal import Batch, Classification
from equimodal.errors import MethodError, UnsupportedError
from equimodal.methods import SMV, EpochContext
from equimodal.tasks import Regression
from equimodal.testing import ToyData
from tests.helpers import sgd, weights
from tests.methods.toys import linear_model, random_batch


def made(count: int, **options: Any) -> Any:
    return SMV(linear_model(count), Classification(3), **{"warmup": 1, **options}).double().train()


def data(count: int, absent: bool = False, size: int = 12) -> Batch:
    return random_batch(count, size, absent)


def values_by_loops(method: Any, batch: Batch) -> list[dict[str, float]]:
    """phi of each sample, over the modalities that it has; the split of the head by hand, absent features zero."""
    head, names = method.model.head, list(method.modalities)
    found = []
    for i in range(len(batch)):
        own = [m for m in names if batch.present is None or m not in batch.present or batch.present[m][i]]

        def value(members: tuple[str, ...], i: int = i) -> float:
            if not members:
                return 0.0
            z = [method.model.encoder(m)(batch.inputs[m][i]) if m in members else torch.zeros(4).double()
                 for m in names]  # fmt: skip
            assert batch.target is not None
            return float(len(members) * (head(torch.cat(z)).argmax() == batch.target[i]))

        phi = {}
        for m in own:
            others, total = [n for n in own if n != m], 0.0
            for size in range(len(own)):
                weight = math.factorial(size) * math.factorial(len(own) - size - 1) / math.factorial(len(own))
                for s in itertools.combinations(others, size):
                    total += weight * (value((*s, m)) - value(s))
            phi[m] = total
        found.append(phi)
    return found


def rows_of(epoch: list[Batch], names: list[str]) -> list[tuple[int, tuple[str, ...]]]:
    """Each row's sample, and the modalities that it has."""
    rows = []
    for b in epoch:
        for i in range(len(b)):
            there = tuple(m for m in names if b.present is None or m not in b.present or bool(b.present[m][i]))
            assert b.index is not None
            rows.append((int(b.index[i]), there))
    return sorted(rows)


def planned(method: Any, batch: Batch, epoch: int = 1) -> list[Batch]:
    source = ToyData([batch])
    method.on_train_epoch_start(source.context(epoch))
    return source.epoch()


@pytest.mark.parametrize("count", [2, 3])
@pytest.mark.parametrize("absent", [False, True])
def test_the_plan_of_the_sample_level(count: int, absent: bool) -> None:
    method, batch = made(count), data(count, absent, size=48)
    names = list(method.modalities)
    expected = []
    seen = set()
    for i, phi in enumerate(values_by_loops(method, batch)):
        expected.append((i, tuple(phi)))
        for m, value in ((m, round(v, 9)) for m, v in phi.items()):
            copies = 3 if value < -0.1 else 2 if -0.1 < value < 0.4 else 1 if 0.4 < value < 1 else 0
            expected += [(i, (m,))] * (copies if len(phi) > 1 else 0)
            seen.add(copies)
    assert seen >= ({0, 2} if absent else {0, 1, 2, 3})
    epoch = planned(method, batch)
    assert rows_of(epoch, names) == sorted(expected)
    for b in () if absent else epoch:  # copies of one modality have batches of their own
        kinds = {there for _, there in rows_of([b], names)}
        assert kinds <= {r for r in kinds if len(r) > 1} or len(kinds) == 1


@pytest.mark.parametrize("count", [2, 3])
@pytest.mark.parametrize("variant", ["paper", "released"])
def test_the_modality_level(count: int, variant: Any) -> None:
    method, batch = made(count, level="modality", variant=variant, seed=5, alpha=3.9), data(count, size=60)
    values = values_by_loops(method, batch)
    means = [sum(phi[m] for phi in values) / 60 for m in method.modalities]
    weakest = min(range(count), key=lambda k: means[k])
    gap = (sum(means) - means[weakest]) / (count - 1) - means[weakest]
    share = 2 / 3 * 3.9 * gap
    assert 0.05 < share < 1, share
    epoch = planned(method, batch)
    alone = [r for r in rows_of(epoch, list(method.modalities)) if len(r[1]) == 1]
    assert {r[1] for r in alone} == {(method.modalities[weakest],)}
    g = torch.Generator().manual_seed(5)
    if variant == "released":
        assert len(alone) == int(share * 60)
    else:
        assert len(alone) == int((torch.rand(60, generator=g) < share).sum())
        assert len({r[0] for r in alone}) == len(alone)


def test_training_goes_on_with_the_plan() -> None:
    """Three epochs, the second and third planned: joint training on rows that are made by hand."""
    ours, batch = made(2), data(2)
    source, engine = ToyData([batch]), sgd(ours, lr=0.1, momentum=0.0)
    theirs = made(2)
    for epoch in range(3):
        ours.on_train_epoch_start(source.context(epoch))
        values = values_by_loops(theirs, batch)
        rows: list[tuple[int, Any]] = [(i, None) for i in range(12)]
        for m in theirs.modalities if epoch else ():
            for i, phi in enumerate(values):
                v = round(phi[m], 9)
                rows += [(i, m)] * (3 if v < -0.1 else 2 if -0.1 < v < 0.4 else 1 if 0.4 < v < 1 else 0)
        for kind in (None, "a", "b"):
            own = [i for i, k in rows if k == kind]
            for start in range(0, len(own), 12):
                part = own[start : start + 12]
                if len(part) >= 4:
                    step(theirs, batch, part, kind)
        for b in source.epoch():
            ours.training_step(b, engine)
    for name, value in weights(theirs).items():
        assert torch.allclose(weights(ours)[name], value, atol=1e-12, rtol=0), name


def step(method: Any, batch: Batch, rows: list[int], kind: str | None) -> None:
    z = [method.model.encoder(m)(batch.inputs[m][rows]) * (kind in (None, m)) for m in method.modalities]
    assert batch.target is not None
    loss = nn.functional.cross_entropy(method.model.head(torch.cat(z, 1)), batch.target[rows])
    moved = [p for m in method.modalities if kind in (None, m) for p in method.model.encoder(m).parameters()]
    moved += list(method.model.head.parameters())
    gradients: tuple[Tensor, ...] = torch.autograd.grad(loss, moved)
    with torch.no_grad():
        for p, g in zip(moved, gradients, strict=True):
            p -= 0.1 * g


def test_warmup_and_refusals() -> None:
    method, batch = made(2), data(2)
    method.on_train_epoch_start(EpochContext(0))
    with pytest.raises(MethodError, match=r"context.loader"):
        method.on_train_epoch_start(EpochContext(1))
    with pytest.raises(UnsupportedError, match="plan"):
        method.on_train_epoch_start(EpochContext(1, loader=[batch]))
    with pytest.raises(MethodError, match="`alpha`"):
        made(2, alpha=0.0)
    with pytest.raises(MethodError, match="`task`"):
        SMV(method.model, Regression())
