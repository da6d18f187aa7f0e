from __future__ import annotations

import math
from typing import Any, Literal

import torch
from torch import Tensor, nn

from equimodal.batch import Tokens, Tree
from equimodal.encoders._checks import check_choice, check_positive, check_share
from equimodal.encoders._encoder import Encoder
from equimodal.encoders._ids import attendable, check_vocabulary, read_ids
from equimodal.encoders._masks import sequence
from equimodal.errors import ModelError
from equimodal.features import clean, masked_mean

Pool = Literal["mean", "tokens"]


class Transformer(Encoder):
    r"""A small transformer (Vaswani et al. 2017) for sequences of features, normalised before each part.

    :math:`z = W x + b + p_t` with sines and cosines :math:`p_t`; layers of
    :math:`z \leftarrow z + \mathrm{Attention}(\mathrm{LN}(z))`, then
    :math:`z \leftarrow z + \mathrm{MLP}(\mathrm{LN}(z))`; a last layer normalisation and a linear map to the features.
    Normalising first trains without a warm-up (Xiong et al. 2020).

    Args:
        in_features: features F per step.
        out_features: width d of the features.
        width: of the layers, an even multiple of ``heads``; 40 is CGGM's for sentiment.
        layers: number of layers.
        heads: of each attention.
        dropout: share of units dropped in training.
        pool: ``"mean"`` over the real steps for one vector; ``"tokens"`` for the whole sequence.

    Raises:
        ModelError: an argument is out of range.
        BatchError: (when called) the input is not (B, T, F), or its mask does not fit.

    Shapes: (B, T, F) or :class:`~equimodal.batch.Tokens` of it, any T, to (B, d) or to Tokens of (B, T, d). Steps
        outside the mask are neither attended to nor averaged; their content is not read. A sample without a real step
        gives what the last map makes of zeros.

    References:
        Attention is all you need, arXiv 1706.03762. On layer normalization in the transformer architecture, arXiv
        2002.04745.

    Example:
        >>> Transformer(74, out_features=32)(torch.zeros(4, 50, 74)).shape
        torch.Size([4, 32])
    """

    out_features: int

    def __init__(
        self,
        in_features: int,
        out_features: int = 64,
        width: int = 40,
        layers: int = 2,
        heads: int = 4,
        dropout: float = 0.1,
        pool: Pool = "mean",
    ) -> None:
        super().__init__()
        check_positive(in_features=in_features, width=width)
        self.in_features = in_features
        self.out_features = out_features
        self.read = nn.Linear(in_features, width)
        self.body = _Body(width, layers, heads, dropout, out_features, pool)

    def forward(self, x: Tensor | Tokens) -> Tree:
        """(B, T, F) to (B, d), or to Tokens (B, T, d)."""
        sequence(x, self.in_features, 1, "Correct `in_features`, or flatten what belongs to one step.")
        tokens = clean(x) if isinstance(x, Tokens) else Tokens.full(x)
        return self.body(Tokens(self.read(tokens.values), tokens.mask))


class TextTransformer(Encoder):
    r"""A small transformer for token ids: a learnt vector per id, then as :class:`Transformer`. Needs torch only.

    Args:
        vocabulary: number of ids.
        out_features: width d of the features.
        padding: id of padding, where the input brings no mask.
        width: of the layers, an even multiple of ``heads``.
        layers: number of layers.
        heads: of each attention.
        dropout: share of units dropped in training.
        pool: ``"mean"`` over the real tokens for one vector; ``"tokens"`` for the whole sequence.

    Raises:
        ModelError: an argument is out of range.
        BatchError: (when called) the input is no ids, or (on the CPU, where looking is free) an id is not in the
            vocabulary.

    Shapes: ids (B, T), a pair (ids, mask) or a mapping with ``input_ids`` and ``attention_mask``, to (B, d) or to
        :class:`~equimodal.batch.Tokens` of (B, T, d).

    Example:
        >>> TextTransformer(1000, out_features=32)(torch.tensor([[5, 17, 0], [3, 999, 8]])).shape
        torch.Size([2, 32])
    """

    out_features: int

    def __init__(
        self,
        vocabulary: int,
        out_features: int = 64,
        padding: int = 0,
        width: int = 64,
        layers: int = 2,
        heads: int = 4,
        dropout: float = 0.1,
        pool: Pool = "mean",
    ) -> None:
        super().__init__()
        check_vocabulary(vocabulary, padding)
        check_positive(width=width)
        self.vocabulary = vocabulary
        self.padding = padding
        self.out_features = out_features
        self.read = nn.Embedding(vocabulary, width, padding_idx=padding)
        self.body = _Body(width, layers, heads, dropout, out_features, pool)

    def forward(self, x: Any) -> Tree:
        """Ids (B, T) to (B, d), or to Tokens (B, T, d)."""
        ids, mask = read_ids(x, self.vocabulary, None, self.padding)
        return self.body(Tokens(self.read(ids), ids != self.padding if mask is None else mask))


class _Body(nn.Module):
    """Positions, layers, pooling and the last linear map."""

    def __init__(self, width: int, layers: int, heads: int, dropout: float, out_features: int, pool: Pool) -> None:
        super().__init__()
        check_positive(width=width, layers=layers, heads=heads, out_features=out_features)
        check_choice("pool", pool, ("mean", "tokens"))
        if width % heads or width % 2:
            raise ModelError(f"`width`: expected an even multiple of `heads` {heads}. Found {width}.")
        self.pool = pool
        layer = nn.TransformerEncoderLayer(
            width, heads, 4 * width, check_share("dropout", dropout), "gelu", batch_first=True, norm_first=True
        )
        self.layers = nn.TransformerEncoder(layer, layers, nn.LayerNorm(width), enable_nested_tensor=False)
        for parameter in self.layers.parameters():  # its layers are copies of one: give each numbers of its own
            if parameter.ndim > 1:
                nn.init.xavier_uniform_(parameter)
        self.out = nn.Linear(width, out_features)

    def forward(self, x: Tokens) -> Tree:
        """Tokens (B, T, width) to (B, d), or to Tokens (B, T, d)."""
        steps, width = x.values.shape[1:]
        values = x.values + sinusoid(steps, width, x.values)
        states = Tokens(self.layers(values, src_key_padding_mask=~attendable(x.mask)), x.mask)
        if self.pool == "tokens":
            return clean(Tokens(self.out(states.values), x.mask))
        return self.out(masked_mean(states))


def sinusoid(steps: int, width: int, like: Tensor) -> Tensor:
    """Sines and cosines (T, d) of the position, wavelengths 2 pi to 20000 pi (Vaswani et al. 2017, section 3.5)."""
    position = torch.arange(steps, device=like.device, dtype=torch.float32)[:, None]
    rate = torch.exp(torch.arange(0, width, 2, device=like.device, dtype=torch.float32) * (-math.log(1e4) / width))
    angle = position * rate
    return torch.stack([angle.sin(), angle.cos()], dim=2).flatten(1).to(like.dtype)
