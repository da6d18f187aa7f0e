from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal, get_args

import torch
from torch import Tensor

from equimodal.batch import Tokens, Tree
from equimodal.errors import ModelError, did_you_mean
from equimodal.features import Width, as_tokens, clean, kind_of, pool
from equimodal.fusion._base import Fill, Fusion, spread

Sequences = Literal["pool", "time", "aligned"]


class Concat(Fusion):
    r"""Concatenation :math:`[h_1; \dots; h_M]` of features, in the order of ``feature_sizes``.

    With an affine head the output is a sum of one term per modality, so unimodal outputs can be split from it exactly.

    Vectors are joined to one vector. Maps of equal size are joined along their channels, and so is each scale of
    multi-scale maps; a vector beside a map is repeated over its positions. Tokens are treated as ``sequences`` says.

    Args:
        feature_sizes: modality -> width d_m of its features, or one width per scale.
        fill: what stands for an absent modality: zeros, one learnt vector per modality, or ``"renormalise"``: zeros,
            and the others are multiplied by M / (number present).
        sequences: what becomes of tokens. ``"pool"``: the mean of the real ones, so the result is a vector.
            ``"time"``: all tokens one after the other (equal widths), so the result is tokens. ``"aligned"``: features
            of the same time step side by side (equal lengths), so the result is tokens.

    Raises:
        ModelError: unknown modality, a feature of another shape, maps of different sizes, or tokens that do not fit.

    Example:
        >>> Concat({"audio": 2, "video": 1})({"audio": torch.ones(4, 2), "video": torch.zeros(4, 1)}).shape
        torch.Size([4, 3])
    """

    additive: ClassVar[bool] = True

    def __init__(self, feature_sizes: Mapping[str, Width], fill: Fill = "zeros", sequences: Sequences = "pool") -> None:
        super().__init__(feature_sizes, fill)
        check_sequences(sequences, get_args(Sequences))
        self.sequences: Sequences = sequences
        if sequences == "time" and len(set(self.feature_sizes.values())) != 1:
            raise ModelError(
                f"`feature_sizes`: expected one width for all modalities with sequences='time'. Found "
                f"{self.feature_sizes}. Use sequences='pool', or encoders of equal width."
            )

    @property
    def out_features(self) -> int:
        """Sum of the widths (with ``sequences="time"`` the common width)."""
        if self.sequences == "time":
            return next(iter(self.single_widths().values()))
        return sum(sum(d) if isinstance(d, tuple) else d for d in self.feature_sizes.values())

    def combine(self, filled: list[Tree]) -> Tree:
        for f in filled:
            if not isinstance(f, Tensor) or f.ndim != 2:
                break
        else:  # vectors all of them, the common case
            return torch.cat(filled, dim=1)
        kinds = {kind_of(f) for f in filled}
        if "multiscale" in kinds:
            scales = same_scales(filled)
            return tuple(torch.cat(same_grid(maps), dim=1) for maps in scales)
        if "map" in kinds:
            return torch.cat(same_grid(filled), dim=1)
        if "tokens" not in kinds or self.sequences == "pool":
            return torch.cat([pool(f) for f in filled], dim=1)
        if self.sequences == "time":
            tokens = [as_tokens(f) for f in filled]
            return Tokens(torch.cat([t.values for t in tokens], 1), torch.cat([t.mask for t in tokens], 1))
        values, mask = aligned(filled)
        return Tokens(torch.cat(values, dim=2), mask)


def check_sequences(found: str, allowed: tuple[str, ...]) -> None:
    """Refuse an unknown treatment of tokens."""
    if found not in allowed:
        raise ModelError(
            f"`sequences`: expected one of {', '.join(map(repr, allowed))}. Found {found!r}."
            f"{did_you_mean(found, allowed)}"
        )


def same_scales(filled: list[Tree]) -> list[list[Tensor]]:
    """Multi-scale maps per scale instead of per modality.

    Raises:
        ModelError: a modality has no or another number of scales.
    """
    if len({len(f) if isinstance(f, (tuple, list)) and not isinstance(f, Tokens) else 0 for f in filled}) != 1:
        raise ModelError(
            "`features`: expected multi-scale maps with equally many scales of every modality. Found "
            f"{[kind_of(f) for f in filled]}."
        )
    return [list(maps) for maps in zip(*filled, strict=True)]


def same_grid(filled: list[Tree]) -> list[Tensor]:
    """Maps of one size; vectors and pooled tokens are repeated over the positions.

    Raises:
        ModelError: the maps differ in size.
    """
    grids = [f.shape[2:] for f in filled if kind_of(f) == "map"]
    if any(grid != grids[0] for grid in grids):
        raise ModelError(
            f"`features`: expected maps of one size. Found {[tuple(g) for g in grids]}. Resample inside the encoders, "
            "for example with torch.nn.Upsample."
        )
    grid = grids[0]
    return [f if kind_of(f) == "map" else spread(pool(f), grid) for f in filled]


def aligned(filled: list[Tree]) -> tuple[list[Tensor], Tensor]:
    """Values per modality at common time steps, and the steps at which any modality has a token.

    Raises:
        ModelError: the sequences differ in length.
    """
    sequences = [clean(f) for f in filled if isinstance(f, Tokens)]
    # a modality without any features is one step of padding
    lengths = {t.values.shape[1] for t in sequences}
    longest = max(lengths)
    if len(lengths - {1, longest}) > 0:
        raise ModelError(
            f"`features`: expected sequences of one length with sequences='aligned'. Found lengths {sorted(lengths)}. "
            "Align them when the data are prepared, or use sequences='pool' or 'time'."
        )
    masks = [t.mask if t.values.shape[1] == longest else t.mask.expand(-1, longest) for t in sequences]
    mask = torch.stack(masks).any(0)
    values = []
    for f in filled:
        value = clean(f).values if isinstance(f, Tokens) else pool(f).unsqueeze(1)
        values.append(value.expand(-1, longest, -1))
    return values, mask
