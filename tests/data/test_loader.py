from __future__ import annotations

import numpy as np
import pytest
import torch

from equimodal.data import Dataset, from_arrays, loader
from equimodal.errors import DataError, NonFiniteError


def dataset(count: int = 23, **changes: float) -> Dataset:
    """``count`` training samples whose only feature is their row, and 4 samples in each other part."""
    total = count + 8
    x = np.arange(total, dtype=np.float32)[:, None]
    b = np.ones((total, 2), np.float32)
    split = ["train"] * count + ["validation"] * 4 + ["test"] * 4
    data = from_arrays({"row": x, "b": b}, np.arange(total) % 2, split, standardise={"row": "none", "b": "none"})
    for row, value in changes.items():  # after the check that is made when data are built
        ready = data._store.sources["b"]._ready
        assert ready is not None
        ready[int(row[1:]), 0] = value
    return data


def rows(batches: object) -> list[list[int]]:
    return [b.index.tolist() for b in batches]  # type: ignore[attr-defined]


def test_an_epoch_has_every_sample_once_and_rows_stay_together() -> None:
    batches = loader(dataset().train, 5)
    seen = list(batches)
    assert [len(b) for b in seen] == [5, 5, 5, 5, 3]
    assert len(batches) == 5
    for b in seen:
        assert b.index is not None
        assert b.target is not None
        assert torch.equal(b.inputs["row"][:, 0].long(), b.index)
        assert torch.equal(b.target, b.index % 2)
    assert sorted(i for b in rows(seen) for i in b) == list(range(23))


def test_the_order_depends_on_seed_and_epoch_alone() -> None:
    split = dataset().train
    first, second = loader(split, 5, seed=1), loader(split, 5, seed=1)
    epochs = [rows(first) for _ in range(3)]
    torch.manual_seed(99)  # no influence
    assert [rows(second) for _ in range(3)] == epochs
    assert epochs[0] != epochs[1] != epochs[2]
    again = loader(split, 5, seed=1)
    again.set_epoch(2)
    assert rows(again) == epochs[2]
    assert rows(loader(split, 5, seed=2)) != epochs[0]
    # neighbouring numbers must not give the same order by adding up
    shifted = loader(split, 5, seed=0)
    shifted.set_epoch(1)
    assert rows(shifted) != epochs[0]


def test_global_random_state_is_left_alone() -> None:
    split = dataset().train
    torch.manual_seed(3)
    np_before, before = np.random.get_state(legacy=False)["state"]["key"].copy(), torch.get_rng_state()  # noqa: NPY002
    list(loader(split, 4))
    assert torch.equal(before, torch.get_rng_state())
    assert np.array_equal(np_before, np.random.get_state(legacy=False)["state"]["key"])  # noqa: NPY002


def test_evaluation_keeps_the_order_and_every_sample() -> None:
    batches = loader(dataset().validation, 3)
    assert rows(batches) == [[23, 24, 25], [26]]
    assert rows(batches) == [[23, 24, 25], [26]]


@pytest.mark.parametrize(
    ("count", "size", "drop_last", "lengths"),
    [
        (21, 5, False, [5, 5, 5, 5]),
        (22, 5, False, [5, 5, 5, 5, 2]),
        (22, 5, True, [5, 5, 5, 5]),
        (3, 1, False, [1, 1, 1]),
        (2, 8, False, [2]),
        (20, 5, True, [5, 5, 5, 5]),
    ],
)
def test_a_lone_last_training_sample_is_left_out(count: int, size: int, drop_last: bool, lengths: list[int]) -> None:
    batches = loader(dataset(count).train, size, drop_last=drop_last)
    assert [len(b) for b in batches] == lengths
    assert len(batches) == len(lengths)


def test_indices_choose_positions_of_the_split() -> None:
    data = dataset()
    assert rows(loader(data.validation, 2, indices=[3, 0])) == [[26, 23]]
    assert {i for b in rows(loader(data.train, 2, indices=torch.tensor([4, 7, 9, 1]))) for i in b} == {1, 4, 7, 9}


