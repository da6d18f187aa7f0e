"""Stages of several epochs that alternate over the modalities, each starting from the best model so far."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from equimodal.batch import Batch
from equimodal.engine import Objective, Phase, modules_of
from equimodal.errors import MethodError, ScheduleWarning
from equimodal.methods._base import EpochContext, Method, warn_once


def reset_optimizer(method: Method, context: EpochContext, parameters: Iterable[nn.Parameter] | None = None) -> None:
    """Forget the optimizer's state of some parameters (all) at a change of stage; warn where nobody can."""
    if context.engine is not None:
        context.engine.reset_optimizer(method.parameters() if parameters is None else parameters)
        return
    message = (
        f"{type(method).__name__} starts a stage with a fresh optimizer. Found no engine to ask, so the momenta of the "
        "last stage remain. Give EpochContext(epoch, engine=engine)."
    )
    warn_once(method, message, ScheduleWarning)


def stage_alone(step: int, total: int, count: int) -> int:
    """Which of ``count`` encoders trains alone, from 0; ``count - 1`` is all of them.

    The stages of all but the last share ``total`` steps, then all train.

    Example:
        >>> [stage_alone(step, total=4, count=3) for step in range(-1, 6)]
        [2, 0, 0, 1, 1, 2, 2]
    """
    return step * (count - 1) // total if 0 <= step < total else count - 1


def joint_phase(method: Method, objective: Callable[[Batch], Objective], waiting: Iterable[str] = ()) -> Phase:
    """The phase of the whole model, in which some encoders keep still: weights, running statistics, no dropout."""
    encoders = [p for m in waiting for p in method.multimodal.parameters_of(m)]
    still = {id(p) for p in encoders}
    trained = [p for p in method.model.parameters() if id(p) not in still]
    return Phase("joint", objective, trained, frozen=modules_of(method.model, encoders))


class Stages:
    """Which stage an epoch belongs to, and the best model seen in any of them.

    Args:
        lengths: epochs of each stage, repeated.
    """

    def __init__(self, lengths: Sequence[int]) -> None:
        if not isinstance(lengths, Sequence) or not lengths or any(not isinstance(n, int) or n < 1 for n in lengths):
            raise MethodError(f"`stage_epochs`: expected positive integers, such as (25, 50). Found {lengths}.")
        self.lengths = tuple(lengths)
        self.current = -1
        self.best: float | None = None
        self.best_state: dict[str, Tensor] | None = None

    def of(self, epoch: int) -> int:
        """Number of the stage that ``epoch`` belongs to."""
        stage, end = 0, self.lengths[0]
        while epoch >= end:
            stage += 1
            end += self.lengths[stage % len(self.lengths)]
        return stage

    def enter(self, epoch: int) -> bool:
        """Whether ``epoch`` begins a stage other than the current one, which it then is."""
        stage = self.of(epoch)
        begins, self.current = stage != self.current, stage
        return begins

    def remember(self, value: float, state: Mapping[str, Tensor]) -> None:
        """Keep a copy of ``state`` if ``value`` is the best so far."""
        if self.best is None or value > self.best:
            self.best = value
            self.best_state = {name: tensor.detach().clone() for name, tensor in state.items()}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Copy the best values into the tensors of ``state``."""
        for name, value in (self.best_state or {}).items():
            state[name].copy_(value)

    def state_dict(self) -> dict[str, Any]:
        """For checkpoints."""
        return {"current": self.current, "best": self.best, "best_state": self.best_state}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what :meth:`state_dict` gave."""
        self.current, self.best, self.best_state = state["current"], state["best"], state["best_state"]
