from __future__ import annotations

import pytest
import torch
from torch.utils.data import DataLoader

from equimodal.batch import Batch
from equimodal.data import (
    Dataset,
    Split,
    SplitError,
    TestSplit,
    TrainSplit,
    ValidationSplit,
    from_arrays,
    loader,
    require,
)
from equimodal.data._card import parse_card
from equimodal.data._dataset import build
from equimodal.errors import DataError, EquimodalError
from tests.data.helpers import arrays, card


@pytest.fixture(scope="module")
def data() -> Dataset:
    return build(arrays(), parse_card(card(), "small.yaml"), origin="small.npz")


def test_the_parts_have_types_of_their_own(data: Dataset) -> None:
    assert type(data.train) is TrainSplit
    assert type(data.validation) is ValidationSplit
    assert type(data.test) is TestSplit


def test_the_test_split_cannot_be_used_for_training_or_model_choice(data: Dataset) -> None:
    with pytest.raises(SplitError, match=r"`train`: expected a TrainSplit. Found TestSplit of 'small'"):
        require(data.test, TrainSplit, "train")
    with pytest.raises(SplitError, match="Choices are made on validation samples only"):
        require(data.test, ValidationSplit, "validation")
    with pytest.raises(SplitError, match="Found TrainSplit"):
        require(data.train, ValidationSplit, "validation")
    with pytest.raises(SplitError, match="Found list"):
        require([1, 2], TrainSplit, "train")
    assert issubclass(SplitError, TypeError)
    assert issubclass(SplitError, EquimodalError)


def test_the_right_split_passes_and_a_loader_stands_for_its_split(data: Dataset) -> None:
    assert require(data.train, TrainSplit, "train") is data.train
    assert require(loader(data.validation, 2), ValidationSplit, "validation") is data.validation
    with pytest.raises(SplitError):
        require(loader(data.test, 2), ValidationSplit, "validation")


def test_the_base_class_is_abstract(data: Dataset) -> None:
    with pytest.raises(SplitError, match="abstract"):
        Split(data._store, data._rows["train"])


def test_an_empty_split_is_refused(data: Dataset) -> None:
    with pytest.raises(DataError, match="empty split"):
        TrainSplit(data._store, data._rows["train"][:0])


def test_samples_equal_the_rows_of_a_batch(data: Dataset) -> None:
    split = data.validation
    batch = split.batch([4, 0])
    assert batch.index is not None
    assert batch.index.tolist() == [16, 12]
    assert batch.target is not None
    assert batch.target.dtype == torch.int64
    assert batch.target.tolist() == [1, 0]
    sample = split[4]
    for name, values in batch.inputs.items():
        assert torch.equal(sample["inputs"][name], values[0])
    assert int(sample["index"]) == 16
    assert torch.equal(split[-1]["index"], split[5]["index"])
    with pytest.raises(IndexError):
        split[6]


def test_an_ordinary_pytorch_loader_gives_the_same_batch(data: Dataset) -> None:
    other = Batch.of(next(iter(DataLoader(data.train, batch_size=5))))
    own = data.train.batch(range(5))
    assert other.target is not None
    assert torch.equal(other.target, own.target if own.target is not None else other.target)
    for name in own.inputs:
        assert torch.equal(own.inputs[name], other.inputs[name])
    assert other.present is not None
    assert torch.equal(other.present["face"], data.train.present["face"][:5])


def test_presence_is_reported_only_where_something_is_absent(data: Dataset) -> None:
    assert set(data.train.present) == {"face"}
    assert data.train.present["face"].tolist() == [True, True, False] * 4
    batch = data.train.batch([0, 2])
    rows = batch.rows("face")
    assert rows is not None
    assert rows.tolist() == [0]
    assert batch.rows("walk") is None


def test_counts(data: Dataset) -> None:
    assert data.train.class_counts == {"a": 4, "b": 4, "c": 4}
    assert len(data.train) == 12
    assert data.num_samples == 24
    assert data.classes == ("a", "b", "c")


def test_the_task_fits_the_target(data: Dataset) -> None:
    assert data.task.outputs == 3


def test_a_regression_target_has_its_task() -> None:
    data = build(arrays(), parse_card(card(), "small.yaml"), origin="small.npz", target="score")
    assert data.train.target.dtype == torch.float32
    assert data.classes == ()
    assert data.train.class_counts == {}
    assert data.task.name == "regression"
    assert data.task.outputs == 1


def test_rows_cannot_be_changed_from_outside() -> None:
    data = from_arrays({"x": torch.eye(6).numpy()}, [0, 1] * 3, [0, 0, 1, 1, 2, 2])
    data.train.rows.zero_()
    assert data.train.rows.tolist() == [0, 1]