@pytest.mark.parametrize("stop", [0, 1, 3, 4])
def test_resume_continues_with_the_very_next_batch(stop: int) -> None:
    split = dataset().train
    whole = loader(split, 5, seed=7)
    expected = rows(whole) + rows(whole)
    first = loader(split, 5, seed=7)
    iterator = iter(first)
    seen = [next(iterator).index.tolist() for _ in range(stop)]  # type: ignore[union-attr]
    second = loader(split, 5, seed=7)
    second.load_state_dict(first.state_dict())
    second.set_epoch(0)  # as a training loop that resumes in this epoch does
    seen += rows(second)
    seen += rows(second)
    assert seen == expected


def test_after_the_last_batch_the_next_epoch_comes() -> None:
    split = dataset().train
    first = loader(split, 5, seed=7)
    expected = [rows(first), rows(first)]
    again = loader(split, 5, seed=7)
    iterator = iter(again)
    for _ in range(5):
        next(iterator)
    state = again.state_dict()  # the iterator was not run to its end, but no batch is left
    assert (state["epoch"], state["position"]) == (1, 0)
    other = loader(split, 5, seed=7)
    other.load_state_dict(state)
    assert rows(other) == expected[1]


def test_breaking_off_starts_the_epoch_again() -> None:
    batches = loader(dataset().train, 5)
    first = next(iter(batches)).index
    second = next(iter(batches)).index
    assert first is not None
    assert second is not None
    assert torch.equal(first, second)


def test_another_epoch_forgets_a_resumed_position() -> None:
    batches = loader(dataset().train, 5)
    iterator = iter(batches)
    next(iterator)
    other = loader(dataset().train, 5)
    other.load_state_dict(batches.state_dict())
    other.set_epoch(3)
    assert len(rows(other)) == 5


def test_a_state_of_another_loader_is_refused() -> None:
    split = dataset().train
    state = loader(split, 5, seed=1).state_dict()
    with pytest.raises(DataError, match=r"batch_size 4 \(stored: 5\)"):
        loader(split, 4, seed=1).load_state_dict(state)
    with pytest.raises(DataError, match=r"seed 2 \(stored: 1\)"):
        loader(split, 5, seed=2).load_state_dict(state)
    with pytest.raises(DataError, match="expected the keys"):
        loader(split, 5).load_state_dict({"epoch": 0})


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_number_that_is_not_finite_names_modality_batch_and_sample(value: float) -> None:
    batches = loader(dataset(r12=value).train, 5, shuffle=False)
    iterator = iter(batches)
    next(iterator)
    next(iterator)
    with pytest.raises(NonFiniteError, match=r"inputs\['b'\] of batch 2.*\[12\]"):
        next(iterator)


def test_worker_processes_give_the_same_batches() -> None:
    split = dataset(r20=float("nan")).validation
    assert rows(loader(split, 2, num_workers=1)) == rows(loader(split, 2))


def test_errors_cross_the_border_of_a_worker_process() -> None:
    batches = loader(dataset(r2=float("nan")).train, 5, shuffle=False, num_workers=1)
    with pytest.raises(NonFiniteError, match="of batch 0"):
        next(iter(batches))


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"batch_size": 0}, "`batch_size`: expected a whole number of at least 1. Found 0"),
        ({"batch_size": True}, "`batch_size`"),
        ({"batch_size": 2, "seed": -1}, "`seed`"),
        ({"batch_size": 2, "num_workers": -1}, "`num_workers`"),
        ({"batch_size": 2, "indices": []}, "`indices`: expected at least one"),
        ({"batch_size": 2, "indices": [0, 23]}, "positions 0 to 22.*Found 0 to 23"),
        ({"batch_size": 24, "drop_last": True}, "`batch_size`: expected at most 23"),
    ],
)
def test_wrong_arguments(options: dict[str, object], match: str) -> None:
    with pytest.raises(DataError, match=match):
        loader(dataset().train, **options)  # type: ignore[arg-type]


def test_only_a_split_is_loaded() -> None:
    with pytest.raises(DataError, match="expected a part of a dataset"):
        loader(dataset(), 2)  # type: ignore[type-var]
