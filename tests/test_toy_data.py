"""The toy training set: the batches as they are, or those of a method's plan."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, cast

import pytest
import torch
from torch import Tensor

from equimodal import Batch
from equimodal.data import TrainSplit, loader
from equimodal.engine import Phase
from equimodal.errors import DataError
from equimodal.methods import EpochContext, Joint, get
from equimodal.methods.parts import planned_loader
from equimodal.testing import Case, ToyData, check_method, toy_batch, toy_model, train
from tests.helpers import NAMES, assert_near, sgd, split, weights
from tests.task_helpers import TASKS


class Repeated(Joint):
    """From the second epoch on the first half of the samples comes twice."""

    def on_train_epoch_start(self, context: EpochContext) -> None:
        split_: Any = planned_loader(self, context).split
        self.given = context
        if context.epoch:
            where = torch.arange(len(split_))
            rows = torch.cat([where, where[: len(where) // 2]])
            planned_loader(self, context).plan(dict.fromkeys(split_.modalities, rows))

    def phases(self, batches: Sequence[Batch]) -> Iterable[Phase]:
        self.seen = list(batches)
        return super().phases(batches)


def test_a_planning_method_gets_its_plan() -> None:
    method = Repeated(toy_model(2), TASKS["classification"]())
    seen: list[list[Any]] = []
    train(
        method,
        sgd(method),
        range(2),
        [toy_batch(2, 4), toy_batch(2, 4, seed=1)],
        2,
        after_step=lambda: seen.append([cast(Tensor, b.index).tolist() for b in method.seen]),
    )
    assert seen == [[[0, 1, 2, 3]], [[4, 5, 6, 7]], [[0, 1, 2, 3]], [[4, 5, 6, 7]], [[0, 1, 2, 3]]]
    assert method.given.validation is not None
    assert method.given.loader is not None


def test_planned_micro_batches_equal_whole_ones() -> None:
    ends: list[Any] = []
    for parts in (1, 3):
        method = Repeated(toy_model(3), TASKS["classification"]()).double()
        batches: list[Any] = [toy_batch(3, 11, seed=s) for s in range(2)]
        train(method, sgd(method), range(3), batches if parts == 1 else [split(b, parts) for b in batches], 3)
        ends.append(weights(method))
    assert_near(ends[0], ends[1])


def test_the_properties_of_a_planning_method() -> None:
    only = ["runs_learns_and_predicts", "resuming_is_exact", "a_modality_of_nobody_is_one_left_out", "accumulation",
            "bad_batches_are_refused", "a_nan_changes_nothing", "absent_content_influences_nothing"]  # fmt: skip
    report = check_method(Repeated, settings=[{}], only=only)
    assert len(report.held) == 10
    assert not report.not_applicable


def test_absent_modalities_and_other_forms() -> None:
    """A modality that one batch leaves out is absent in its rows; nested inputs stay nested."""
    short = toy_batch(4, 3, seed=1)
    short = Batch({m: x for m, x in short.inputs.items() if m != NAMES[1]}, short.target)
    data = ToyData([toy_batch(4, 2), (short.inputs, short.target)])
    split_ = data.loader.split
    assert split_.present[NAMES[1]].tolist() == [True, True, False, False, False]
    assert set(split_.batch([4]).inputs[NAMES[3]]) == {"left", "right"}
    assert [b.index.tolist() for b in data.plain if b.index is not None] == [[0, 1], [2, 3, 4]]
    assert torch.equal(split_.batch([4]).inputs[NAMES[0]][0], short.inputs[NAMES[0]][2])


def test_a_split_of_tensors() -> None:
    batch = toy_batch(2, 5)
    made = loader(TrainSplit.of(batch), 2, shuffle=False)
    assert [len(b) for b in made] == [2, 2]  # a last sample alone is left out
    assert torch.equal(next(iter(made)).inputs[NAMES[1]], batch.inputs[NAMES[1]][:2])
    made.plan({m: [3, -1 if m == NAMES[0] else 1] for m in batch.inputs})
    (planned,) = list(made)
    assert planned.index is not None
    assert planned.index.tolist() == [3, 1]
    assert planned.inputs[NAMES[0]][1].abs().sum() == 0
    assert torch.equal(planned.inputs[NAMES[1]][1], batch.inputs[NAMES[1]][1])
    with pytest.raises(DataError, match="`batch`"):
        TrainSplit.of(Batch(batch.inputs))


def test_other_methods_are_given_their_batches() -> None:
    data, batch = ToyData([split(toy_batch(2, 5), 2)]), toy_batch(2, 5)
    (parts,) = data.epoch()
    assert [len(b) for b in parts] == [2, 3]
    assert torch.equal(torch.cat([b.inputs[NAMES[0]] for b in parts]), batch.inputs[NAMES[0]])
    assert str(Case(get("Joint")))
