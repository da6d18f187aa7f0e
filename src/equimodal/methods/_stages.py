"""Stages of several epochs that alternate over the modalities, each starting from the best model so far."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from equimodal.errors import MethodError


class Stages:
    """Which stage an epoch belongs to, and the best model seen in any of them.

    Args:
        lengths: epochs of each stage, repeated.
    """

    def __init__(self, lengths: Sequence[int]) -> None:
        if not lengths or any(n < 1 for n in lengths):
            raise MethodError(f"`stage_epochs`: expected positive integers. Found {lengths}.")
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
