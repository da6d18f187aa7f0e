"""What all fusions share: known sizes, the order of modalities, the filling of absent rows, the split into addends."""

from __future__ import annotations

from collections.abc import Mapping
from numbers import Real
from typing import ClassVar, Literal, get_args

import torch
from torch import Tensor, nn

from equimodal._utils.shapes import line_up
from equimodal.batch import Tokens, Tree, tree_map, tree_tensors
from equimodal.errors import ModelError, UnsupportedError, did_you_mean
from equimodal.features import Width, check_feature, is_vector, kind_of, single_width

Fill = Literal["zeros", "learnt", "renormalise"]
"""What stands for an absent modality: zeros; a learnt vector; nothing, the others weighing as much as all do."""


class Fusion(nn.Module):
    """Base of the shipped fusions. Any module called as ``fusion(features, present)`` is as good.

    Args:
        feature_sizes: modality -> width d_m of its features, or one width per scale.
        fill: what stands for an absent modality. A rule that has no meaning for a fusion is refused.
        count: smallest number of modalities.

    Raises:
        ModelError: sizes are no positive integers, or too few.
        UnsupportedError: this fusion cannot fill in that way.
    """

    additive: ClassVar[bool] = False
    """Whether the result is a sum of one term per modality, so that an affine head's output can be split exactly."""
    pooled: ClassVar[bool] = False
    """Whether the result is one vector per sample whatever the features are, which has no place for pixels."""
    refused: ClassVar[Mapping[str, str]] = {}
    """Fill rules that have no meaning here, each with the reason and what to use."""

    def __init__(self, feature_sizes: Mapping[str, Width], fill: Fill = "zeros", count: int = 1) -> None:
        super().__init__()
        if not isinstance(feature_sizes, Mapping):
            raise ModelError(f"`feature_sizes`: expected modality -> width. Found {type(feature_sizes).__name__}.")
        sizes = {m: tuple(d) if isinstance(d, (tuple, list)) else d for m, d in dict(feature_sizes).items()}
        if len(sizes) < count or not all(_positive(d) for d in sizes.values()):
            raise ModelError(
                f"`feature_sizes`: expected modality -> positive integer (a tuple of them for multi-scale maps), at "
                f"least {count}. Found {sizes}."
            )
        if fill not in get_args(Fill):
            raise ModelError(f"`fill`: expected 'zeros', 'learnt' or 'renormalise'. Found {fill!r}.")
        if fill in self.refused:
            raise UnsupportedError(f"`fill`: {fill!r} has no meaning for {type(self).__name__}: {self.refused[fill]}")
        self.feature_sizes: dict[str, Width] = sizes
        self.fill: Fill = fill
        # a list, not a dict: modality names may hold characters that module names may not
        self.tokens = nn.ParameterList(
            [nn.Parameter(torch.zeros(_total(d))) for d in sizes.values()] if fill == "learnt" else []
        )

    def extra_repr(self) -> str:
        """Arguments, for ``repr``."""
        return f"{self.feature_sizes}, fill={self.fill!r}"

    @property
    def out_features(self) -> int:
        """Width of the result; for multi-scale maps of all scales together."""
        raise NotImplementedError(f"{type(self).__name__}.out_features")

    def single_widths(self) -> dict[str, int]:
        """The widths, for fusions that need one per modality; a multi-scale one raises ModelError."""
        return {m: single_width(d, f"feature_sizes[{m!r}]") for m, d in self.feature_sizes.items()}

    def columns(self, modality: str) -> slice:
        """Where ``modality`` lies in the concatenation of all widths."""
        start = 0
        for name, width in self.feature_sizes.items():
            if name == modality:
                return slice(start, start + _total(width))
            start += _total(width)
        raise ModelError(
            f"`modality`: expected one of {list(self.feature_sizes)}. Found {modality!r}."
            f"{did_you_mean(modality, self.feature_sizes)}"
        )

    def forward(self, features: Mapping[str, Tree], present: Mapping[str, Tensor] | None = None) -> Tree:
        """What the head reads, from the features of some modalities; one that is left out counts as absent."""
        return self.combine(self.prepare(features, present))

    def parts(self, features: Mapping[str, Tree], present: Mapping[str, Tensor] | None = None) -> dict[str, Tree]:
        """Addends per modality whose sum is what :meth:`forward` returns, also in the rows that were filled.

        Raises:
            ModelError: the fusion is not additive.
        """
        if not self.additive:
            raise ModelError(
                f"`fusion`: expected one whose result is a sum over modalities (Concat, Sum, Late). Found "
                f"{type(self).__name__}."
            )
        filled = self.prepare(features, present)
        nothing = [_zeros(f) for f in filled]
        return {
            m: self.combine([f if i == position else nothing[i] for i, f in enumerate(filled)])
            for position, m in enumerate(self.feature_sizes)
        }

    def combine(self, filled: list[Tree]) -> Tree:
        """The fusion itself, of features in the order of ``feature_sizes`` without absent ones."""
        raise NotImplementedError(f"{type(self).__name__}.combine")

    # ---- absent rows ------------------------------------------------------------------------------------------------

    def prepare(self, features: Mapping[str, Tree], present: Mapping[str, Tensor] | None) -> list[Tree]:
        """Features of all modalities in order, checked and filled, and rescaled by ``renormalise``."""
        sizes = self.feature_sizes
        if not features or not features.keys() <= sizes.keys():
            raise ModelError(f"`features`: expected the modalities {list(sizes)}. Found {list(features)}.")
        first = next(iter(features.values()))
        samples = (first if isinstance(first, Tensor) else tree_tensors(first)[0]).shape[0]
        filled: list[Tree] = []
        if not present and len(features) == len(sizes):  # nothing to fill
            for m, width in sizes.items():
                feature = features[m]
                if not is_vector(feature, samples, width):
                    check_feature(feature, samples, width, f"features[{m!r}]")
                filled.append(feature)
            return filled
        masks = self._masks(features, present, samples)
        for position, (m, width) in enumerate(sizes.items()):
            feature = features[m] if m in features else _absent(width, samples, features)
            check_feature(feature, samples, width, f"features[{m!r}]")
            mask = masks[position]
            if mask is not None:
                token = self.tokens[position] if self.fill == "learnt" else None
                feature = _fill(feature, mask, token)
            filled.append(feature)
        share = self._share(masks)
        return filled if share is None else [_scale(f, share) for f in filled]

    def _masks(
        self, features: Mapping[str, Tree], present: Mapping[str, Tensor] | None, samples: int
    ) -> list[Tensor | None]:
        given = present or {}
        if len(features) == len(self.feature_sizes):
            return [given.get(m) for m in self.feature_sizes]
        device = tree_tensors(next(iter(features.values())))[0].device
        nobody = torch.zeros(samples, dtype=torch.bool, device=device)
        return [given.get(m) if m in features else nobody for m in self.feature_sizes]

    def _share(self, masks: list[Tensor | None]) -> Tensor | None:
        """M / (number present) per sample, for ``renormalise``; ``None`` where nothing is rescaled."""
        if self.fill != "renormalise":
            return None
        some = [mask for mask in masks if mask is not None]
        if not some:
            return None
        count = torch.stack(some).sum(0) + (len(masks) - len(some))
        return len(masks) / count.clamp_min(1)


