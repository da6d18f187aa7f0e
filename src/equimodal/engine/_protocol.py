"""The narrow protocol between a method and whoever runs it: phases in, gradients in place, steps."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from operator import attrgetter
from types import NoneType
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from equimodal.batch import Batch
from equimodal.engine._gradients import NO_GRADIENTS, Gradients
from equimodal.engine._sharpness import Sharpness
from equimodal.errors import BatchError, MethodError


def sample_index(batch: Batch, modality: str | None = None) -> Tensor:
    """(n,) dataset indices of the samples of a batch, or of those of them that have a modality.

    Raises:
        BatchError: the batch has no index.

    Example:
        >>> inputs = {"a": torch.zeros(3, 1), "b": torch.zeros(3, 1)}
        >>> batch = Batch(inputs, None, {"a": torch.tensor([True, False, True])}, torch.tensor([7, 8, 9]))
        >>> sample_index(batch, "a").tolist()
        [7, 9]
    """
    index = batch.index
    if index is None:
        raise BatchError(
            "`batch.index`: expected the dataset index of every sample, for numbers per sample. Found None. Use "
            "equimodal.data.loader, whose batches have it, or give Batch(..., index=...) from your dataset."
        )
    if modality is None:
        return index
    rows = batch.rows(modality) if modality in batch.inputs else index.new_zeros(0)
    return index if rows is None else index.index_select(0, rows)


@dataclass(frozen=True)
class SampleValues:
    """Numbers of single samples, and which samples they are of.

    Args:
        values: (n, ...), one entry per sample, detached.
        index: (n,) dataset indices of the same samples, as in ``Batch.index``.
    """

    values: Tensor
    index: Tensor

    @classmethod
    def of(cls, values: Tensor, batch: Batch, modality: str | None = None) -> SampleValues:
        """The values with the index of the samples that they are of.

        Args:
            values: (n, ...), with or without a graph.
            batch: the batch whose samples they are of, in its order. Values of ``part = batch.only(m)`` go with
                ``part``, which has its samples' own index.
            modality: with it the values are of those samples of ``batch`` that have this modality, in their order.

        Raises:
            BatchError: the batch has no index.
            MethodError: there are more or fewer values than samples.
        """
        index = sample_index(batch, modality)
        if values.shape[0] != index.shape[0]:
            what = "samples" if modality is None else f"samples with {modality!r}"
            raise MethodError(
                f"`values`: expected one for each of the {index.shape[0]} {what} of the batch. Found "
                f"{values.shape[0]}. Give the batch that the values are of, and the modality where only its samples "
                "have one."
            )
        return cls(values.detach(), index)


@dataclass(frozen=True)
class Objective:
    """What a phase computes on one micro-batch.

    Args:
        total: differentiable scalar, a mean over the samples that take part. ``.grad`` is its gradient, whatever the
            parts are.
        losses: named parts of it for the report, detached.
        sums: additive statistics (sums and counts over samples), detached.
        shared: sums with their graph, of a part of the loss that the phase's survey adds once it knows the sums over
            all processes; equal names and shapes on all of them.
        parts: name -> scalar with its graph: losses of the same forward pass, whose gradients are handed over one by
            one in :attr:`Descent.gradients`. Usually the addends of ``total``, with or without weights; one that a
            micro-batch does not give counts as zero there.
        weights: part -> factor, where ``total`` is exactly the sum of the parts with these factors; set by
            :meth:`sum_of`. The gradient of ``total`` is then made of the parts' and needs no backward pass of its own.
        rows: name -> numbers of single samples, handed over in :attr:`Descent.rows`.
        score_inputs: output and target, detached, that the report's score of a modality's phase is of; it is computed
            where it is read.
    """

    total: Tensor
    losses: Mapping[str, Tensor] = field(default_factory=dict)
    sums: Mapping[str, Tensor] = field(default_factory=dict)
    shared: Mapping[str, Tensor] = field(default_factory=dict)
    parts: Mapping[str, Tensor] = field(default_factory=dict)
    weights: Mapping[str, float | Tensor] | None = None
    rows: Mapping[str, SampleValues] = field(default_factory=dict)
    score_inputs: tuple[Tensor, Tensor] | None = None

    @classmethod
    def sum_of(
        cls,
        parts: Mapping[str, Tensor],
        weights: Mapping[str, float | Tensor] | None = None,
        losses: Mapping[str, Tensor] | None = None,
        sums: Mapping[str, Tensor] | None = None,
        rows: Mapping[str, SampleValues] | None = None,
    ) -> Objective:
        r"""The objective :math:`\sum_k w_k L_k`, with the gradient of every :math:`L_k` apart.

        Args:
            parts: name -> :math:`L_k`, a scalar with its graph.
            weights: name -> :math:`w_k`, a number or a tensor without a graph; 1 where there is none.
            losses: for the report; default the parts, detached.
            sums: additive statistics.
            rows: numbers of single samples.

        Raises:
            MethodError: there is no part, or a weight is of no part or has a graph (its gradient would be lost).

        Example:
            >>> x = nn.Parameter(torch.tensor(3.0))
            >>> Objective.sum_of({"a": x * 2, "b": x * x}, {"b": 0.5}).total.item()
            10.5
        """
        weights = {} if weights is None else weights
        if not parts or any(name not in parts for name in weights):
            raise MethodError(
                f"`weights`: expected parts, and weights of some of them. Found the parts {list(parts)} and weights of "
                f"{list(weights)}."
            )
        for name, weight in weights.items():
            if isinstance(weight, Tensor) and weight.requires_grad:
                raise MethodError(
                    f"`weights[{name!r}]`: expected a number, or a tensor without a graph. Found one that requires a "
                    "gradient. Detach it, or give Objective(total, parts=...), where any total is right."
                )
        every = {name: weights.get(name, 1.0) for name in parts}
        total = torch.stack([every[name] * part for name, part in parts.items()]).sum()
        if losses is None:
            losses = {name: part.detach() for name, part in parts.items()}
        return cls(total, losses, sums or {}, {}, parts, every, rows or {})


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
        always: gather also with one micro-batch, on one process or on each of several: for a forward pass that itself
            depends on the sums. It costs a pass without gradients; ``couple`` is then not called.

    Raises:
        MethodError: ``couple`` is missing where it would be called.
    """

    gather: Callable[[Batch], Mapping[str, Tensor]]
    receive: Callable[[Mapping[str, Tensor]], None]
    couple: Callable[[Mapping[str, Tensor], Mapping[str, Tensor]], Objective] | None = None
    always: bool = False

    def __post_init__(self) -> None:
        if self.couple is None and not self.always:
            raise MethodError(
                "`couple`: expected a function, for one micro-batch on each of several processes. Found None. Give "
                "it, or always=True."
            )


