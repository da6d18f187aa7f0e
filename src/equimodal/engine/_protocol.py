"""The narrow protocol between a method and whoever runs it: phases in, gradients in place, steps."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from equimodal.batch import Batch
from equimodal.engine._sharpness import Sharpness


@dataclass(frozen=True)
class Objective:
    """What a phase computes on one micro-batch.

    Args:
        total: differentiable scalar, a mean over the samples that take part.
        losses: named parts of it for the report, detached.
        sums: additive statistics (sums and counts over samples), detached.
        shared: sums with their graph, of a part of the loss that the phase's survey adds once it knows the sums over
            all processes; equal names and shapes on all of them.
    """

    total: Tensor
    losses: Mapping[str, Tensor] = field(default_factory=dict)
    sums: Mapping[str, Tensor] = field(default_factory=dict)
    shared: Mapping[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class Survey:
    """How a loss that is no mean over samples is computed where a batch comes in parts.

    With several micro-batches, on any process, sums are gathered first, in a pass without gradients. With one on each
    of several processes no pass is needed: the objective returns its sums with their graph as ``shared``, and what
    depends on the sums over all processes is added to the loss before the backward pass.

    Args:
        gather: from a micro-batch to sums over its samples; equal names and shapes everywhere.
        receive: given the sums over all micro-batches and processes, before the first of them is trained on.
        couple: from an objective's ``shared`` and the sums of it over all processes to the rest of the loss.
    """

    gather: Callable[[Batch], Mapping[str, Tensor]]
    receive: Callable[[Mapping[str, Tensor]], None]
    couple: Callable[[Mapping[str, Tensor], Mapping[str, Tensor]], Objective]


@dataclass(frozen=True)
class Phase:
    """One update inside a training step: a loss and the parameters that it moves.

    Args:
        name: ``"joint"`` or the modality.
        objective: called once per micro-batch and pass; must be a function of the batch and the current parameters.
        parameters: what the loss trains; every other parameter keeps still, its optimizer state included.
        auxiliary: parameters trained alongside (probes on detached features): they step, but neither clipping nor
            sharpness counts them.
        count: how many samples of a batch take part; the weight of a micro-batch. 0 skips it.
        modality: the modality this phase belongs to, if any.
        survey: sums over the whole batch that the objective needs where the batch comes in parts.
    """

    name: str
    objective: Callable[[Batch], Objective]
    parameters: Sequence[nn.Parameter]
    auxiliary: Sequence[nn.Parameter] = ()
    count: Callable[[Batch], int] = len
    modality: str | None = None
    survey: Survey | None = None

    @property
    def trained(self) -> list[nn.Parameter]:
        """What of the phase gets gradients, auxiliary parameters included."""
        return [p for p in (*self.parameters, *self.auxiliary) if p.requires_grad]

    @property
    def device(self) -> torch.device:
        """Where the phase's parameters are."""
        return next(iter((*self.parameters, *self.auxiliary))).device


@dataclass(frozen=True)
class Descent:
    """What :meth:`Engine.descend` found; gradients are in place, these are the detached values of the first pass.

    Args:
        loss: of this process.
        losses: named parts of it.
        sums: additive statistics of this process; empty on a process of which no sample takes part.
        count: how many samples take part on all processes together. With 0 there is nothing to step: no sample takes
            part, or the gradients overflowed under a loss scale and the phase is skipped on all processes.
    """

    loss: Tensor
    losses: Mapping[str, Tensor]
    sums: Mapping[str, Tensor]
    count: int = 1

    @staticmethod
    def nothing() -> Descent:
        """Of a phase that is skipped."""
        return Descent(torch.zeros(()), {}, {}, 0)


@dataclass(frozen=True)
class UpdateScale:
    """Multiply the update (not the gradient) of some parameters by a factor."""

    parameters: Sequence[nn.Parameter]
    factor: Tensor


@runtime_checkable
class Engine(Protocol):
    """What a method may ask of whoever runs it."""

    @property
    def optimizers(self) -> Sequence[Optimizer]:
        """The optimizers whose parameters this engine steps."""

    def iteration(self, module: nn.Module) -> AbstractContextManager[None]:
        """Around one training step of ``module``, which may have several phases."""

    def descend(self, phase: Phase, batches: Sequence[Batch], sharpness: Sharpness | None = None) -> Descent:
        """Compute the phase's gradients: one or two passes, micro-batches accumulated, averaged over processes.

        A phase with a :class:`Survey` is asked for its sums where the batch comes in parts.
        """

    def step(self, phase: Phase, scales: Sequence[UpdateScale] = ()) -> None:
        """Clip the gradients of the phase and step; parameters outside the phase do not move."""

    def all_sum(self, sums: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Sum statistics over processes. Every process must give the same names and shapes."""

    def reset_optimizer(self, parameters: Iterable[nn.Parameter]) -> None:
        """Forget the optimizer state (momentum, moments) of ``parameters``."""
