"""What the ways to unimodal outputs share."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, cast

import torch
from torch import Tensor, nn

from equimodal.batch import Tokens, Tree, tree_map
from equimodal.errors import ModelError
from equimodal.model import Multimodal, MultimodalModel

Features = Mapping[str, Tree]
Masks = Mapping[str, Tensor] | None


class UnimodalOutputs(nn.Module):
    """Base of the five ways. Your own needs ``forward(features, present)`` and nothing else.

    Args:
        model: the model whose outputs are asked for. It is not registered as a submodule.
    """

    name: ClassVar[str]

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self._model = (model,)  # in a tuple: the parameters belong to the model alone

    @property
    def model(self) -> Multimodal:
        """The model."""
        return cast(Multimodal, self._model[0])

    def forward(self, features: Features, present: Masks = None) -> dict[str, Tensor]:
        """modality -> output (B, C, ...) for the modalities in ``features``; rows that lack it hold no opinion."""
        raise NotImplementedError(f"{type(self).__name__}.forward")

    def _output(self, features: Features, present: Masks) -> Tensor:
        output: Tensor = self.model.head(self.model.fuse(features, present))
        return output


def require_fill(model: nn.Module, who: str, instead: str) -> None:
    """Raise unless it is declared what stands for an absent modality (a model of another structure decides itself)."""
    fusion = getattr(model, "fusion", None)
    if isinstance(model, MultimodalModel) and not hasattr(fusion, "fill"):
        raise ModelError(
            f"`fusion`: {who} needs a fusion that declares how absent modalities are filled (attribute `fill`). Found "
            f"{type(fusion).__name__} without. Declare it, or use {instead}."
        )


def nothing_like(feature: Tree, absent: bool) -> Tree:
    """Zeros of the same shape; with ``absent``, no token is real either."""
    if isinstance(feature, Tokens):
        mask = torch.zeros_like(feature.mask) if absent else feature.mask
        return Tokens(torch.zeros_like(feature.values), mask)
    return tree_map(torch.zeros_like, feature)


def samples_of(feature: Tree) -> int:
    tensor: Tensor = feature[0] if isinstance(feature, (tuple, list)) else feature
    return tensor.shape[0]


def device_of(feature: Tree) -> torch.device:
    tensor: Tensor = feature[0] if isinstance(feature, (tuple, list)) else feature
    return tensor.device
