"""The plan of an epoch: rows that repeat, drop and recombine samples; groups; resuming; what is refused."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch

from equimodal import Batch
from equimodal.batch import Tokens
from equimodal.data import Dataset, Loader, TrainSplit, from_arrays, loader
from equimodal.data._card import parse_card
from equimodal.data._dataset import build
from equimodal.errors import DataError, NonFiniteError
from tests.data.test_loader import rows as indices_of

COUNT = 11
"""Training samples of :func:`dataset`: rows 3 to 13, so that positions and rows differ."""


def dataset(**options: Any) -> Dataset:
    """Each feature is the row of its sample, in ``a`` as it is and in ``b`` negative; ``b`` is a sequence."""
    total = COUNT + 6
    a = np.arange(total, dtype=np.float32)[:, None]
    b = np.stack([-a, -a], axis=1)
    split = ["validation"] * 3 + ["train"] * COUNT + ["test"] * 3
    return from_arrays({"a": a, "b": b}, np.arange(total) % 2, split, standardise={"a": "none", "b": "none"}, **options)


def made(**options: Any) -> Loader[TrainSplit]:
    return loader(dataset().train, 4, **{"shuffle": False, **options})


def shown(batch: Batch) -> list[tuple[Any, ...]]:
    """(row of a or None, row of b or None, target, index) of each sample."""
    present = {m: batch.present[m] if batch.present and m in batch.present else torch.ones(len(batch)) for m in "ab"}
    assert batch.target is not None
    assert batch.index is not None
    return [
        (
            int(batch.inputs["a"][i, 0]) if present["a"][i] else None,
            -int(batch.inputs["b"][i, 0, 0]) if present["b"][i] else None,
            int(batch.target[i]),
            int(batch.index[i]),
        )
        for i in range(len(batch))
    ]


def test_rows_repeat_drop_and_recombine_samples() -> None:
    batches = made()
    batches.plan({"a": [0, 0, 5, -1, 2], "b": [0, 0, -1, 7, 9]}, target=[0, 0, 5, 7, 2])
    assert len(batches) == 1  # the fifth row would be alone
    batches.plan({"a": [0, 0, 5, -1, 2, 1], "b": [0, 0, -1, 7, 9, 1]}, target=torch.tensor([0, 0, 5, 7, 9, 1]))
    assert [shown(b) for b in batches] == [
        [(3, 3, 1, 3), (3, 3, 1, 3), (8, None, 0, 8), (None, 10, 0, 10)],
        [(5, 12, 0, 12), (4, 4, 0, 4)],  # the target and the index are those of position 9
    ]


def test_the_target_is_that_of_the_sample_where_there_is_one() -> None:
    batches = made()
    batches.plan({"a": [4, -1, 6], "b": [4, 2, -1]})
    assert [shown(b) for b in batches] == [[(7, 7, 1, 7), (None, 5, 1, 5), (9, None, 1, 9)]]
    with pytest.raises(
        DataError, match=r"`target`: expected positions .*Found None, with 2 such row\(s\), first \[1, 3"
    ):
        batches.plan({"a": [4, 1, 6, 5], "b": [4, 2, -1, 3]})


def test_the_plan_of_all_samples_is_the_order_without_a_plan() -> None:
    plain, planned = made(shuffle=True, seed=5), made(shuffle=True, seed=5)
    planned.plan({"a": range(COUNT), "b": np.arange(COUNT)})  # type: ignore[dict-item]
    assert len(planned) == len(plain) == 3
    for _ in range(3):
        for one, other in zip(plain, planned, strict=True):
            assert torch.equal(one.inputs["b"], other.inputs["b"])
            assert other.present is None
            assert indices_of([one]) == indices_of([other])
    assert plain.epoch == planned.epoch == 3


def test_epochs_shuffle_the_rows_by_seed_and_epoch() -> None:
    def epochs(seed: int) -> list[list[list[int]]]:
        batches = made(shuffle=True, seed=seed)
        batches.plan({"a": [i % 5 for i in range(10)], "b": [-1] * 10})
        return [indices_of(batches) for _ in range(2)]

    assert epochs(1) == epochs(1)
    assert epochs(1) != epochs(2)
    first, second = epochs(1)
    assert first != second
    for epoch in (first, second):
        assert [len(b) for b in epoch] == [4, 4, 2]
        assert sorted(i for b in epoch for i in b) == [3, 3, 4, 4, 5, 5, 6, 6, 7, 7]


def test_a_plan_lasts_until_the_next_and_is_taken_back() -> None:
    batches = made()
    whole = indices_of(batches)
    batches.plan({"a": [3, 4], "b": [3, 4]})
    assert "plan of 2 rows" in repr(batches)
    assert indices_of(batches) == indices_of(batches) == [[6, 7]]
    batches.plan({"a": [1, 1], "b": [1, 1]})
    assert indices_of(batches) == [[4, 4]]
    batches.plan(None)
    assert indices_of(batches) == whole


def test_a_running_epoch_is_not_changed() -> None:
    batches = made()
    iterator = iter(batches)
    first = next(iterator)
    batches.plan({"a": [3, 4], "b": [3, 4]})
    rest = list(iterator)
    assert indices_of([first, *rest]) == [[3, 4, 5, 6], [7, 8, 9, 10], [11, 12, 13]]
    assert indices_of(batches) == [[6, 7]]


def test_what_is_absent_is_not_read() -> None:
    """Neither looked at for NaN nor fetched."""
    total = 8
    a, b = np.ones((total, 2), np.float32), np.ones((total, 3), np.float32)
    split = ["train"] * 4 + ["validation"] * 2 + ["test"] * 2
    data = from_arrays({"a": a, "b": b}, np.arange(total) % 2, split, standardise={"a": "none", "b": "none"})
    source = data.train._store.sources["a"]
    assert source._ready is not None
    source._ready[2:4] = torch.nan  # after the check that is made when data are built
    batches = loader(data.train, 4, shuffle=False)
    with pytest.raises(NonFiniteError, match=r"inputs\['a'\]"):
        list(batches)
    batches.plan({"a": [0, 1, -1, -1], "b": [0, 1, 2, 3]})
    (batch,) = batches
    assert batch.inputs["a"].tolist() == [[1, 1], [1, 1], [0, 0], [0, 0]]
    assert batch.count("a") == 2
    asked: list[int] = []
    fetch = source.fetch
    source.fetch = lambda rows: asked.extend(rows.tolist()) or fetch(rows)  # type: ignore[method-assign, func-returns-value]
    list(batches)
    assert asked == [0, 1]


@pytest.mark.parametrize("mapped", [False, True])
def test_batches_in_which_nobody_has_a_modality(mapped: bool) -> None:
    """Zeros of the right shape and type: vectors, token ids, padded sequences, also of arrays on disk."""
    total, rng = 8, np.random.default_rng(0)
    arrays: dict[str, Any] = {
        "x": rng.normal(size=(total, 3)).astype(np.float32),
        "s": rng.normal(size=(total, 4, 2)).astype(np.float32),
        "n": rng.integers(0, 9, (total, 5)),
        "steps": np.array([4, 1, 2, 3, 4, 4, 4, 4]),
        "y": np.arange(total) % 2,
        "part": np.array([0] * 4 + [1] * 2 + [2] * 2),
    }
    card = {
        "name": "small",
        "modalities": {
            "x": {"array": "x", "kind": "vector"},
            "s": {"array": "s", "kind": "sequence", "mask": "steps", "transforms": [{"scale": 2.0}]},
            "n": {"array": "n", "kind": "tokens"},
        },
        "targets": {"y": {"array": "y", "task": "classification", "classes": ["no", "yes"]}},
        "protocols": {"p": {"array": "part", "train": 0, "validation": 1, "test": 2}},
    }
    data = build(arrays, parse_card(card, "small.yaml"), origin="small", mapped=mapped)
    batches = loader(data.train, 2, shuffle=False)
    full = next(iter(batches))
    nobody = [-1, -1]
    batches.plan({"x": [0, 1], "s": nobody, "n": nobody})
    (batch,) = batches
    assert torch.equal(batch.inputs["x"], full.inputs["x"])
    assert (batch.count("x"), batch.count("s"), batch.count("n")) == (2, 0, 0)
    assert batch.inputs["n"].dtype == full.inputs["n"].dtype == torch.int64
    assert batch.inputs["n"].shape == full.inputs["n"].shape
    assert isinstance(batch.inputs["s"], Tokens)
    assert batch.inputs["s"].values.shape == full.inputs["s"].values.shape
    assert not batch.inputs["s"].mask.any()
    batches.plan({"x": nobody, "s": [1, -1], "n": [-1, 1]})
    (batch,) = batches
    assert torch.equal(batch.inputs["s"].values[0], full.inputs["s"].values[1])
    assert batch.inputs["s"].mask.tolist() == [[True, False, False, False], [False] * 4]
    assert torch.equal(batch.inputs["n"][1], full.inputs["n"][1])
    assert not batch.inputs["n"][0].any()
    assert not batch.inputs["x"].any()


def test_samples_that_lack_a_modality_by_themselves() -> None:
    present = {"b": np.arange(COUNT + 6) % 2 == 0}  # rows 4, 6, ... have b: the odd positions
    batches = loader(dataset(present=present).train, 8, shuffle=False)
    batches.plan({"a": [0, 1, 3, -1], "b": [0, 1, 5, 7]}, target=[0, 1, 3, 7])
    (batch,) = batches
    assert shown(batch) == [(3, None, 1, 3), (4, 4, 0, 4), (6, 8, 0, 6), (None, 10, 0, 10)]
    with pytest.raises(DataError, match=r"1 row\(s\) without any, first \[2\]: each modality is -1, or absent"):
        batches.plan({"a": [0, 1, -1], "b": [0, 1, 2]})  # position 2 is row 5, which lacks b
    batches.plan({"a": [0, 2], "b": [1, 3]}, target=[0, 2])
    (batch,) = batches
    assert shown(batch) == [(3, 4, 1, 3), (5, 6, 1, 5)]


def test_every_batch_of_a_plan_has_the_same_masks() -> None:
    batches = made()
    batches.plan({"a": [*range(8)], "b": [*range(4), -1, -1, -1, -1]})
    assert [(sorted(b.present or ()), b.count("b")) for b in batches] == [(["b"], 4), (["b"], 0)]


# ---- groups ----------------------------------------------------------------------------------------------------------

GROUPS = [0, 1, 0, 1, 0, 1, 1, 0, 1, 1, 1]
"""4 rows of group 0, 7 of group 1."""


def groups_of(batches: Loader[TrainSplit]) -> list[list[int]]:
    return [[GROUPS[i - 3] for i in b] for b in indices_of(batches)]


def planned(blocks: bool = False, **options: Any) -> Loader[TrainSplit]:
    batches = loader(dataset().train, 2, **options)
    batches.plan({"a": range(COUNT), "b": range(COUNT)}, groups=GROUPS, blocks=blocks)
    return batches


def test_batches_are_of_one_group() -> None:
    orders = set()
    batches = planned()
    assert len(batches) == 5  # 2 + 3, and one row of group 1 that would be alone
    for _ in range(12):
        seen = groups_of(batches)
        assert all(len(set(batch)) == 1 for batch in seen)
        assert sorted(map(len, seen)) == [2] * 5
        orders.add(tuple(batch[0] for batch in seen))
    assert len(orders) > 2  # batches of different groups alternate


def test_blocks_of_batches_follow_each_other() -> None:
    batches = planned(blocks=True)
    for _ in range(4):
        assert [batch[0] for batch in groups_of(batches)] == [0, 0, 1, 1, 1]
    assert indices_of(batches) != indices_of(batches)  # the rows in them are shuffled
    assert [batch[0] for batch in groups_of(planned(shuffle=False))] == [0, 0, 1, 1, 1]
    assert indices_of(planned(shuffle=False))[0] == [3, 5]


def test_what_is_left_out() -> None:
    assert len(planned(drop_last=True)) == 5
    for sizes, batch_size, drop_last, expected in (
        ([5, 3], 4, False, [4, 3]),  # one of five is alone
        ([5, 3], 4, True, [4]),
        ([6, 3], 4, False, [4, 2, 3]),
        ([1, 4], 4, False, [4]),
        ([1, 1], 4, False, [1, 1]),  # nothing but single samples
        ([3, 2], 1, False, [1, 1, 1, 1, 1]),
    ):
        batches = loader(dataset().train, batch_size, shuffle=False, drop_last=drop_last)
        numbers = [g for g, n in enumerate(sizes) for _ in range(n)]
        batches.plan({"a": range(len(numbers)), "b": range(len(numbers))}, groups=numbers)
        assert [len(b) for b in batches] == expected
        assert len(batches) == len(expected)


# ---- resuming --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stop", [0, 1, 3, 4])
def test_resume_continues_inside_a_planned_epoch(stop: int, tmp_path: Any) -> None:
    whole = planned(seed=7)
    expected = indices_of(whole) + indices_of(whole)
    first = planned(seed=7)
    iterator = iter(first)
    seen = [next(iterator).index.tolist() for _ in range(stop)]  # type: ignore[union-attr]
    torch.save(first.state_dict(), tmp_path / "state.pt")
    second = loader(dataset().train, 2, seed=7)
    second.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    second.set_epoch(0)
    assert len(second) == 5
    seen += indices_of(second)
    seen += indices_of(second)  # the plan goes on
    assert seen == expected


@pytest.mark.parametrize("position", [0, 2])
def test_resume_knows_the_plan_that_comes_next(position: int) -> None:
    for rows in (None, {"a": [0, 1, 2, 3], "b": [4, 5, 6, 7]}):
        first, second = planned(seed=3), loader(dataset().train, 2, seed=3)
        iterator = iter(first)
        for _ in range(position):
            next(iterator)
        first.plan(rows, None if rows is None else [0, 1, 2, 3])
        second.load_state_dict(copy.deepcopy(first.state_dict()))
        assert len(second) == (5 if position or rows is None else 2)
        expected = [[shown(b) for b in iterator]] if position else []
        expected.append([shown(b) for b in first])
        assert [[shown(b) for b in second] for _ in expected] == expected


def test_states_without_a_plan_are_as_before() -> None:
    batches = made()
    assert set(batches.state_dict()) == {"epoch", "position", "samples", "batch_size", "shuffle", "seed", "batches"}
    state = batches.state_dict()
    batches.plan({"a": [0, 1], "b": [0, 1]})
    batches.load_state_dict(state)  # takes the plan back
    assert len(batches) == 3
    with pytest.raises(DataError, match="expected a plan shared by 1 process"):
        batches.load_state_dict({**state, "plan": {**planned().state_dict()["plan"], "processes": 2}})
    with pytest.raises(DataError, match="expected a plan as `state_dict` writes it"):
        batches.load_state_dict({**state, "plan": {"rows": {}}})
    with pytest.raises(DataError, match="positions 0 to 10"):
        batches.load_state_dict({**state, "plan": {**planned().state_dict()["plan"], "target": torch.full((11,), 99)}})


# ---- together with other features of the loader --------------------------------------------------------------------


def test_worker_processes_and_augmentation() -> None:
    """The same batches from a worker; each copy of a sample is changed by numbers of its own; the plan adds none."""

    def planned_and_noisy(**options: Any) -> Loader[TrainSplit]:
        batches = loader(dataset().train, 4, seed=2, augment={"a": [{"noise": {"probability": 1.0}}]}, **options)
        batches.plan({"a": [1, 1, 1, -1, 2, 2], "b": [1, -1, 1, 5, 2, 2]})
        return batches

    here, there = list(planned_and_noisy()), list(planned_and_noisy(num_workers=1))
    for one, other in zip(here, there, strict=True):
        assert torch.equal(one.inputs["a"], other.inputs["a"])
        assert indices_of([one]) == indices_of([other])
    copies = torch.cat([b.inputs["a"][:, 0][b.index == 4] for b in here])
    assert len(set(copies.tolist())) == 3
    assert (copies - 4).abs().max() < 1
    absent = torch.cat([b.inputs["a"][~b.present["a"]] for b in here if b.present is not None])
    assert absent.tolist() == [[0.0]]


def test_a_full_pass_is_unchanged_and_leaves_the_loader_where_it_is() -> None:
    batches = loader(dataset().train, 5, augment={"a": ["noise"]}, drop_last=True)
    batches.plan({"a": [1] * 5, "b": [1] * 5})
    assert [shown(b) for b in batches.full_pass()] == [
        [(r, r, r % 2, r) for r in part] for part in (range(3, 8), range(8, 13), range(13, 14))
    ]  # also the sample that training leaves out
    assert len(batches.full_pass()) == 3
    assert batches.epoch == 0
    own = loader(dataset().train, 5, indices=[2, 0])
    assert indices_of(own.full_pass()) == [[5, 3]]


def test_a_part_of_the_samples_is_planned_with_itself() -> None:
    batches = loader(dataset().train, 4, indices=[0, 2, 4, 6], shuffle=False)
    batches.plan({"a": [6, 6, 0], "b": [2, -1, 4]}, target=[6, 6, 0])
    assert [shown(b) for b in batches] == [[(9, 5, 1, 9), (9, None, 1, 9), (3, 7, 1, 3)]]
    with pytest.raises(DataError, match=r"`rows\['b'\]`: expected positions among the 4 .*`indices`.*Found \[3\]"):
        batches.plan({"a": [0, 2], "b": [0, 3]}, target=[0, 2])
    with pytest.raises(DataError, match=r"`target`: expected positions among"):
        batches.plan({"a": [0, 2], "b": [0, 2]}, target=[0, 1])
