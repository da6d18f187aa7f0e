"""What spoils images: colours, contrast and geometry as in MultiBench, and blur."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import affine_grid, grid_sample

from equimodal._utils.shapes import line_up
from equimodal.errors import missing_extra

# red, green, blue of a black body at 1000, 1500 ... 10000 K, as MultiBench lists them (M. Charity, "What color is a
# blackbody?", CIE 1964 10 degree observer)
_BLACK_BODY = (
    "ff3800", "ff6d00", "ff8912", "ffa148", "ffb46b", "ffc489", "ffd1a3", "ffdbba", "ffe4ce", "ffece0", "fff3ef",
    "fff9fd", "f5f3ff", "ebeeff", "e3e9ff", "dce5ff", "d6e1ff", "d0deff", "ccdbff",
)  # fmt: skip
_TINTS = ("ff0000", "0000ff", "008000")  # red, blue and the green of web colours
_TURN = 20.0  # degrees
_CROP = 0.8  # of each side
BLUR = 0.05  # deviation of the blur at level 1, as share of the shorter side


@dataclass(frozen=True)
class ImageNoise:
    """One way to spoil a whole image.

    Args:
        spoil: (B, C, ..., H, W) with 0 as black and 1 as white, and (B, n) numbers in [0, 1), to the same shape.
        numbers: n.
        colours: needs three channels: red, green and blue.
    """

    spoil: Callable[[Tensor, Tensor], Tensor]
    numbers: int = 0
    colours: bool = False


def grayscale(v: Tensor, _: Tensor) -> Tensor:
    """The lightness in every channel."""
    return lightness(v).expand_as(v)


def contrast(v: Tensor, _: Tensor) -> Tensor:
    """Half of the contrast: the middle between each pixel and the mean lightness of its image."""
    return (v + lightness(v).mean(dim=(-2, -1), keepdim=True)) / 2


def inversion(v: Tensor, _: Tensor) -> Tensor:
    """Black for white."""
    return 1 - v


def white_balance(v: Tensor, drawn: Tensor) -> Tensor:
    """Each channel times that of a light of another temperature, one of 19."""
    return v * line_up(_picked(_BLACK_BODY, drawn[:, 0], v), v)


def tint(v: Tensor, drawn: Tensor) -> Tensor:
    """30 % of red, green or blue."""
    return 0.7 * v + 0.3 * line_up(_picked(_TINTS, drawn[:, 0], v), v)


def rotation(v: Tensor, drawn: Tensor) -> Tensor:
    """Turned by up to 20 degrees to either side, black corners."""
    height, width = v.shape[-2:]
    angle = (2 * drawn[:, 0] - 1) * math.radians(_TURN)
    zero = torch.zeros_like(angle)
    rows = [angle.cos(), -angle.sin() * (height / width), zero, angle.sin() * (width / height), angle.cos(), zero]
    return _read_at(v, rows, "zeros")


def flip(v: Tensor, _: Tensor) -> Tensor:
    """Left and right exchanged."""
    return v.flip(-1)


def crop(v: Tensor, drawn: Tensor) -> Tensor:
    """A part of 80 % of each side, from anywhere, brought back to the full size."""
    across, down = ((1 - _CROP) * (2 * drawn[:, i] - 1) for i in range(2))
    scale, zero = torch.full_like(across, _CROP), torch.zeros_like(across)
    return _read_at(v, [scale, zero, across, zero, scale, down], "border")


IMAGE_NOISES = {
    "grayscale": ImageNoise(grayscale, colours=True),
    "contrast": ImageNoise(contrast),
    "inversion": ImageNoise(inversion),
    "white_balance": ImageNoise(white_balance, 1, colours=True),
    "tint": ImageNoise(tint, 1, colours=True),
    "rotation": ImageNoise(rotation, 1),
    "flip": ImageNoise(flip),
    "crop": ImageNoise(crop, 2),
}


def blur(x: Tensor, level: float) -> Tensor:
    """Convolution with a Gaussian of deviation 5 % of the shorter side times the level; edges are repeated."""
    try:
        from kornia.filters import gaussian_blur2d
    except ImportError as error:
        raise missing_extra("kornia", "data", "The noise `blur`") from error
    maps = x.flatten(1, -3)  # frames and slices as channels: each is blurred by itself
    deviation = level * BLUR * min(x.shape[-2:])
    size = 2 * math.ceil(3 * deviation) + 1
    found: Tensor = gaussian_blur2d(maps, (size, size), (deviation, deviation), border_type="replicate")
    return found.reshape(x.shape)


def lightness(v: Tensor) -> Tensor:
    """(B, 1, ..., H, W): 0.299 red + 0.587 green + 0.114 blue (ITU-R BT.601); of other channels their mean."""
    if v.shape[1] != 3:
        return v.mean(dim=1, keepdim=True)
    return (v * line_up(v.new_tensor([[0.299, 0.587, 0.114]]), v)).sum(dim=1, keepdim=True)


def _picked(colours: tuple[str, ...], drawn: Tensor, like: Tensor) -> Tensor:
    """(B, 3): one of the colours per sample."""
    table = like.new_tensor([[int(c[i : i + 2], 16) / 255 for i in (0, 2, 4)] for c in colours])
    return table[(drawn * len(colours)).long()]


def _read_at(v: Tensor, rows: list[Tensor], beyond: str) -> Tensor:
    """Read at an affine map of each position, (B, 2, 3) row by row, in units of half the size."""
    maps = v.flatten(1, -3)
    grid = affine_grid(torch.stack(rows, dim=1).reshape(-1, 2, 3).to(v.dtype), list(maps.shape), align_corners=False)
    return grid_sample(maps, grid, "bilinear", beyond, align_corners=False).reshape(v.shape)
