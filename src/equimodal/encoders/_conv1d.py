from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

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


class Conv1d(nn.Module):
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

    Raises:
        ModelError: an argument is out of range.
        BatchError: (when called) the input is not (B, T, F), or T is too short for the pooling.

    Shapes: (B, T, F) to (B, d), any T >= stride * 2^(blocks - 1). The transposition to PyTorch's (B, F, T) is done
        inside.

    Example:
        >>> Conv1d(6, channels=(32, 64))(torch.zeros(4, 128, 6)).shape
        torch.Size([4, 64])
    """

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
    ) -> None:
        super().__init__()
        check_positive(in_channels=in_channels, out_features=out_features, segments=segments, stride=stride)
        check_odd("kernel", kernel)
        check_norm(norm)
        widths = (in_channels, *check_widths("channels", channels))
        rate, input_rate = check_share("dropout", dropout), check_share("input_dropout", input_dropout)
        self.in_channels = in_channels
        self.out_features = out_features
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
        self.out = nn.Sequential(nn.Dropout(rate), nn.Linear(widths[-1] * (segments + 1), out_features), nn.ReLU())

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, F) to (B, d)."""
        check_shape(
            x.shape,
            x.ndim == 3 and x.shape[2] == self.in_channels and x.shape[1] >= self.shortest,
            f"(B, T, {self.in_channels}) with T >= {self.shortest}",
            "Correct `in_channels`, flatten what belongs to one time step, or use fewer blocks.",
        )
        # (B, T, F) read as (B, F, 1, T) has its channels innermost: about twice as fast on a CPU as nn.Conv1d
        maps: Tensor = self.blocks(x.contiguous().unsqueeze(1).permute(0, 3, 1, 2))
        features: Tensor = self.out(torch.cat([self.mean(maps).flatten(1), maps.amax(dim=(2, 3))], dim=1))
        return features
