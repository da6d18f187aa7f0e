"""Flat projectors between modalities, made from the covariances of the other modalities' layer inputs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn

from equimodal.projection._layers import FlatProjector, InputCovariance, Layer, input_width, projectable_layers

Key = tuple[str, tuple[int, ...], int]
"""Part of the branch, shape of the weight, position among the part's layers of that shape."""
AllSum = Callable[[Mapping[str, Tensor]], dict[str, Tensor]]


def corresponding(branches: Mapping[str, Mapping[str, list[Layer]]]) -> dict[str, dict[Key, Layer]]:
    """Pair layers across modalities: same part of the branch, same weight shape, same position among those.

    Args:
        branches: modality -> part (classifier, encoder) -> its layers in order.

    Returns:
        modality -> key -> layer, with the keys that at least two modalities share.
    """
    keyed: dict[str, dict[Key, Layer]] = {}
    owners: dict[Key, int] = {}
    for modality, parts in branches.items():
        keyed[modality] = {}
        for part, layers in parts.items():
            seen: dict[tuple[int, ...], int] = {}
            for layer in layers:
                shape = tuple(layer.weight.shape)
                key = (part, shape, seen.get(shape, 0))
                seen[shape] = key[2] + 1
                keyed[modality][key] = layer
        for key in keyed[modality]:
            owners[key] = owners.get(key, 0) + 1
    return {m: {k: layer for k, layer in layers.items() if owners[k] > 1} for m, layers in keyed.items()}


def branch_layers(model: nn.Module, modality: str, head: nn.Module, layers: str) -> dict[str, list[Layer]]:
    """The layers of a branch whose gradients can be projected: of its classifier and, unless excluded, its encoder.

    Args:
        model: its method ``encoder(modality)``, if it has one, gives the encoder.
        modality: whose branch.
        head: the branch's classifier.
        layers: ``"classifier"``, ``"linear"`` or ``"all"`` (convolutions too).
    """
    branch = {"classifier": projectable_layers(head, pointwise=True)}
    encoder = getattr(model, "encoder", None)
    if layers != "classifier" and callable(encoder):
        branch["encoder"] = projectable_layers(encoder(modality), convolutions=layers == "all")
    return branch


class FlatBank(nn.Module):
    """Covariances per modality and layer, and for each modality the projectors made from the OTHER modalities'.

    Args:
        layers: modality -> key -> layer, as of :func:`corresponding`.
    """

    def __init__(self, layers: Mapping[str, Mapping[Key, Layer]]) -> None:
        super().__init__()
        self.names = tuple(layers)
        self.keys = {m: tuple(keyed) for m, keyed in layers.items()}
        self._rows = {m: str(i) for i, m in enumerate(layers)}
        self._places = {(m, key): str(j) for m, keyed in layers.items() for j, key in enumerate(keyed)}
        self.covariances = nn.ModuleList(
            nn.ModuleList(InputCovariance(input_width(layer)) for layer in keyed.values()) for keyed in layers.values()
        )
        self.projectors = nn.ModuleList(
            nn.ModuleList(FlatProjector(input_width(layer)) for layer in keyed.values()) for keyed in layers.values()
        )

    def covariance(self, modality: str, key: Key) -> InputCovariance:
        """Running covariance of one layer's inputs."""
        found: InputCovariance = self._find("covariances", modality)[self._places[modality, key]]
        return found

    def covariances_of(self, modality: str) -> list[InputCovariance]:
        """Those of all layers of a modality, in the order of its keys."""
        return list(self._find("covariances", modality).values())

    def projector(self, modality: str, key: Key) -> FlatProjector:
        """Projector of one layer's gradient."""
        found: FlatProjector = self._find("projectors", modality)[self._places[modality, key]]
        return found

    def _find(self, table: str, modality: str) -> dict[str, Any]:
        """The modules of one modality, without the search of a module list."""
        rows: Any = self._modules[table]
        found: dict[str, Any] = rows._modules[self._rows[modality]]._modules
        return found

    def reset(self, modality: str) -> None:
        """Forget the covariances of a modality; projectors made from them stay until the next refresh."""
        for key in self.keys[modality]:
            self.covariance(modality, key).reset()

    @torch.no_grad()
    def refresh(
        self, temperature: float, all_sum: AllSum, sources: Literal["others", "previous"] = "others"
    ) -> dict[str, Tensor]:
        """Make every projector anew: one eigendecomposition per layer and modality, so never inside a step.

        Args:
            temperature: of the flat spectrum.
            all_sum: sums covariances over processes.
            sources: average the covariances of all other modalities that have one, or take the previous modality's.

        Returns:
            modality -> mean trace(P)/d over its layers.
        """
        named = {
            f"{m}/{i}/{name}": getattr(self.covariance(m, key), name)
            for m in self.names
            for i, key in enumerate(self.keys[m])
            for name in ("total", "count")
        }
        summed = all_sum(named)
        remaining: dict[str, Tensor] = {}
        for position, modality in enumerate(self.names):
            others = [m for m in self.names if m != modality]
            if sources == "previous":
                others = [self.names[position - 1]]
            traces = []
            for key in self.keys[modality]:
                shares = [m for m in others if key in self.keys[m]]
                entries = [(m, self.keys[m].index(key)) for m in shares]
                means = [summed[f"{m}/{i}/total"] / summed[f"{m}/{i}/count"].clamp_min(1) for m, i in entries]
                counted = [(summed[f"{m}/{i}/count"] > 0).to(means[0].dtype) for m, i in entries]
                if means:
                    average = torch.stack(means).sum(0) / torch.stack(counted).sum().clamp_min(1)
                    self.projector(modality, key).refresh(average, temperature)
                traces.append(self.projector(modality, key).plasticity())
            if traces:
                remaining[modality] = torch.stack(traces).mean()
        return remaining
