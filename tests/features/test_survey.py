"""Sums over the whole batch before its first forward pass, also where the batch is one."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from equimodal import Batch, PlainEngine
from equimodal.engine import Objective, Phase, Survey
from equimodal.errors import MethodError, NonFiniteError
from tests.features import facility_workers, workers
from tests.features.users import Ahead, indexed, user
from tests.helpers import any_batch, sgd, split


def phase(always: bool, received: list[float]) -> tuple[nn.Parameter, Phase]:
    x = nn.Parameter(torch.tensor([2.0]))

    def receive(sums: Mapping[str, Tensor]) -> None:
        received.append(float(sums["n"]))

    def couple(own: Mapping[str, Tensor], totals: Mapping[str, Tensor]) -> Objective:
        raise AssertionError

    survey = Survey(lambda b: {"n": torch.tensor(float(len(b)))}, receive, couple, always)
    return x, Phase("joint", lambda _: Objective(x.sum()), [x], survey=survey)


@pytest.mark.parametrize(
    ("always", "parts", "expected"), [(True, 1, [6.0]), (False, 1, []), (True, 3, [6.0]), (False, 3, [6.0])]
)
def test_when_sums_are_gathered(always: bool, parts: int, expected: list[float]) -> None:
    received: list[float] = []
    x, made = phase(always, received)
    batch = any_batch(6)
    PlainEngine(torch.optim.SGD([x], lr=0.1)).descend(made, split(batch, parts))
    assert received == ([6.0] if always or parts > 1 else [])


@pytest.mark.distributed
def test_of_two_processes_with_one_micro_batch_each(tmp_path: Path) -> None:
    for received, gradient in workers.run(facility_workers.surveys, tmp_path / "group"):
        assert received == [5.0]
        assert gradient.tolist() == [5.0]


def test_the_pass_before_leaves_no_trace() -> None:
    """Running statistics and random numbers are those of the training pass alone; the sums are of the same dropout."""
    method = user("survey", norm=True)
    assert isinstance(method, Ahead)
    batch = indexed()
    scales = []
    states = []
    for once in (True, False):
        method = user("survey", norm=True)
        assert isinstance(method, Ahead)
        torch.manual_seed(5)
        if once:
            sgd(method, lr=0.0).descend(next(iter(method.phases([batch]))), [batch])
        else:
            with torch.no_grad():
                state = torch.get_rng_state()
                method.receive(method.gather(batch))  # moves statistics, which the next pass must not
            fresh = user("survey", norm=True)
            assert isinstance(fresh, Ahead)
            fresh.scales = method.scales
            torch.set_rng_state(state)
            fresh.objective(batch)
            method = fresh
        scales.append(method.scales)
        states.append((torch.get_rng_state(), dict(method.named_buffers())))
    assert all(torch.equal(scales[0][m], scales[1][m]) for m in scales[0])
    assert torch.equal(states[0][0], states[1][0])


def test_running_statistics_are_counted_once() -> None:
    method = user("survey", norm=True)
    engine = sgd(method, lr=0.0)
    method.training_step(indexed(), engine)
    counted = [b for n, b in method.named_buffers() if "num_batches" in n]
    assert counted
    assert all(int(b) == 1 for b in counted)


def test_sums_that_are_not_finite_are_an_error() -> None:
    method = user("survey")
    batch = indexed()
    inputs = {**batch.inputs, "a": batch.inputs["a"].clone()}
    inputs["a"][3] = float("nan")
    with pytest.raises(NonFiniteError, match=r"inputs\['a'\]"):
        method.training_step(Batch(inputs, batch.target, None, batch.index), sgd(method))


def test_a_survey_without_a_way_to_couple_is_always_made() -> None:
    with pytest.raises(MethodError, match=r"`couple`.*always=True"):
        Survey(lambda _: {}, lambda _: None)
    assert Survey(lambda _: {}, lambda _: None, always=True).couple is None
