from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor

from equimodal.errors import ModelError
from equimodal.fusion._concat import _VectorFusion


class Sum(_VectorFusion):
    r"""Sum :math:`\sum_m h_m` of feature vectors of one width.

    Args:
        feature_sizes: modality -> width d, equal for all.
        fill: what stands for an absent modality: zeros, or one learnt vector per modality.

    Raises:
        ModelError: widths differ, unknown modality or a feature of another shape.

    Example:
        >>> Sum({"audio": 2, "video": 2})({"audio": torch.ones(1, 2), "video": torch.ones(1, 2)})
        tensor([[2., 2.]])
    """

    def __init__(self, feature_sizes: Mapping[str, int], fill: Literal["zeros", "learnt"] = "zeros") -> None:
        super().__init__(feature_sizes, fill)
        if len(set(self.feature_sizes.values())) != 1:
            raise ModelError(f"`feature_sizes`: expected one width for all modalities. Found {self.feature_sizes}.")

    @property
    def out_features(self) -> int:
        """The common width."""
        return next(iter(self.feature_sizes.values()))

    def forward(self, features: Mapping[str, Tensor], present: Mapping[str, Tensor] | None = None) -> Tensor:
        """modality -> (B, d) to (B, d)."""
        return torch.stack(self._prepare(features, present)).sum(dim=0)
