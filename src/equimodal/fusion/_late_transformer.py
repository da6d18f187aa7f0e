from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor, nn

from equimodal.batch import Tree, tree_tensors
from equimodal.features import Width, pool
from equimodal.fusion._base import ATTENTION_REFUSES, Fill, Fusion, check_attention, check_positive
from equimodal.fusion._cross_attention import sinusoids


class LateTransformer(Fusion):
    r"""A transformer over one token per modality, after SimBaMM ([Rheude2025]_): the simple baseline of late fusion.

    .. math:: u = \mathrm{layers}\big([\,c;\; A_1 h_1;\; \dots;\; A_M h_M\,] + \mathrm{positions}\big)_0

    c is a learnt token, whose place in the result the head reads. A layer is self-attention, residual and LayerNorm,
    then two linear layers with a ReLU between, residual and LayerNorm. Sequences and maps are averaged first.

    Args:
        feature_sizes: modality -> width d_m.
        width: of the tokens inside; divisible by ``heads``. 512 is the released default.
        heads: attention heads; 4 released, 8 for CREMA-D.
        hidden: width between the two linear layers of a layer; 1024 released, 256 for CREMA-D.
        layers: 4 released.
        dropout: share of attention weights and hidden units dropped; 0 released, 0.2 for CREMA-D.
        fill: ``"renormalise"`` (released): absent modalities are masked in every attention, whose weights sum to one
            over what is there. ``"learnt"``: a learnt vector stands for their features.

    Raises:
        ModelError: a size is no positive integer, ``width`` is not divisible by ``heads``, or multi-scale maps.
        UnsupportedError: ``fill="zeros"``.

    Shapes: the result is (B, width). Not additive: unimodal outputs cannot be split from it.

    References:
        .. [Rheude2025] Fusion or Confusion?, arXiv 2512.22991; TillmannRheude/simple_mml_baseline at 9eb533f, read for
           facts.

    Example:
        >>> fusion = LateTransformer({"audio": 3, "video": 5}, width=8, heads=2, hidden=16, layers=1)
        >>> x = {"audio": torch.zeros(2, 3), "video": torch.zeros(2, 5)}
        >>> fusion(x, {"audio": torch.tensor([True, False])}).shape, fusion.out_features
        (torch.Size([2, 8]), 8)
    """

    pooled: ClassVar[bool] = True
    refused: ClassVar[Mapping[str, str]] = ATTENTION_REFUSES

    def __init__(
        self,
        feature_sizes: Mapping[str, Width],
        width: int = 512,
        heads: int = 4,
        hidden: int = 1024,
        layers: int = 4,
        dropout: float = 0.0,
        fill: Fill = "renormalise",
    ) -> None:
        super().__init__(feature_sizes, fill)
        sizes = self.single_widths()
        check_positive(hidden=hidden)
        check_attention(width, heads, layers, dropout)
        self.width, self.hidden = width, hidden
        self.maps = nn.ModuleList(nn.Linear(d, width) for d in sizes.values())
        self.reader = nn.Parameter(torch.empty(width))
        self.reset_parameters()
        self.layers = nn.ModuleList(_Layer(width, heads, hidden, dropout) for _ in range(layers))

    def reset_parameters(self) -> None:
        """Draw the token that reads the others."""
        with torch.no_grad():
            self.reader.copy_(0.02 * torch.randn(self.width))

    @property
    def out_features(self) -> int:
        """``width``."""
        return self.width

    def _share(self, masks: list[Tensor | None]) -> Tensor | None:
        """None: attention renormalises by itself."""
        return None

    def forward(self, features: Mapping[str, Tree], present: Mapping[str, Tensor] | None = None) -> Tree:
        """What the head reads, (B, width); a modality that is left out counts as absent."""
        filled = self.prepare(features, present)
        masks: list[Tensor | None] = [None] * len(filled)
        if self.fill != "learnt":
            masks = self._masks(features, present, tree_tensors(filled[0])[0].shape[0])
        return self._read(filled, masks)

    def combine(self, filled: list[Tree]) -> Tree:
        return self._read(filled, [None] * len(filled))

    def _read(self, filled: list[Tree], masks: list[Tensor | None]) -> Tensor:
        vectors = [map_(pool(feature)) for map_, feature in zip(self.maps, filled, strict=True)]
        first = self.reader.to(vectors[0].dtype).expand_as(vectors[0])
        x = torch.stack([first, *vectors], dim=1)
        x = x + sinusoids(x.shape[1], self.width, x)
        gone = None
        if any(mask is not None for mask in masks):
            everyone = x.new_ones(x.shape[0], dtype=torch.bool)
            gone = ~torch.stack([everyone, *(everyone if mask is None else mask for mask in masks)], dim=1)
        for layer in self.layers:
            x = layer(x, gone)
        read: Tensor = x[:, 0]
        return read


class _Layer(nn.Module):
    """Self-attention and two linear layers, each with a residual and LayerNorm after it."""

    def __init__(self, width: int, heads: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(width, heads, dropout, batch_first=True)
        self.net = nn.Sequential(nn.Linear(width, hidden), nn.ReLU(), nn.Dropout(dropout), nn.Linear(hidden, width))
        self.first, self.second = nn.LayerNorm(width), nn.LayerNorm(width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, gone: Tensor | None) -> Tensor:
        mixed, _ = self.attention(x, x, x, key_padding_mask=gone, need_weights=False)
        x = self.first(x + self.dropout(mixed))
        result: Tensor = self.second(x + self.dropout(self.net(x)))
        return result