@dataclass(frozen=True)
class Perturbation:
    r"""A second pass at weights that are moved in part: what moves, where to, and whose gradient is taken there.

    With d the direction, the weights of ``parameters`` are moved by :math:`\rho\, d / \|d\|_2` (one common norm; by
    nothing where d is 0), and restored to the last bit afterwards. The receivers' gradient of the named part is then
    that at the moved weights; the rest of their gradient, and every other parameter's, stays that at the weights.

    Args:
        parameters: those that move; of the phase.
        direction: one tensor per parameter, ``None`` where it does not move.
        radius: :math:`\rho`, in the unit of the parameters; a number or a tensor without axes.
        part: the part of the loss that is differentiated at the moved weights, of an objective made by
            :meth:`Objective.sum_of`, which knows its weight; ``None`` is all of the loss, of any objective.
        receivers: whose gradient is taken there; default ``parameters``.
    """

    parameters: Sequence[nn.Parameter]
    direction: Sequence[Tensor | None]
    radius: float | Tensor
    part: str | None = None
    receivers: Sequence[nn.Parameter] | None = None


_TRAINED = attrgetter("requires_grad")
_SEQUENCES = ("parameters", "auxiliary", "separate", "frozen")  # of a phase
_PLAIN = {list, tuple, NoneType}  # types that need no closer look


