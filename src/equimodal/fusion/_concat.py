from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor, nn

from equimodal.errors import ModelError


class _VectorFusion(nn.Module):
    """What concat and sum share: known feature sizes, the order of modalities, the filling of absent rows."""

    def __init__(self, feature_sizes: Mapping[str, int], fill: Literal["zeros", "learnt"] = "zeros") -> None:
        super().__init__()
        if not feature_sizes or any(not isinstance(d, int) or d < 1 for d in feature_sizes.values()):
            raise ModelError(
                f"`feature_sizes`: expected modality -> positive integer, at least one. Found {dict(feature_sizes)}."
            )
        if fill not in ("zeros", "learnt"):
            raise ModelError(f"`fill`: expected 'zeros' or 'learnt'. Found {fill!r}.")
        self.feature_sizes = dict(feature_sizes)
        self.fill = fill
        # a list, not a dict: modality names may hold characters that module names may not
        self.tokens = nn.ParameterList(
            [nn.Parameter(torch.zeros(d)) for d in feature_sizes.values()] if fill == "learnt" else []
        )

    def _prepare(self, features: Mapping[str, Tensor], present: Mapping[str, Tensor] | None) -> list[Tensor]:
        if not features or set(features) - set(self.feature_sizes):
            raise ModelError(f"`features`: expected the modalities {list(self.feature_sizes)}. Found {list(features)}.")
        first = next(iter(features.values()))
        filled = []
        for position, (modality, size) in enumerate(self.feature_sizes.items()):
            feature = features.get(modality)
            if feature is None:  # a modality that the caller left out altogether is absent for every sample
                feature = first.new_zeros(first.shape[0], size)
                mask: Tensor | None = torch.zeros(first.shape[0], dtype=torch.bool, device=first.device)
            else:
                mask = None if present is None else present.get(modality)
            if feature.ndim != 2 or feature.shape[1] != size:
                raise ModelError(
                    f"`features[{modality!r}]`: expected (B, {size}). Found {tuple(feature.shape)}. "
                    "Pool or flatten in the encoder, or correct `feature_sizes`."
                )
            if mask is not None:
                token = self.tokens[position] if self.fill == "learnt" else feature.new_zeros(())
                feature = torch.where(mask[:, None], feature, token.to(feature.dtype))
            filled.append(feature)
        return filled


class Concat(_VectorFusion):
    r"""Concatenation :math:`[h_1; \dots; h_M]` of feature vectors, in the order of ``feature_sizes``.

    With a linear head the logits are the sum of one linear map per modality, so unimodal outputs can be split from it
    exactly.

    Args:
        feature_sizes: modality -> width d_m of its feature vector.
        fill: what stands for an absent modality: zeros, or one learnt vector per modality.

    Raises:
        ModelError: unknown modality or a feature of another shape.

    Example:
        >>> Concat({"audio": 2, "video": 1})({"audio": torch.ones(4, 2), "video": torch.zeros(4, 1)}).shape
        torch.Size([4, 3])
    """

    @property
    def out_features(self) -> int:
        """Sum of the feature sizes."""
        return sum(self.feature_sizes.values())

    def forward(self, features: Mapping[str, Tensor], present: Mapping[str, Tensor] | None = None) -> Tensor:
        """modality -> (B, d_m) to (B, sum d_m)."""
        return torch.cat(self._prepare(features, present), dim=1)

    def columns(self, modality: str) -> slice:
        """The columns of the fused vector that belong to ``modality``."""
        start = 0
        for name, size in self.feature_sizes.items():
            if name == modality:
                return slice(start, start + size)
            start += size
        raise ModelError(f"`modality`: expected one of {list(self.feature_sizes)}. Found {modality!r}.")
