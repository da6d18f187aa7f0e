"""What the gradients of a modality's turn are multiplied with, and what of its features the others are told.

Three of a kind: nothing (:class:`NoProjection`), :class:`Orthogonal`, :class:`Flat`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn

from equimodal._utils.precision import in_dtype
from equimodal.engine import Engine, all_sum, recorded_call, recorded_inputs
from equimodal.functional import uncentred_covariance_sum
from equimodal.projection._bank import FlatBank, Key
from equimodal.projection._layers import (
    Layer,
    OrthogonalProjector,
    add_sums,
    as_scalar,
    input_width,
    layer_inputs,
    project_gradient,
)

Shown = dict[str, Callable[[], Tensor]]
"""Name -> what computes a scalar of a report, where it is read."""


class NoProjection(nn.Module):
    """Gradients stay as they are and nothing is remembered; the interface of the other two.

    Example:
        >>> projection = NoProjection()
        >>> with projection.observing("audio") as sums:
        ...     output = nn.Linear(2, 2)(torch.ones(1, 2))
        >>> projection.project("audio")
        >>> sums
        {}
    """

    plasticity: dict[str, Tensor]
    """modality -> mean trace(P)/d, where projectors have been made of statistics; for a checkpoint."""

    def __init__(self) -> None:
        super().__init__()
        self.plasticity = {}
        self._counts: dict[int, Tensor] = {}

    def layers(self, modality: str) -> list[Layer]:
        """The layers whose gradients are projected in m's turn."""
        return []

    def statistic(self, rows: Tensor) -> Tensor:
        """What is summed over rows (n, d) of a layer's inputs."""
        raise NotImplementedError(f"{type(self).__name__}.statistic")

    def observing(self, modality: str, on: bool = True) -> Observation:
        """Sums over the inputs that m's layers see inside the block, for an objective's ``sums``; filled at its end."""
        return Observation(self, self.layers(modality) if on else [])

    def observe(self, modality: str, module: nn.Module, inputs: Any) -> tuple[Any, dict[str, Tensor]]:
        """The output of a module that is called once, and the sums over the inputs that m's layers in it see."""
        layers = self.layers(modality)
        if not layers:
            return module(inputs), {}
        output, recorded = recorded_call(module, inputs, layers)
        return output, self.sums_of(layers, recorded)

    def sums_of(self, layers: Sequence[Layer], recorded: Sequence[Sequence[Tensor]]) -> dict[str, Tensor]:
        """What is summed over the inputs of each layer, and over how many rows."""
        sums: dict[str, Tensor] = {}
        for number, (layer, inputs) in enumerate(zip(layers, recorded, strict=True)):
            if inputs:  # a layer that was not called says nothing
                pieces = [layer_inputs(layer, x) for x in self.observed(inputs)]
                rows = pieces[0] if len(pieces) == 1 else torch.cat(pieces)
                statistic = sums[f"statistic/{number}"] = self.statistic(rows)
                sums[f"rows/{number}"] = self._count(rows.shape[0], statistic)
        return sums

    def _count(self, size: int, like: Tensor) -> Tensor:
        """A number of rows as a tensor without axes; the same object for equal numbers, which nobody changes."""
        if torch.compiler.is_compiling():
            return like.new_full((), size)
        known = self._counts.get(size)
        if known is None or known.dtype != like.dtype or known.device != like.device:
            known = self._counts[size] = like.new_full((), size)
        return known

    def observed(self, inputs: Sequence[Tensor]) -> Sequence[Tensor]:
        """What counts of a layer's inputs (n, ...)."""
        return inputs

    def project(self, modality: str) -> None:
        r""":math:`G \leftarrow G P`, in place, for every layer of m's turn."""

    def learn(self, modality: str, sums: Mapping[str, Tensor], engine: Engine) -> Shown:
        """Take in the sums of m's turn, once its step is done; returns what a report should show where it is read."""
        return {}

    def end_epoch(self) -> None:
        """Projectors that are made once per epoch are made here."""

    def forget(self, modality: str) -> None:
        """Statistics of m start again; projectors stay."""

    def restart(self) -> None:
        """Projectors back to the identity."""


class Observation:
    """A block at whose end the sums over what some layers were given are known; see :meth:`NoProjection.observing`.

    Args:
        projection: says what is summed.
        layers: whose inputs.
    """

    def __init__(self, projection: NoProjection, layers: Sequence[Layer]) -> None:
        self._projection, self._layers = projection, layers
        self._recording = recorded_inputs(layers)
        self._sums: dict[str, Tensor] = {}

    def __enter__(self) -> dict[str, Tensor]:
        self._recorded = self._recording.__enter__()
        return self._sums

    def __exit__(self, kind: object, *error: object) -> None:
        self._recording.__exit__(kind, *error)
        if kind is None:
            self._sums.update(self._projection.sums_of(self._layers, self._recorded))


