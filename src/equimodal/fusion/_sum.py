from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal

import torch

from equimodal.batch import Tokens, Tree
from equimodal.errors import ModelError
from equimodal.features import Width, kind_of, pool
from equimodal.fusion._base import Fill, Fusion
from equimodal.fusion._concat import aligned, check_sequences, same_grid, same_scales


class Sum(Fusion):
    r"""Sum :math:`\sum_m h_m` of features of one width.

    With an affine head the output is a sum of one term per modality, so unimodal outputs can be split from it exactly.
    Maps of equal size are added position by position, multi-scale maps scale by scale.

    Args:
        feature_sizes: modality -> width d (or widths per scale), equal for all.
        fill: what stands for an absent modality: zeros, one learnt vector per modality, or ``"renormalise"``: zeros,
            and the sum is multiplied by M / (number present), which makes it M times the mean.
        sequences: what becomes of tokens. ``"pool"``: the mean of the real ones, so the result is a vector.
            ``"aligned"``: tokens of the same time step are added (equal lengths), so the result is tokens.

    Raises:
        ModelError: widths differ, unknown modality or a feature of another shape.

    Example:
        >>> Sum({"audio": 2, "video": 2})({"audio": torch.ones(1, 2), "video": torch.ones(1, 2)})
        tensor([[2., 2.]])
    """

    additive: ClassVar[bool] = True

    def __init__(
        self,
        feature_sizes: Mapping[str, Width],
        fill: Fill = "zeros",
        sequences: Literal["pool", "aligned"] = "pool",
    ) -> None:
        super().__init__(feature_sizes, fill)
        if len(set(self.feature_sizes.values())) != 1:
            raise ModelError(f"`feature_sizes`: expected one width for all modalities. Found {self.feature_sizes}.")
        check_sequences(sequences, ("pool", "aligned"))
        self.sequences: Literal["pool", "aligned"] = sequences

    @property
    def out_features(self) -> int:
        """The common width."""
        width = next(iter(self.feature_sizes.values()))
        return sum(width) if isinstance(width, tuple) else width

    def combine(self, filled: list[Tree]) -> Tree:
        kinds = {kind_of(f) for f in filled}
        if "multiscale" in kinds:
            return tuple(torch.stack(same_grid(maps)).sum(dim=0) for maps in same_scales(filled))
        if "map" in kinds:
            return torch.stack(same_grid(filled)).sum(dim=0)
        if "tokens" not in kinds or self.sequences == "pool":
            return torch.stack([pool(f) for f in filled]).sum(dim=0)
        values, mask = aligned(filled)
        return Tokens(torch.stack(values).sum(dim=0), mask)
