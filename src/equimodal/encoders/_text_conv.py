"""Texts by convolution: cheap, and enough for short texts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from torch import Tensor, nn

from equimodal.batch import Tokens, Tree
from equimodal.encoders._checks import check_positive, check_share
from equimodal.encoders._conv1d import Conv1d
from equimodal.encoders._encoder import Encoder
from equimodal.encoders._ids import check_vocabulary, read_ids
from equimodal.errors import ModelError


class TextConv(Encoder):
    r"""Convolutions over token ids: a learnt vector per id, then :class:`Conv1d`. Needs torch only.

    One convolution and the maximum over time, with the mean beside it, after Kim (EMNLP 2014, arXiv 1408.5882), whose
    network it is not: the mean, one width of kernel, and no pretrained vectors are ours. About a tenth of the time of
    :class:`TextTransformer`.

    Args:
        vocabulary: number of ids.
        out_features: width d of the features.
        padding: id of padding, where the input brings no mask.
        width: of the vector of an id.
        channels: width of each block of convolution; between two blocks the length is halved.
        kernel: tokens per convolution, odd.
        dropout: share of vectors' numbers, and of pooled features, dropped in training.
        pool: ``"mean"`` for one vector; ``"tokens"`` for one per remaining step.

    Raises:
        ModelError: an argument is out of range.
        BatchError: (when called) the input is no ids, or (on the CPU) an id is not in the vocabulary.

    Shapes: ids (B, T), a pair (ids, mask) or a mapping with ``input_ids`` and ``attention_mask``, to (B, d) or to
        :class:`~equimodal.batch.Tokens` of (B, T', d).

    Example:
        >>> import torch
        >>> TextConv(1000, out_features=32)(torch.tensor([[5, 17, 0], [3, 999, 8]])).shape
        torch.Size([2, 32])
    """

    out_features: int

    def __init__(
        self,
        vocabulary: int,
        out_features: int = 64,
        padding: int = 0,
        width: int = 64,
        channels: Sequence[int] = (128,),
        kernel: int = 5,
        dropout: float = 0.2,
        pool: Literal["mean", "tokens"] = "mean",
    ) -> None:
        super().__init__()
        check_vocabulary(vocabulary, padding)
        check_positive(width=width)
        if pool not in ("mean", "tokens"):
            raise ModelError(f"`pool`: expected 'mean' or 'tokens'. Found {pool!r}.")
        self.vocabulary = vocabulary
        self.padding = padding
        self.out_features = out_features
        self.read = nn.Embedding(vocabulary, width, padding_idx=padding)
        self.drop = nn.Dropout(check_share("dropout", dropout))
        steps: Literal["segments", "tokens"] = "tokens" if pool == "tokens" else "segments"
        self.body = Conv1d(width, channels, out_features, kernel, segments=1, dropout=dropout, pool=steps)

    def forward(self, x: Any) -> Tree:
        """Ids (B, T) to (B, d), or to Tokens (B, T', d)."""
        ids, mask = read_ids(x, self.vocabulary, None, self.padding)
        shortest = self.body.shortest
        real = ids != self.padding if mask is None else mask
        if ids.shape[1] < shortest:
            more = (0, shortest - ids.shape[1])
            ids, real = nn.functional.pad(ids, more, value=self.padding), nn.functional.pad(real, more, value=False)
        values: Tensor = self.drop(self.read(ids))
        return self.body(Tokens(values, real))
