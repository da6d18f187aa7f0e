"""Images and videos: which axis is which."""

from __future__ import annotations

from torch import Tensor

from equimodal.encoders._checks import check_shape

_LAYOUT = {False: "(B, {c}, T, H, W)", True: "(B, T, {c}, H, W)"}


def read_video(x: Tensor, channels: int, time_first: bool) -> Tensor:
    """A video as (B, C, T, H, W), with its channels checked."""
    axis = 2 if time_first else 1
    other = (
        "Pass time_first=True for (B, T, C, H, W)." if not time_first else "Pass time_first=False for (B, C, T, H, W)."
    )
    check_shape(
        x.shape,
        x.ndim == 5 and x.shape[axis] == channels and min(x.shape) > 0,
        _LAYOUT[time_first].format(c=channels),
        f"Correct `in_channels`. {other}",
    )
    return x.transpose(1, 2) if time_first else x


def read_image(x: Tensor, channels: int, size: tuple[int, int] | None = None) -> Tensor:
    """An image as (B, C, H, W), with its channels and, where the network has one, its size checked."""
    if x.ndim == 3 and channels == 1:
        x = x.unsqueeze(1)
    height, width = ("H", "W") if size is None else size
    check_shape(
        x.shape,
        x.ndim == 4
        and x.shape[1] == channels
        and (size is None or tuple(x.shape[2:]) == size)
        and min(x.shape[1:]) > 0,
        f"(B, {channels}, {height}, {width})",
        "Correct `in_channels`, move the channels to the second place"
        + ("." if size is None else ", or resize the images."),
    )
    return x
