"""Heads that grow: a pool of classifiers per modality, of which more and more are in use."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from equimodal.batch import Tree
from equimodal.features import pool
from equimodal.methods.parts._heads import like_model
from equimodal.model import Multimodal


class BoostedHeads(nn.Module):
    """A pool of classifiers per modality that share their last layer; those whose turn has not come are idle.

    Args:
        model: gives modalities and widths.
        outputs: C.
        hidden: width before the last layer.
        maximum: classifiers in each pool; one of them is in use at first.
    """

    def __init__(self, model: Multimodal, outputs: int, hidden: int, maximum: int) -> None:
        super().__init__()
        self.names = tuple(model.modalities)
        widths = [model.feature_sizes[m] for m in self.names]
        sizes = [sum(d) if isinstance(d, tuple) else d for d in widths]
        self.projections = nn.ModuleList(nn.Linear(d, hidden) for d in sizes for _ in range(maximum))
        self.last = nn.Linear(hidden, outputs)
        self.counts, self._maximum = [1] * len(sizes), maximum
        like_model(self, model)

    def projections_of(self, modality: str) -> list[nn.Module]:
        """Those in use."""
        position = self.names.index(modality)
        start = position * self._maximum
        return list(self.projections[start : start + self.counts[position]])

    def each(self, modality: str, feature: Tree) -> list[Tensor]:
        """Output (B, C) of each classifier in use, in the order of their turns."""
        z = pool(feature)
        return [self.last(torch.relu(layer(z))) for layer in self.projections_of(modality)]

    def forward(self, features: Mapping[str, Tree]) -> dict[str, Tensor]:
        """Sums of the outputs."""
        return {m: torch.stack(self.each(m, h)).sum(0) for m, h in features.items()}
