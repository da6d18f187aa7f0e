"""What a method of one's own may get wrong: refused by name, before anything is stepped."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Sequence
from functools import partial
from typing import Annotated, Any

import pytest
import torch

from equimodal import Batch, Classification
from equimodal.engine import Objective, Phase
from equimodal.errors import CheckpointError, MethodError
from equimodal.methods import Joint, Stateful, Within, check_options
from tests.helpers import CLASSES, assert_identical, make_batch, make_method, make_model, sgd, split, weights


class Wrong(Joint):
    """Joint training with one thing replaced."""

    info = Joint.info
    objective: Any = None
    parameters_of_phase: Any = None
    count_of_phase: Any = len

    def phases(self, batches: Sequence[Batch]) -> Iterable[Phase]:
        parameters: Any = self.model.parameters() if self.parameters_of_phase is None else self.parameters_of_phase
        objective = self._objective if self.objective is None else partial(self.objective, self)
        yield Phase("joint", objective, parameters, count=self.count_of_phase)


def wrong(**changes: Any) -> Wrong:
    method = Wrong(make_model(2), Classification(CLASSES)).double()
    for name, value in changes.items():
        setattr(method, name, value)
    return method


def test_a_generator_of_parameters_is_as_good_as_a_list() -> None:
    method = wrong()
    before = weights(method.model)
    method.training_step(make_batch(2), sgd(method))
    assert any(not torch.equal(before[n], t) for n, t in weights(method.model).items())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"objective": lambda self, batch: torch.zeros(())}, "expected an Objective. Found Tensor"),
        ({"objective": lambda self, batch: None}, "expected an Objective. Found NoneType"),
        ({"objective": lambda self, batch: Objective(torch.zeros(3))}, r"`total`.*shape \(3,\)"),
        ({"objective": lambda self, batch: Objective(torch.zeros(()))}, "without a graph"),
        ({"objective": lambda self, batch: Objective(self.loss(torch.zeros(3, CLASSES), batch))}, "12. Found 3"),
        ({"objective": lambda self, batch: Objective(self.loss(torch.zeros(12, CLASSES), batch, "smell"))}, "'smell'"),
        ({"parameters_of_phase": []}, "`parameters`: expected at least one"),
        ({"parameters_of_phase": torch.zeros(2)}, "expected several of them"),
    ],
)
def test_what_an_objective_must_not_return(changes: dict[str, Any], message: str) -> None:
    method = wrong(**changes)
    method.single_loss = False  # type: ignore[misc]
    before = weights(method)
    with pytest.raises(MethodError, match=message):
        method.training_step(make_batch(2), sgd(method))
    assert_identical(before, weights(method))


def test_a_count_that_the_losses_are_not_about_is_refused_in_micro_batches() -> None:
    method = wrong(count_of_phase=lambda batch: len(batch) - 1)
    method.single_loss = False  # type: ignore[misc]
    with pytest.raises(MethodError, match=r"`count`: expected \[6, 6\].*Found \[5, 5\]"):
        method.training_step(split(make_batch(2), 2), sgd(method))


class Remembering(Stateful, Joint):
    info = Joint.info
    state = ("_tensor", "_lists")

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._tensor, self._lists = torch.zeros(2), {"a": [0]}


def test_a_state_shares_nothing_with_the_method_that_loads_it() -> None:
    first, second = (Remembering(make_model(2), Classification(CLASSES)) for _ in range(2))
    state = first.state_dict()
    second.load_state_dict(state)
    second._tensor.add_(5)
    second._lists["a"].append(1)
    assert state["_extra_state"]["tensor"].tolist() == [0, 0]
    assert state["_extra_state"]["lists"] == {"a": [0]}
    assert first._lists == {"a": [0]}


def test_a_state_that_lacks_an_entry_is_refused() -> None:
    method = Remembering(make_model(2), Classification(CLASSES))
    state = method.state_dict()
    del state["_extra_state"]["tensor"]
    with pytest.raises(CheckpointError, match=r"expected an entry 'tensor'. Found \['lists'\]"):
        method.load_state_dict(state)


def test_names_of_a_state_must_differ_in_their_last_part() -> None:
    with pytest.raises(MethodError, match=r"Found \['n'\] twice"):
        type("Twice", (Stateful, Joint), {"info": Joint.info, "state": ("part.n", "_n")})


@pytest.mark.parametrize(("value", "fits"), [(None, True), (0.5, True), (-1.0, False), ("a", False)])
def test_a_number_that_may_be_none(value: Any, fits: bool) -> None:
    def constructor(*, beta: Annotated[float | None, Within(above=0)] = None) -> None: ...

    constructor.__annotations__["beta"] = Annotated[float | None, Within(above=0)]
    with contextlib.nullcontext() if fits else pytest.raises(MethodError, match="`beta`"):
        check_options(constructor, {"beta": value})


@pytest.mark.parametrize("value", ["no", 1, None])
def test_a_switch_is_true_or_false(value: Any) -> None:
    with pytest.raises(MethodError, match="`magnitude`: expected one of True, False"):
        make_method("CGGM", 2, magnitude=value)
