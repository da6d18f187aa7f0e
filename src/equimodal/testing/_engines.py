"""Engines that watch or disturb what happens in a step."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from equimodal.batch import Batch
from equimodal.engine import PlainEngine, UpdateScale


class Watched(PlainEngine):
    """Writes down, for every phase, the order of what happens to its gradients."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.events: list[str] = []
        self.moved: set[str] = set()  # phases that asked for a second pass at weights that they moved

    def descend(self, phase: Any, batches: Sequence[Batch], sharpness: Any = None) -> Any:
        """As the engine, and write it down."""
        self.events.append(f"phase {phase.name}")
        ask = phase.perturbation

        def asked(descent: Any) -> Any:
            move = ask(descent)
            if move is not None:
                self.moved.add(phase.name)
            return move

        return super().descend(phase if ask is None else replace(phase, perturbation=asked), batches, sharpness)

    def _finish_backward(self, *arguments: Any) -> bool:
        self.events.append("average")
        result = super()._finish_backward(*arguments)
        if self._scale is not None:
            unscale, scale = self._scale.unscale, self._scale

            def spied(parameters: Any) -> bool:
                self.events.append("unscale")
                del scale.unscale
                return unscale(parameters)

            scale.unscale = spied  # type: ignore[method-assign]
        return result

    def step(self, phase: Any, scales: Sequence[UpdateScale] = ()) -> None:
        """As the engine, and write it down."""
        self.events.append("clip")
        super().step(phase, scales)

    def _step_optimizers(self) -> None:
        self.events.append("step")
        super()._step_optimizers()


class Overflowing(PlainEngine):
    """Multiplies the loss of chosen backward passes by infinity, as a scale that is too large would.

    ``bad`` holds the numbers of those passes, from 1; ``None`` is all of them.
    """

    bad: set[int] | None = None
    calls = 0

    def _backward(self, loss: Tensor, **options: Any) -> None:
        self.calls += 1
        super()._backward(loss * math.inf if self.bad is None or self.calls in self.bad else loss, **options)


def scaler(start: float = 2.0**12, every: int = 1000) -> torch.amp.GradScaler:
    """A loss scale for float16."""
    return torch.amp.GradScaler("cpu", init_scale=start, growth_interval=every)


def spoilt(batch: Batch, modality: str) -> Batch:
    """The batch with one sample of one modality NaN."""
    values = batch.inputs[modality].clone()
    values[1] = math.nan
    return Batch({**batch.inputs, modality: values}, batch.target, batch.present, batch.index)
