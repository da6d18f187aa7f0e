from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from equimodal.encoders._checks import check_positive, check_shape, check_share, check_widths
from equimodal.encoders._conv2d import channels_last
from equimodal.encoders._encoder import Encoder
from equimodal.errors import ModelError


class UNet(Encoder):
    r"""A small U-Net: features at every pixel of an image or volume, from a wide neighbourhood.

    Going down, each level has two convolutions and halves the size by max pooling; going up, the map is enlarged
    (nearest neighbour), joined with the level's own map of the way down, and passed through two convolutions again.
    Every convolution is followed by batch normalisation and ReLU, the last one included. For the networks of the
    medical literature take MONAI's, which can be used as encoders as they are.

    Args:
        in_channels: channels C.
        channels: width of each level, from full size downwards.
        out_features: width d of the feature map.
        axes: 2 for images, 3 for volumes.
        kernel: size of each convolution, odd.
        dropout: share of whole channels dropped at the lowest level.

    Raises:
        ModelError: an argument is out of range.
        BatchError: (when called) the input has other axes, or is too small for the pooling.

    Shapes: (B, C, H, W) to (B, d, H, W), or (B, C, D, H, W) to (B, d, D, H, W). Sizes need not be powers of two.

    References:
        U-Net: convolutional networks for biomedical image segmentation, MICCAI 2015, arXiv 1505.04597.

    Example:
        >>> UNet(1, channels=(4, 8), out_features=6)(torch.zeros(2, 1, 33, 20)).shape
        torch.Size([2, 6, 33, 20])
    """

    out_features: int

    def __init__(
        self,
        in_channels: int,
        channels: Sequence[int] = (16, 32, 64),
        out_features: int = 16,
        axes: Literal[2, 3] = 2,
        kernel: int = 3,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        check_positive(in_channels=in_channels, out_features=out_features, kernel=kernel)
        if axes not in (2, 3):
            raise ModelError(f"`axes`: expected 2 for images or 3 for volumes. Found {axes!r}.")
        if kernel % 2 == 0:
            raise ModelError(f"`kernel`: expected an odd number. Found {kernel}.")
        widths = check_widths("channels", channels)
        rate = check_share("dropout", dropout)
        self.in_channels, self.out_features, self.axes = in_channels, out_features, axes
        self.smallest = 2 ** (len(widths) - 1)
        pool: Any = nn.MaxPool2d if axes == 2 else nn.MaxPool3d
        drop: Any = nn.Dropout2d if axes == 2 else nn.Dropout3d
        self.pool = pool(2)
        self.drop = drop(rate)
        befores = (in_channels, *widths[:-1])
        self.down = nn.ModuleList(_block(a, b, axes, kernel) for a, b in zip(befores, widths, strict=True))
        outs = (out_features, *widths[1:-1]) if len(widths) > 1 else ()
        self.up = nn.ModuleList(
            _block(
                widths[level] + (outs[level + 1] if level + 2 < len(widths) else widths[-1]), outs[level], axes, kernel
            )
            for level in range(len(widths) - 1)
        )
        self.last = _block(widths[0], out_features, axes, 1) if len(widths) == 1 else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, *pixels) to (B, d, *pixels)."""
        sizes = "H, W" if self.axes == 2 else "D, H, W"
        check_shape(
            x.shape,
            x.ndim == 2 + self.axes and x.shape[1] == self.in_channels and min(x.shape[2:]) >= self.smallest,
            f"(B, {self.in_channels}, {sizes}) with {sizes} >= {self.smallest}",
            "Correct `in_channels` or `axes`, or use fewer levels.",
        )
        x = channels_last(x) if self.axes == 2 else x
        maps: list[Tensor] = []
        for level, block in enumerate(self.down):
            x = block(x if level == 0 else self.pool(x))
            maps.append(x)
        x = self.drop(x)
        for level in range(len(maps) - 2, -1, -1):
            wide = nn.functional.interpolate(x, size=maps[level].shape[2:])
            x = self.up[level](torch.cat([maps[level], wide], dim=1))
        features: Tensor = self.last(x)
        return features


def _block(before: int, after: int, axes: int, kernel: int) -> nn.Sequential:
    """Two convolutions, each with batch normalisation and ReLU."""
    conv: Any = nn.Conv2d if axes == 2 else nn.Conv3d
    norm: Any = nn.BatchNorm2d if axes == 2 else nn.BatchNorm3d
    layers: list[nn.Module] = []
    for width in (before, after):
        layers += [conv(width, after, kernel, padding=kernel // 2, bias=False), norm(after), nn.ReLU()]
    return nn.Sequential(*layers)
