"""Batches that are cut when they are asked for."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from equimodal.data import from_arrays, loader
from equimodal.data._cuts import Cuts, bounds, shuffled
from equimodal.data._plan import Plan


def plain_batches(groups: list[int] | None, count: int, size: int, processes: int, drop: bool) -> list[list[int]]:
    """Runs of one group, cut one after the other, by a loop."""
    runs = [list(range(count))]
    if groups is not None:
        runs = [[i for i in range(count) if groups[i] == g] for g in sorted(set(groups))]
    whole = size * processes
    parts = [run[start : start + whole] for run in runs for start in range(0, len(run), whole)]
    full = [part for part in parts if len(part) == whole]
    if drop:
        return full
    kept = [part for part in parts if len(part) == whole or len(part) // processes >= 2]
    return kept or [part for part in parts if len(part) >= processes]


@pytest.mark.parametrize("grouped", [False, True])
@pytest.mark.parametrize("processes", [1, 2, 3])
@pytest.mark.parametrize("drop", [False, True])
def test_batches_of_a_plan_are_those_of_a_loop(grouped: bool, processes: int, drop: bool) -> None:
    random = np.random.default_rng(0)
    for count, size in ((1, 4), (7, 2), (40, 3), (41, 4), (3, 1)):
        groups = random.integers(0, 4, count).tolist() if grouped else None
        rows = torch.arange(count)
        numbers = None if groups is None else torch.tensor(groups)
        plan = Plan({"a": rows}, rows, numbers, True, processes)
        expected = plain_batches(groups, count, size, processes, drop)
        for rank in range(processes):
            found = [batch.tolist() for batch in plan.batches(size, drop, None, rank)]
            assert found == [part[rank::processes] for part in expected]
        assert plan.count(size, drop) == len(expected)


def test_shuffled_batches_of_groups_are_whole_and_of_one_group() -> None:
    groups = torch.tensor([0, 1, 1, 0, 2, 1, 0, 0, 2, 1])
    plan = Plan({"a": torch.arange(10)}, torch.arange(10), groups, False, 1)
    batches = [b.tolist() for b in plan.batches(2, False, torch.Generator().manual_seed(3))]
    assert sorted(i for b in batches for i in b) == list(range(10))
    assert all(len({int(groups[i]) for i in b}) == 1 for b in batches)
    order = [int(groups[b[0]]) for b in batches]
    assert order != sorted(order)


def test_a_short_order_is_the_order_of_64_bits() -> None:
    for count in (1, 2, 1000, 70_001):
        wide = torch.randperm(count, generator=torch.Generator().manual_seed(count))
        narrow = shuffled(count, torch.Generator().manual_seed(count))
        assert narrow.dtype == torch.int32
        assert torch.equal(narrow.long(), wide)


def test_cuts_are_places_in_other_rows() -> None:
    starts, stops = bounds(torch.tensor([5, 0, 2]), 2)
    cuts = Cuts(torch.tensor([6, 5, 4, 3, 2, 1, 0], dtype=torch.int32), starts, stops, (1, 2), torch.arange(7) * 10)
    assert [c.tolist() for c in cuts] == [[50], [30], [], [0]]
    assert len(cuts) == 4


def seconds(function: Any) -> float:
    begin = time.thread_time()
    function()
    return time.thread_time() - begin


def test_the_first_batch_of_a_million_rows_comes_at_once() -> None:
    count = 1_000_000
    part = np.zeros(count, np.int64)
    part[-2000:-1000], part[-1000:] = 1, 2
    data = from_arrays({"a": np.ones((count, 2), np.float32)}, np.arange(count) % 2, part, standardise={"a": "none"})
    batches = loader(data.train, 64, seed=0)
    made: list[Tensor] = []

    def first() -> None:
        made.append(next(iter(batches)).index)  # type: ignore[arg-type]

    needed = []
    for epoch in range(5):
        batches.set_epoch(epoch)
        needed.append(seconds(first))
    whole = max(seconds(lambda: torch.randperm(count).tolist()) for _ in range(3))  # an order as objects
    assert sorted(needed)[2] < 2 * whole, (needed, whole)
    assert len({tuple(m.tolist()) for m in made}) == 5
    assert seconds(lambda: len(batches)) < whole