def check_positive(**sizes: object) -> None:
    """Refuse a size that is no positive integer, by its parameter's name."""
    for name, size in sizes.items():
        if isinstance(size, tuple) or not _positive(size):
            raise ModelError(f"`{name}`: expected a positive integer. Found {size!r}.")


ATTENTION_REFUSES: Mapping[str, str] = {
    "zeros": "a zero token would still take a share of the attention. Use fill='renormalise', which leaves absent "
    "modalities out, or 'learnt'."
}
"""What fusions by attention refuse as ``fill``, and why."""


def check_attention(width: int, heads: int, layers: int, dropout: float) -> None:
    """Refuse layers of attention that cannot be built, by the parameter's name."""
    check_positive(width=width, heads=heads, layers=layers)
    if width % heads:
        raise ModelError(f"`width`: expected a multiple of heads={heads}. Found {width}.")
    if isinstance(dropout, bool) or not isinstance(dropout, Real) or not 0 <= dropout < 1:
        raise ModelError(f"`dropout`: expected a number in [0, 1). Found {dropout!r}.")


def _positive(width: object) -> bool:
    numbers = width if isinstance(width, tuple) else (width,)
    return bool(numbers) and all(isinstance(d, int) and not isinstance(d, bool) and d > 0 for d in numbers)


def _total(width: Width) -> int:
    return sum(width) if isinstance(width, tuple) else width


def _absent(width: Width, samples: int, others: Mapping[str, Tree]) -> Tree:
    """Zeros for a modality without any features, of the kind of the others."""
    kinds = {kind_of(f, f"features[{m!r}]"): f for m, f in others.items()}
    if isinstance(width, tuple):
        if "multiscale" not in kinds:
            raise ModelError("`features`: expected multi-scale maps of at least one modality. Found none.")
        scales = kinds["multiscale"]
        return tuple(f.new_zeros(samples, d, *f.shape[2:]) for f, d in zip(scales, width, strict=True))
    if "map" in kinds:
        like = kinds["map"]
        return like.new_zeros(samples, width, *like.shape[2:])
    if "tokens" in kinds:
        values, mask = kinds["tokens"]
        return Tokens(values.new_zeros(samples, 1, width), mask.new_zeros(samples, 1))
    return next(iter(kinds.values())).new_zeros(samples, width)


def _fill(feature: Tree, mask: Tensor, token: Tensor | None) -> Tree:
    """``feature`` with zeros or a learnt vector in the rows outside ``mask``; what was there is not used."""
    if isinstance(feature, Tokens):
        values = torch.where(line_up(mask, feature.values), feature.values, feature.values.new_zeros(()))
        real = feature.mask & mask[:, None]
        if token is None:
            return Tokens(values, real)
        first = torch.arange(values.shape[1], device=values.device) == 0
        stands = ~mask[:, None] & first
        return Tokens(torch.where(stands[..., None], token.to(values.dtype), values), real | stands)
    if isinstance(feature, (tuple, list)):
        widths = [f.shape[1] for f in feature]
        pieces = [None] * len(feature) if token is None else torch.split(token, widths)
        return tuple(_fill(f, mask, piece) for f, piece in zip(feature, pieces, strict=True))
    tensor: Tensor = feature
    value = tensor.new_zeros(()) if token is None else line_up(token.to(tensor.dtype)[None], tensor)
    return torch.where(line_up(mask, tensor), tensor, value)


def _scale(feature: Tree, share: Tensor) -> Tree:
    return tree_map(lambda t: t * line_up(share.to(t.dtype), t) if t.is_floating_point() else t, feature)


def _zeros(feature: Tree) -> Tree:
    """Zeros of the same shape; which tokens are real stays."""
    return tree_map(lambda t: torch.zeros_like(t) if t.is_floating_point() else t, feature)


def spread(feature: Tensor, grid: torch.Size) -> Tensor:
    """A vector (B, d) repeated over the positions of a map."""
    return feature.reshape(*feature.shape, *([1] * len(grid))).expand(*feature.shape, *grid)