class Orthogonal(NoProjection):
    """One projector per layer, shared by all modalities: each turn takes the mean of its features out of it.

    Args:
        layers: of the shared head.
        alpha: the softness now.
        relative: alpha is in units of the mean square of the features.
    """

    def __init__(self, layers: Sequence[Layer], alpha: Callable[[], float], relative: bool) -> None:
        super().__init__()
        self._layers, self._alpha, self._relative = list(layers), alpha, relative
        self.projectors = nn.ModuleList(OrthogonalProjector(input_width(layer)) for layer in layers)
        like_layers(self.projectors, self._layers)

    def __iter__(self) -> Iterator[OrthogonalProjector]:
        found: Any = self._modules["projectors"]  # without the search of a module
        return iter(found._modules.values())

    def layers(self, modality: str) -> list[Layer]:
        """Those of the shared head."""
        return self._layers

    def statistic(self, rows: Tensor) -> Tensor:
        """Their sum (d,)."""
        return (rows if rows.dtype == torch.float64 else rows.float()).sum(0)

    def project(self, modality: str) -> None:
        r""":math:`G \leftarrow G P`."""
        for layer, projector in zip(self._layers, self, strict=True):
            matrix: Any = projector._buffers["matrix"]
            project_gradient(layer, matrix)

    def learn(self, modality: str, sums: Mapping[str, Tensor], engine: Engine) -> Shown:
        """P loses the mean of the features over all processes."""
        own: dict[str, Tensor] = {}
        alpha, projectors = self._alpha(), list(self)
        for number, projector in enumerate(projectors):
            matrix: Any = projector._buffers["matrix"]
            names = f"statistic/{number}", f"rows/{number}"
            if names[0] not in sums:  # of a process of which no sample takes part
                own[names[0]], own[names[1]] = matrix.new_zeros(len(matrix)), matrix.new_zeros(())
                continue
            for name in names:
                own[name] = in_dtype(sums[name], matrix.dtype)
        whole = engine.all_sum(own)
        shown: Shown = {}
        for number, projector in enumerate(projectors):
            mean = whole[f"statistic/{number}"] / whole[f"rows/{number}"]
            strength = projector.learn(mean, alpha, self._relative)
            trace, width = projector.trace()
            shown[f"alpha_over_energy/{number}"] = partial(as_scalar, strength, trace)
            shown[f"plasticity/{number}"] = partial(torch.div, trace, width)
        return shown

    def restart(self) -> None:
        """P = I."""
        for projector in self:
            projector.reset()


class Flat(NoProjection):
    """Projectors of each modality's layers, made from the covariances of the OTHER modalities when an epoch ends.

    Args:
        layers: modality -> key -> layer, as of :func:`corresponding`.
        temperature: of the spectrum.
        sources: ``"others"`` or ``"previous"``, see :meth:`FlatBank.refresh`.
    """

    def __init__(
        self,
        layers: Mapping[str, Mapping[Key, Layer]],
        temperature: float,
        sources: Literal["others", "previous"] = "others",
    ) -> None:
        super().__init__()
        self.keyed, self._temperature = layers, temperature
        self._sources: Literal["others", "previous"] = sources
        self.bank = FlatBank(layers)
        like_layers(self.bank, [layer for row in layers.values() for layer in row.values()])
        self._pairs: dict[str, list[tuple[Layer, nn.Module]]] = {
            m: [(layer, self.bank.projector(m, k)) for key, layer in row.items() for k in self.keys_of(m, key)]
            for m, row in layers.items()
        }

    def layers(self, modality: str) -> list[Layer]:
        """Those that correspond to a layer of another modality."""
        return list(self.keyed[modality].values())

    def statistic(self, rows: Tensor) -> Tensor:
        """The sum of their outer products (d, d)."""
        return uncentred_covariance_sum(rows)[0]

    def keys_of(self, modality: str, key: Key) -> list[Key]:
        """The layers whose projectors m's layer ``key`` is multiplied with."""
        return [key]

    def project(self, modality: str) -> None:
        r""":math:`G \leftarrow G P`."""
        for layer, projector in self._pairs[modality]:
            matrix: Any = projector._buffers["matrix"]
            project_gradient(layer, matrix)

    def learn(self, modality: str, sums: Mapping[str, Tensor], engine: Engine) -> Shown:
        """Add to the covariances; processes are summed over when the projectors are made."""
        self.add(modality, sums)
        known = self.plasticity.get(modality)
        return {} if known is None else {f"plasticity/{modality}": known.detach}

    def add(self, modality: str, sums: Mapping[str, Tensor]) -> None:
        """Add the sums of :meth:`observing` to m's covariances."""
        covariances = self.bank.covariances_of(modality)
        seen = [number for number in range(len(covariances)) if f"rows/{number}" in sums]
        add_sums(
            [covariances[number] for number in seen],
            [sums[f"statistic/{number}"] for number in seen],
            [sums[f"rows/{number}"] for number in seen],
        )

    def end_epoch(self) -> None:
        """New projectors from the covariances; every process must call it."""
        self.plasticity = self.bank.refresh(self._temperature, all_sum, self._sources)

    def forget(self, modality: str) -> None:
        """The covariances of m start again."""
        self.bank.reset(modality)


def like_layers(module: nn.Module, layers: Sequence[Layer]) -> None:
    """Move a module to the device and the floating-point type of the first layer's weight."""
    if layers and layers[0].weight.is_floating_point():
        module.to(layers[0].weight.device, layers[0].weight.dtype)
