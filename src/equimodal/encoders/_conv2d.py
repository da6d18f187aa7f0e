from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from math import prod

import torch
from torch import Tensor, nn

from equimodal.encoders._checks import (
    Norm,
    check_norm,
    check_odd,
    check_positive,
    check_shape,
    check_share,
    check_widths,
)
from equimodal.encoders._encoder import Encoder
from equimodal.errors import ModelError


class Conv2d(Encoder):
    r"""Convolutions for images, depth maps and spectrograms.

    Blocks of convolution, max pooling by 2 (not in the last), normalisation and ReLU; then the means over a coarse
    grid, which keep the rough position (for a spectrogram: the frequency band), and the maximum of each channel, joined
    and mapped to the feature vector by a linear map and ReLU.

    Args:
        in_channels: channels C.
        channels: width of each block.
        out_features: width d of the feature vector.
        kernel: height and width of each convolution, odd.
        grid: rows and columns of the means that are kept.
        stride: step of the first convolution; 2 makes the encoder about four times cheaper.
        dropout: share of pooled features dropped before the last map.
        norm: normalisation after each convolution; ``"layer"`` is over channels and positions of one sample.
        input_dropout: share of input numbers dropped; against overfitting of small sets.

    Raises:
        ModelError: an argument is out of range.
        BatchError: (when called) the input is not (B, C, H, W), or is too small for the pooling.

    Shapes: (B, C, H, W), or (B, H, W) if C = 1, to (B, d).

    Example:
        >>> Conv2d(1, channels=(8, 16), grid=(4, 2))(torch.zeros(3, 40, 64)).shape
        torch.Size([3, 64])
    """

    out_features: int

    def __init__(
        self,
        in_channels: int,
        channels: Sequence[int] = (32, 64, 128),
        out_features: int = 64,
        kernel: int = 3,
        grid: tuple[int, int] = (4, 2),
        stride: int = 1,
        dropout: float = 0.0,
        norm: Norm = "batch",
        input_dropout: float = 0.0,
    ) -> None:
        super().__init__()
        check_positive(in_channels=in_channels, out_features=out_features, stride=stride)
        check_odd("kernel", kernel)
        check_norm(norm)
        cells = check_widths("grid", grid)
        if len(cells) != 2:
            raise ModelError(f"`grid`: expected (rows, columns), such as (4, 2). Found {grid!r}.")
        widths = (in_channels, *check_widths("channels", channels))
        rate, input_rate = check_share("dropout", dropout), check_share("input_dropout", input_dropout)
        self.in_channels = in_channels
        self.out_features = out_features
        self.smallest = stride * 2 ** (len(widths) - 2)
        blocks: list[nn.Module] = [nn.Dropout(input_rate)] if input_rate else []
        for position, (before, after) in enumerate(pairwise(widths)):
            step = 1 if position else stride
            blocks.append(nn.Conv2d(before, after, kernel, stride=step, padding=kernel // 2, bias=norm != "batch"))
            if position < len(widths) - 2:
                blocks.append(nn.MaxPool2d(2))
            if norm == "batch":
                blocks.append(nn.BatchNorm2d(after))
            elif norm == "layer":
                blocks.append(nn.GroupNorm(1, after))
            blocks.append(nn.ReLU())
        self.blocks = nn.Sequential(*blocks)
        self.mean = nn.AdaptiveAvgPool2d(cells)
        self.out = nn.Sequential(nn.Dropout(rate), nn.Linear(widths[-1] * (prod(cells) + 1), out_features), nn.ReLU())

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to (B, d)."""
        if x.ndim == 3 and self.in_channels == 1:
            x = x.unsqueeze(1)
        check_shape(
            x.shape,
            x.ndim == 4 and x.shape[1] == self.in_channels and min(x.shape[2:]) >= self.smallest,
            f"(B, {self.in_channels}, H, W) with H, W >= {self.smallest}",
            "Correct `in_channels`, move the channels to the second place, or use fewer blocks.",
        )
        maps: Tensor = self.blocks(channels_last(x))
        features: Tensor = self.out(torch.cat([self.mean(maps).flatten(1), maps.amax(dim=(2, 3))], dim=1))
        return features


def channels_last(x: Tensor) -> Tensor:
    """The same numbers with the channels innermost in memory: about twice as fast on a CPU."""
    if x.shape[1] == 1:  # both layouts are the same bytes, but only these strides tell the convolution
        return x.squeeze(1).contiguous().unsqueeze(-1).permute(0, 3, 1, 2)
    return x.contiguous(memory_format=torch.channels_last)
