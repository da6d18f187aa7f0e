from __future__ import annotations

import math
from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor, nn

from equimodal.batch import Tokens, Tree
from equimodal.features import Width, as_tokens, clean, masked_mean
from equimodal.fusion._base import ATTENTION_REFUSES, Fill, Fusion, check_attention


class CrossAttention(Fusion):
    r"""Cross-modal attention over sequences, after MulT ([Tsai2019]_, equations 1 to 5).

    Every modality's tokens, mapped to one width and given positions, ask every other modality's tokens through a stack
    of cross-modal blocks; what a modality learnt from all others is joined, passed through one self-attention block and
    averaged over its real tokens:

    .. math:: Z_{k \to m} = \mathrm{blocks}(Q = X_m,\; K = V = X_k), \qquad
        u = \big[\, \mathrm{mean}(\mathrm{self}([Z_{k \to m}]_{k \ne m})) \,\big]_m

    A block is LayerNorm, attention and residual, then LayerNorm, two linear layers and residual. Vectors count as one
    token and maps as one token per position. Masks are respected: padding asks nothing and is asked nothing.

    Args:
        feature_sizes: modality -> width d_m, two or more.
        width: d of the tokens inside; divisible by ``heads``. 40 is the paper's for CMU-MOSI.
        heads: attention heads.
        layers: cross-modal blocks per ordered pair of modalities (ours: 2).
        dropout: share of attention weights and hidden units dropped.
        positions: add sinusoidal positions (paper).
        fill: ``"renormalise"`` (default): absent modalities are left out of every attention, whose weights sum to one
            over what is there; their own part of the result is zero. ``"learnt"``: one learnt token stands for them.

    Raises:
        ModelError: a size is no positive integer, ``width`` is not divisible by ``heads``, or multi-scale maps.
        UnsupportedError: ``fill="zeros"``.

    Shapes: the result is (B, M (M - 1) width). Not additive: unimodal outputs cannot be split from it.
    Deviations from the paper: a linear map instead of a temporal convolution before the blocks; the mean over the real
    tokens instead of the last one, which may be padding; one self-attention block; every block asks the same X_k.

    References:
        .. [Tsai2019] Multimodal Transformer for Unaligned Multimodal Language Sequences, ACL 2019, arXiv 1906.00295.

    Example:
        >>> fusion = CrossAttention({"text": 6, "audio": 3}, width=8, heads=2)
        >>> x = {"text": Tokens.full(torch.zeros(2, 7, 6)), "audio": Tokens.full(torch.zeros(2, 20, 3))}
        >>> fusion(x).shape, fusion.out_features
        (torch.Size([2, 16]), 16)
    """

    pooled: ClassVar[bool] = True
    refused: ClassVar[Mapping[str, str]] = ATTENTION_REFUSES

    def __init__(
        self,
        feature_sizes: Mapping[str, Width],
        width: int = 40,
        heads: int = 4,
        layers: int = 2,
        dropout: float = 0.0,
        positions: bool = True,
        fill: Fill = "renormalise",
    ) -> None:
        super().__init__(feature_sizes, fill, count=2)
        sizes = self.single_widths()
        check_attention(width, heads, layers, dropout)
        self.width, self.positions = width, positions
        others = len(sizes) - 1
        self.maps = nn.ModuleList(nn.Linear(d, width) for d in sizes.values())
        self.crossing = nn.ModuleList(
            nn.ModuleList(nn.ModuleList(_Block(width, heads, dropout) for _ in range(layers)) for _ in range(others))
            for _ in sizes
        )
        self.own = nn.ModuleList(_Block(others * width, heads, dropout) for _ in sizes)

    @property
    def out_features(self) -> int:
        """M (M - 1) width."""
        return len(self.feature_sizes) * (len(self.feature_sizes) - 1) * self.width

    def _share(self, masks: list[Tensor | None]) -> Tensor | None:
        """None: attention renormalises by itself."""
        return None

    def combine(self, filled: list[Tree]) -> Tree:
        sequences = []
        for m, map_, feature in zip(self.feature_sizes, self.maps, filled, strict=True):
            tokens = as_tokens(feature, f"features[{m!r}]")
            values = map_(tokens.values)
            if self.positions:
                values = values + sinusoids(values.shape[1], self.width, values)
            sequences.append(clean(Tokens(values, tokens.mask)))
        parts = []
        for position, (own, stacks) in enumerate(zip(sequences, self.crossing, strict=True)):
            found = []
            others = [s for i, s in enumerate(sequences) if i != position]
            for source, blocks in zip(others, stacks, strict=True):  # type: ignore[call-overload]
                values = own.values
                for block in blocks:
                    values = block(values, source)
                found.append(values)
            joined = Tokens(torch.cat(found, dim=2), own.mask)
            parts.append(masked_mean(Tokens(self.own[position](joined.values, joined), own.mask)))
        return torch.cat(parts, dim=1)


class _Block(nn.Module):
    """Attention from one sequence to another, and two linear layers, each with LayerNorm before and a residual."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.norm_query, self.norm_source, self.norm = nn.LayerNorm(width), nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = nn.MultiheadAttention(width, heads, dropout, batch_first=True)
        self.net = nn.Sequential(
            nn.Linear(width, 4 * width), nn.ReLU(), nn.Dropout(dropout), nn.Linear(4 * width, width)
        )

    def forward(self, query: Tensor, source: Tokens) -> Tensor:
        asked = self.norm_source(source.values)
        some = source.mask.any(1, keepdim=True)
        # where there is nothing to ask, softmax over no key would be NaN: ask all, and use nothing of it
        mixed, _ = self.attention(
            self.norm_query(query), asked, asked, key_padding_mask=~source.mask & some, need_weights=False
        )
        query = query + torch.where(some[..., None], mixed, torch.zeros_like(mixed))
        result: Tensor = query + self.net(self.norm(query))
        return result


def sinusoids(length: int, width: int, like: Tensor) -> Tensor:
    """(T, d): sine and cosine of the position at geometrically spaced frequencies."""
    position = torch.arange(length, device=like.device, dtype=like.dtype)[:, None]
    rate = torch.exp(torch.arange(0, width, 2, device=like.device, dtype=like.dtype) * (-math.log(10000.0) / width))
    angle = position * rate
    return torch.stack([angle.sin(), angle.cos()], dim=2).flatten(1)[:, :width]