def _listed(where: str, value: Iterable[Any]) -> list[Any]:
    if isinstance(value, Tensor) or not isinstance(value, Iterable):  # of a container of modules: what is in it
        raise MethodError(f"{where}: expected several of them, such as [...]. Found {type(value).__name__}.")
    return list(value)


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
        separate: the parameters for which the gradients of the objective's ``parts`` are kept apart; default all. Fewer
            (those that the parts share, say) cost less.
        frozen: modules that keep still in all passes of the phase: in evaluation mode (no dropout, running statistics
            are used and not moved), and without a graph of their own. See :func:`~equimodal.engine.modules_of`.
        second: the objective of a second pass, at moved weights, of which the gradient alone counts: the same loss
            without sums, rows and scores. Default ``objective``.
        perturbation: asked after the first pass, with its gradients final, for a second pass at moved weights; ``None``
            is none. It must decide alike on all processes. Not together with a :class:`Sharpness`.
    """

    name: str
    objective: Callable[[Batch], Objective]
    parameters: Sequence[nn.Parameter]
    auxiliary: Sequence[nn.Parameter] = ()
    count: Callable[[Batch], int] = len
    modality: str | None = None
    survey: Survey | None = None
    separate: Sequence[nn.Parameter] | None = None
    frozen: Sequence[nn.Module] = ()
    perturbation: Callable[[Descent], Perturbation | None] | None = None
    second: Callable[[Batch], Objective] | None = None
    every: Sequence[nn.Parameter] = field(init=False, repr=False, compare=False)
    """The parameters, auxiliary ones included."""

    def __post_init__(self) -> None:
        own = self.__dict__  # the class is frozen
        for name in _SEQUENCES:
            value = own[name]
            if type(value) not in _PLAIN and not isinstance(value, Sequence):  # module.parameters() is a generator
                own[name] = _listed(f"Phase {self.name!r}, `{name}`", value)
        if not self.parameters and not self.auxiliary:
            raise MethodError(f"Phase {self.name!r}, `parameters`: expected at least one. Found none.")
        own["every"] = (*self.parameters, *self.auxiliary) if self.auxiliary else self.parameters

    def repeated(self) -> Phase:
        """The phase of a second pass."""
        if self.second is None:
            return self
        other = object.__new__(Phase)  # a copy needs no checks
        other.__dict__.update(self.__dict__, objective=self.second)
        return other

    @property
    def trained(self) -> list[nn.Parameter]:
        """What of the phase gets gradients, auxiliary parameters included."""
        return [p for p in self.every if p.requires_grad]

    @property
    def trains(self) -> bool:
        """Whether any of the parameters gets gradients."""
        return any(map(_TRAINED, self.every))

    @property
    def first(self) -> nn.Parameter:
        """The first of the parameters, which says where they are."""
        return self.every[0]

    @property
    def device(self) -> torch.device:
        """Where the phase's parameters are."""
        return self.first.device


@dataclass(frozen=True)
class Descent:
    """What :meth:`Engine.descend` found; gradients are in place, these are the detached values of the first pass.

    Args:
        loss: of this process.
        losses: named parts of it.
        sums: additive statistics of this process; empty on a process of which no sample takes part.
        count: how many samples take part on all processes together. With 0 there is nothing to step: no sample takes
            part, or the gradients overflowed under a loss scale and the phase is skipped on all processes.
        gradients: part of the objective -> one gradient per parameter of ``phase.trained``, as final as ``.grad``, with
            equal names on every process. With two passes they are made of both just as ``.grad`` is.
        rows: numbers of single samples of this process, over all its micro-batches; without the names that none of them
            gave.
        score_inputs: those of the micro-batches of this process that gave some.
    """

    loss: Tensor
    losses: Mapping[str, Tensor]
    sums: Mapping[str, Tensor]
    count: int = 1
    gradients: Gradients = field(default_factory=lambda: NO_GRADIENTS)
    rows: Mapping[str, SampleValues] = field(default_factory=dict)
    score_inputs: Sequence[tuple[Tensor, Tensor]] = ()

    @staticmethod
    def nothing() -> Descent:
        """Of a phase that is skipped."""
        return Descent(torch.zeros(()), {}, {}, 0)


@dataclass(frozen=True)
class UpdateScale:
    """Multiply the update (not the gradient) of some parameters by a factor.

    Args:
        parameters: whose update.
        factor: a scalar, or one for each entry: a tensor that broadcasts against each of the parameters.
    """

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

        A phase with a :class:`Survey` is asked for its sums where the batch comes in parts. A phase whose objective
        gives ``parts`` gets the gradient of each, from the same forward pass; one with a perturbation may have a second
        pass; its frozen modules keep still in all of them.
        """

    def step(self, phase: Phase, scales: Sequence[UpdateScale] = ()) -> None:
        """Clip the gradients of the phase and step; parameters outside the phase do not move."""

    def all_sum(self, sums: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Sum statistics over processes. Every process must give the same names and shapes."""

    def reset_optimizer(self, parameters: Iterable[nn.Parameter]) -> None:
        """Forget the optimizer state (momentum, moments) of ``parameters``."""


def check_objective(phase: Phase, objective: object) -> None:
    """Refuse what an objective must not return; through frozen modules alone a loss has no graph, and trains nothing.

    Raises:
        MethodError: it is no :class:`Objective`, or its total is no scalar with a graph.
    """
    if not isinstance(objective, Objective):
        found = type(objective).__name__
        raise MethodError(
            f"Objective of phase {phase.name!r}: expected an Objective. Found {found}. Return Objective(loss) from it."
        )
    total = objective.total
    if not isinstance(total, Tensor) or total.ndim or not (total.requires_grad or phase.frozen):
        kind = type(total).__name__ if not isinstance(total, Tensor) else f"shape {tuple(total.shape)}"
        graph = " without a graph" if isinstance(total, Tensor) and not total.requires_grad else ""
        raise MethodError(
            f"Objective of phase {phase.name!r}, `total`: expected a scalar tensor that depends on trained "
            f"parameters. Found {kind}{graph}. Take the mean over samples, and do not detach it."
        )
