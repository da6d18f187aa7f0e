from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor, nn

from equimodal.batch import Tokens, Tree
from equimodal.encoders._checks import (
    Norm,
    check_choice,
    check_norm,
    check_odd,
    check_positive,
    check_share,
    check_widths,
)
from equimodal.encoders._encoder import Encoder
from equimodal.encoders._masks import masked_norm, real_first, segment_means, sequence, within


class Conv1d(Encoder):
    r"""Convolutions along time for sequences (sensor signals, skeletons, frame-wise features).

    Blocks of convolution, max pooling by 2 (not in the last), normalisation and ReLU; then the mean of ``segments``
    equal parts of the sequence and its maximum, joined and mapped to the feature vector by a linear map and ReLU.

    Args:
        in_channels: features F per time step.
        channels: width of each block.
        out_features: width d of the feature vector.
        kernel: time steps per convolution, odd.
        segments: parts of the sequence averaged separately; 1 forgets all order beyond the receptive field.
        stride: step of the first convolution; 2 makes the encoder about twice as cheap.
        dropout: share of pooled features dropped before the last map.
        norm: normalisation after each convolution; ``"layer"`` is over channels and time of one sample.
        input_dropout: share of input numbers dropped; against overfitting of small sets.
        pool: ``"segments"`` for one vector; ``"tokens"`` for one per remaining step, the linear map then reads each.

    Raises:
        ModelError: an argument is out of range.
        BatchError: (when called) the input is not (B, T, F), T is too short for the pooling, or a mask does not fit.

    Shapes: (B, T, F), or :class:`~equimodal.batch.Tokens` of it, to (B, d), or to Tokens of (B, T', d) with
        T' = T / stride / 2^(blocks - 1); any T >= stride * 2^(blocks - 1). With a mask, the real steps are moved
        together and nothing else counts, in the statistics of the normalisation either: a padded sequence gives what
        it gives alone. The transposition to PyTorch's (B, F, T) is done inside.

    Example:
        >>> Conv1d(6, channels=(32, 64))(torch.zeros(4, 128, 6)).shape
        torch.Size([4, 64])
    """

    out_features: int

    def __init__(
        self,
        in_channels: int,
        channels: Sequence[int] = (64, 128),
        out_features: int = 64,
        kernel: int = 5,
        segments: int = 4,
        stride: int = 1,
        dropout: float = 0.0,
        norm: Norm = "batch",
        input_dropout: float = 0.0,
        pool: Literal["segments", "tokens"] = "segments",
    ) -> None:
        super().__init__()
        check_choice("pool", pool, ("segments", "tokens"))
        check_positive(in_channels=in_channels, out_features=out_features, segments=segments, stride=stride)
        check_odd("kernel", kernel)
        check_norm(norm)
        widths = (in_channels, *check_widths("channels", channels))
        rate, input_rate = check_share("dropout", dropout), check_share("input_dropout", input_dropout)
        self.in_channels = in_channels
        self.out_features = out_features
        self.pool = pool
        self.segments = segments
        self.shortest = stride * 2 ** (len(widths) - 2)
        blocks: list[nn.Module] = [nn.Dropout(input_rate)] if input_rate else []
        for position, (before, after) in enumerate(pairwise(widths)):
            step, around = (1, 1 if position else stride), (0, kernel // 2)
            blocks.append(nn.Conv2d(before, after, (1, kernel), step, padding=around, bias=norm != "batch"))
            if position < len(widths) - 2:
                blocks.append(nn.MaxPool2d((1, 2)))
            if norm == "batch":
                blocks.append(nn.BatchNorm2d(after))
            elif norm == "layer":
                blocks.append(nn.GroupNorm(1, after))
            blocks.append(nn.ReLU())
        self.blocks = nn.Sequential(*blocks)
        self.mean = nn.AdaptiveAvgPool2d((1, segments))
        read = widths[-1] * (segments + 1 if pool == "segments" else 1)
        self.out = nn.Sequential(nn.Dropout(rate), nn.Linear(read, out_features), nn.ReLU())

    def forward(self, x: Tensor | Tokens) -> Tree:
        """(B, T, F) to (B, d), or to Tokens (B, T', d)."""
        hint = "Correct `in_channels`, flatten what belongs to one time step, or use fewer blocks."
        values = sequence(x, self.in_channels, self.shortest, hint)
        if isinstance(x, Tokens):
            return self._of_tokens(x)
        # (B, T, F) read as (B, F, 1, T) has its channels innermost: about twice as fast on a CPU as nn.Conv1d
        maps: Tensor = self.blocks(values.contiguous().unsqueeze(1).permute(0, 3, 1, 2))
        if self.pool == "tokens":
            return Tokens.full(self.out(maps.squeeze(2).mT))
        features: Tensor = self.out(torch.cat([self.mean(maps).flatten(1), maps.amax(dim=(2, 3))], dim=1))
        return features

    def _of_tokens(self, x: Tokens) -> Tree:
        values, lengths, _ = real_first(x)
        maps = values.unsqueeze(1).permute(0, 3, 1, 2)
        for block in self.blocks:
            real = within(lengths, maps.shape[3])[:, None, None]
            if isinstance(block, nn.MaxPool2d):
                maps = block(maps.masked_fill(~real, float("-inf")))
                lengths = (lengths // 2).maximum((lengths > 0).to(lengths.dtype))
            elif isinstance(block, (nn.BatchNorm2d, nn.GroupNorm)):
                maps = masked_norm(block, maps, real)
            else:
                maps = block(maps)
                if isinstance(block, nn.Conv2d):
                    step = block.stride[1]
                    lengths = (lengths + step - 1) // step
            maps = maps.masked_fill(~within(lengths, maps.shape[3])[:, None, None], 0.0)
        steps = maps.squeeze(2)
        real = within(lengths, steps.shape[2])
        if self.pool == "tokens":
            return Tokens(self.out(steps.mT).masked_fill(~real[..., None], 0.0), real)
        largest = steps.masked_fill(~real[:, None], float("-inf")).amax(2).masked_fill(lengths[:, None] == 0, 0.0)
        features: Tensor = self.out(torch.cat([segment_means(steps, lengths, self.segments), largest], dim=1))
        return features
