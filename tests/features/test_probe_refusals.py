"""Probe runs that are refused or fail, and loaders of other kinds."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader

from equimodal import Batch
from equimodal.data import loader
from equimodal.errors import EquimodalError, MethodError, UnsupportedError
from equimodal.methods import EpochContext
from equimodal.methods.parts import probe_run
from tests.features.test_probe_run import context_of, made, plain_losses
from tests.features.users_data import dataset
from tests.helpers import assert_identical, sgd, weights


def test_wrong_arguments() -> None:
    method = made()
    context = context_of(method)
    wrong: list[dict[str, Any]] = [{}, {"epochs": 1, "steps": 1}]
    for options in wrong:
        with pytest.raises(MethodError, match="`epochs`, `steps`: expected one of the two"):
            probe_run(method, context, **options)
    wrong = [{"epochs": 0}, {"steps": -1}, {"steps": 1.5}]
    for options in wrong:
        with pytest.raises(MethodError, match=r"`(epochs|steps)`: expected an integer >= 1"):
            probe_run(method, context, **options)
    with pytest.raises(MethodError, match=r"`context.loader`: Blend trains a copy aside. Found None"):
        probe_run(method, EpochContext(0, engine=context.engine), steps=1)
    with pytest.raises(MethodError, match=r"`context.engine`: Blend trains a copy aside. Found None"):
        probe_run(method, EpochContext(0, loader=context.loader), steps=1)
    with pytest.raises(MethodError, match="at least one"):
        probe_run(method, context_of(method, loader=[]), steps=1)


def test_what_cannot_be_copied_or_passed_twice() -> None:
    method = made()

    class Foreign:
        optimizers = ()

    with pytest.raises(UnsupportedError, match=r"a PlainEngine is made like the one that trains. Found Foreign"):
        probe_run(method, context_of(method, Foreign()), steps=1)
    with pytest.raises(UnsupportedError, match="Found an iterator, which has one pass"):
        probe_run(method, context_of(method, loader=iter(list(loader(dataset().train, 8)))), steps=1)
    lasting = DataLoader(dataset().train, 4, num_workers=1, persistent_workers=True)
    with pytest.raises(UnsupportedError, match="persistent_workers=False"):
        probe_run(method, context_of(method, loader=lasting), steps=1)
    method.model.cache = method.model.head(torch.zeros(1, 18, dtype=torch.float64))
    with pytest.raises(UnsupportedError, match=r"copy\.deepcopy cannot copy"):
        probe_run(method, context_of(method), steps=1)


def test_a_failure_leaves_no_trace_either() -> None:
    method = made(norm=True)
    engine = sgd(method, lr=1e30)
    before, state = weights(method), torch.get_rng_state()
    with pytest.raises(EquimodalError):
        probe_run(method, context_of(method, engine), steps=20)
    assert_identical(before, weights(method))
    assert torch.equal(state, torch.get_rng_state())
    assert not engine.optimizers[0].state


class Stateful:
    """A foreign loader that shuffles by a generator of its own and knows its position."""

    def __init__(self) -> None:
        self.batches = list(loader(dataset().train, 8))
        self.generator = torch.Generator().manual_seed(1)
        self.position = 0

    def __iter__(self) -> Iterator[Batch]:
        for i in torch.randperm(3, generator=self.generator).tolist():
            self.position += 1
            yield self.batches[i]

    def state_dict(self) -> dict[str, int]:
        return {"position": self.position}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.position = state["position"]


def test_loaders_of_other_kinds_stay_where_they_are() -> None:
    method, own = made(), Stateful()
    next(iter(own))
    before = own.generator.get_state()
    probe_run(method, context_of(method, loader=own), epochs=2)
    assert own.position == 1
    assert torch.equal(before, own.generator.get_state())
    generator = torch.Generator().manual_seed(2)
    foreign = DataLoader(dataset().train, 8, shuffle=True, generator=generator)
    before, state = generator.get_state(), torch.get_rng_state()
    found = probe_run(method, context_of(method, loader=foreign), epochs=1)
    assert torch.equal(before, generator.get_state())
    assert torch.equal(state, torch.get_rng_state())
    assert found.training_before.loss == pytest.approx(plain_losses(method)["training"]["fused"], abs=1e-12)
