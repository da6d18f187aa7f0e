"""Worker processes that stay, and batches that several processes share."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch

from equimodal.data import Dataset, from_arrays, loader
from equimodal.data._loader import Loader
from equimodal.errors import DataError


def dataset() -> Dataset:
    """23 training samples."""
    x = np.arange(31, dtype=np.float32)[:, None]
    split = ["train"] * 23 + ["validation"] * 4 + ["test"] * 4
    return from_arrays({"row": x}, np.arange(31) % 2, split, standardise={"row": "none"})


def rows(batch: Any) -> list[int]:
    found: list[int] = batch.index.tolist()
    return found


def epochs(batches: Any, count: int = 3) -> list[list[list[int]]]:
    return [[rows(b) for b in batches] for _ in range(count)]


def test_workers_give_the_same_batches_and_stay() -> None:
    split = dataset().train
    own = loader(split, 4, seed=2, num_workers=1)
    first = [rows(b) for b in own]
    processes = own._workers._loader._iterator._workers  # type: ignore[union-attr]
    pids = [p.pid for p in processes]
    iterator = iter(own)  # an epoch whose last batch is taken and no more is asked for, as the Trainer does
    second = [rows(next(iterator)) for _ in range(len(own))]
    third = [rows(b) for b in own]
    assert [p.pid for p in own._workers._loader._iterator._workers] == pids  # type: ignore[union-attr]
    assert [first, second, third] == epochs(loader(split, 4, seed=2))


def test_epochs_of_a_plan_use_the_same_processes() -> None:
    split = dataset().train
    own, plain = loader(split, 4, seed=2, num_workers=1), loader(split, 4, seed=2)
    for batches in (own, plain):
        list(batches)
        batches.plan({"row": [3, 3, 5, 7, 9, 11, 0, 1]})
    pids = [p.pid for p in own._workers._loader._iterator._workers]  # type: ignore[union-attr]
    assert epochs(own, 2) == epochs(plain, 2)
    own.plan(None)
    plain.plan(None)
    assert epochs(own, 1) == epochs(plain, 1)
    assert [p.pid for p in own._workers._loader._iterator._workers] == pids  # type: ignore[union-attr]


def test_a_pass_inside_a_pass_and_a_pass_that_is_left() -> None:
    split = dataset().train
    own, plain = loader(split, 4, seed=2, num_workers=1), loader(split, 4, seed=2)
    iterator = iter(own)
    next(iterator)
    inside = [rows(b) for b in own.full_pass()]
    assert inside == [rows(b) for b in plain.full_pass()]
    iterator.close()  # type: ignore[attr-defined]
    own.set_epoch(5)
    plain.set_epoch(5)
    assert epochs(own, 1) == epochs(plain, 1)
    assert copy.deepcopy(own)._workers._loader is None


@pytest.mark.parametrize("processes", [2, 3])
def test_shares_are_those_of_the_joint_batches(processes: int) -> None:
    split = dataset().train

    def shared(rank: int) -> Any:
        return Loader(split, 2, True, 7, True, 0, torch.arange(len(split)), share=(rank, processes))

    whole = epochs(loader(split, 2 * processes, seed=7, drop_last=True))
    parts = [epochs(shared(rank)) for rank in range(processes)]
    for number, epoch in enumerate(whole):
        for batch, joint in enumerate(epoch):
            for rank in range(processes):
                assert parts[rank][number][batch] == joint[rank::processes]
    seen = [rows(b) for rank in range(processes) for b in shared(rank).full_pass()]
    assert sorted(i for part in seen for i in part) == sorted(rows(split.batch(range(len(split)))))
    with pytest.raises(DataError, match="other settings|expected the keys"):
        shared(0).load_state_dict(loader(split, 2, seed=7, drop_last=True).state_dict())
