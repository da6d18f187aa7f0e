"""Augmentations that move pixels: crop, flip, rotation."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import affine_grid, grid_sample

from equimodal.data.augment._operation import Geometry, chosen, count, interval, share, uniform
from equimodal.errors import DataError


def warp(x: Tensor, matrix: Tensor, nearest: bool) -> Tensor:
    """``x`` (B, K, H, W) read at ``matrix`` (B, 2, 3) times each position, in units of half the size; zeros beyond."""
    kept = x if x.is_floating_point() else x.float()
    grid = affine_grid(matrix.to(kept.dtype), list(kept.shape), align_corners=False)
    moved = grid_sample(kept, grid, "nearest" if nearest else "bilinear", "zeros", align_corners=False)
    return moved if x.is_floating_point() else moved.round().to(x.dtype)


@dataclass(frozen=True)
class Crop(Geometry):
    """Random resized crop: a part of random area and aspect, at a random place, brought back to the full size.

    Args:
        scale: area of the part, as share of the whole. (0.08, 1) as in Szegedy et al. 2015 and torchvision.
        ratio: width over height of the part, drawn evenly in its logarithm. (3/4, 4/3), as above.
        probability: of a crop.

    Raises:
        DataError: an option is out of range.

    Example:
        >>> drawn = Crop(scale=(0.25, 0.25), ratio=(1, 1)).draw(2, torch.Generator().manual_seed(0))
        >>> drawn[:, 0, 0].tolist()
        [0.5, 0.5]
    """

    scale: tuple[float, float] = (0.08, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    probability: float = 1.0
    name = "crop"

    def __post_init__(self) -> None:
        object.__setattr__(self, "scale", interval("scale", self.scale, 1e-3, 1.0))
        object.__setattr__(self, "ratio", interval("ratio", self.ratio, 1e-2, 1e2))
        share("probability", self.probability)

    def draw(self, size: int, generator: torch.Generator) -> Tensor:
        """(size, 2, 3) matrices."""
        area = uniform(size, *self.scale, generator)
        ratio = uniform(size, math.log(self.ratio[0]), math.log(self.ratio[1]), generator).exp()
        width, height = (area * ratio).sqrt().clamp_max(1.0), (area / ratio).sqrt().clamp_max(1.0)
        across, down = (2 * torch.rand(size, generator=generator) - 1 for _ in range(2))
        on = chosen(size, self.probability, generator)
        width, height = torch.where(on, width, 1.0), torch.where(on, height, 1.0)
        zero = torch.zeros(size)
        rows = [width, zero, across * (1 - width), zero, height, down * (1 - height)]
        return torch.stack(rows, dim=1).reshape(size, 2, 3)

    def move(self, x: Tensor, drawn: Any, nearest: bool) -> Tensor:
        """The parts, at full size."""
        return warp(x, drawn, nearest)


@dataclass(frozen=True)
class Flip(Geometry):
    """Left and right changed, in some of the samples.

    Args:
        probability: of a flip. 0.5, as in the papers' loaders.

    Raises:
        DataError: an option is out of range.

    Example:
        >>> flip = Flip(1.0)
        >>> drawn = flip.draw(1, torch.Generator())
        >>> flip.move(torch.arange(3.0).reshape(1, 1, 1, 3), drawn, False).flatten().tolist()
        [2.0, 1.0, 0.0]
    """

    probability: float = 0.5
    name = "flip"

    def __post_init__(self) -> None:
        share("probability", self.probability)

    def draw(self, size: int, generator: torch.Generator) -> Tensor:
        """(size,) booleans."""
        return chosen(size, self.probability, generator)

    def move(self, x: Tensor, drawn: Any, nearest: bool) -> Tensor:
        """The samples chosen are mirrored; values stay exact."""
        return torch.where(drawn[:, None, None, None], x.flip(3), x)


@dataclass(frozen=True)
class QuarterTurns(Geometry):
    """A random number of quarter turns, then a flip along a random axis: exact, for square slices.

    Args:
        turns: the number of turns is drawn from 0 to ``turns`` - 1. 3, as CGGM's released loader for BraTS has it.
        flip: probability of the flip. 1, as above.

    Raises:
        DataError: an option is out of range, or samples are not square.

    Example:
        >>> turned = QuarterTurns(turns=1, flip=0.0)
        >>> x = torch.rand(2, 1, 4, 4)
        >>> torch.equal(turned.move(x, turned.draw(2, torch.Generator()), False), x)
        True
    """

    turns: int = 3
    flip: float = 1.0
    name = "quarter_turns"

    def __post_init__(self) -> None:
        if count("turns", self.turns, 1) > 4:
            raise DataError(f"`turns`: expected 1 to 4. Found {self.turns}.")
        share("flip", self.flip)

    def check(self, shape: tuple[int, ...], modality: str) -> None:
        """Refuse what is not square."""
        if self.turns > 1 and shape[-1] != shape[-2]:
            raise DataError(
                f"augmentation {self.name!r} of {modality!r}: expected square samples. Found {shape}. Use `rotate` or "
                "`flip`."
            )

    def draw(self, size: int, generator: torch.Generator) -> Tensor:
        """(size, 2): number of turns; 0 no flip, 1 up and down, 2 left and right."""
        turns = torch.randint(self.turns, (size,), generator=generator)
        axis = torch.randint(1, 3, (size,), generator=generator)
        return torch.stack([turns, torch.where(chosen(size, self.flip, generator), axis, 0)], dim=1)

    def move(self, x: Tensor, drawn: Any, nearest: bool) -> Tensor:
        """Turned, then flipped; values stay exact."""
        turns, axis = drawn[:, 0, None, None, None], drawn[:, 1, None, None, None]
        for number in range(1, self.turns):
            x = torch.where(turns == number, x.rot90(number, (2, 3)), x)
        return torch.where(axis == 1, x.flip(2), torch.where(axis == 2, x.flip(3), x))


@dataclass(frozen=True)
class Rotate(Geometry):
    """A rotation by a random angle around the middle; what comes from beyond the edge is 0.

    Args:
        degrees: largest angle, to either side. 10.
        probability: of a rotation.

    Raises:
        DataError: an option is out of range.

    Example:
        >>> rotate = Rotate(degrees=0)
        >>> x = torch.rand(2, 1, 5, 5)
        >>> torch.allclose(rotate.move(x, rotate.draw(2, torch.Generator()), False), x, atol=1e-6)
        True
    """

    degrees: float = 10.0
    probability: float = 1.0
    name = "rotate"

    def __post_init__(self) -> None:
        if isinstance(self.degrees, bool) or not isinstance(self.degrees, (int, float)) or not 0 <= self.degrees <= 180:
            raise DataError(f"`degrees`: expected a number in [0, 180]. Found {self.degrees!r}.")
        share("probability", self.probability)

    def draw(self, size: int, generator: torch.Generator) -> Tensor:
        """(size,) angles in radians."""
        angle = uniform(size, -math.radians(self.degrees), math.radians(self.degrees), generator)
        return torch.where(chosen(size, self.probability, generator), angle, 0.0)

    def move(self, x: Tensor, drawn: Any, nearest: bool) -> Tensor:
        """Rotated in pixels, whatever the shape."""
        cos, sin, zero = drawn.cos(), drawn.sin(), torch.zeros_like(drawn)
        aspect = x.shape[2] / x.shape[3]
        rows = [cos, -sin * aspect, zero, sin / aspect, cos, zero]
        return warp(x, torch.stack(rows, dim=1).reshape(-1, 2, 3), nearest)
