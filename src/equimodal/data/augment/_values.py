"""Augmentations that change values: masks of spectrograms, noise, colours."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from equimodal._utils.shapes import line_up
from equimodal.data.augment._operation import Value, chosen, count, interval, share, uniform
from equimodal.errors import DataError, missing_extra


@dataclass(frozen=True)
class SpecMask(Value):
    """Bands of time and frequency replaced by the mean of the sample (SpecAugment, Park et al. 2019, without warping).

    Of an image (C, F, T) the last axis is time, of a sequence (T, F) the first.

    Args:
        time: largest width of a time mask, in steps; the width is drawn evenly from 0. Share of all steps if below 1.
            0.1, our default (the paper has 70 to 100 steps of 10 ms for sentences of many seconds).
        frequency: largest width of a frequency mask, likewise. 0.15 (the paper: 27 of 80 bands).
        times: number of time masks. 1, as the paper's policy LB.
        frequencies: number of frequency masks. 1, as above.

    Raises:
        DataError: an option is out of range.

    References:
        SpecAugment: a simple data augmentation method for automatic speech recognition, arXiv 1904.08779.

    Example:
        >>> x = torch.arange(8.0).reshape(1, 1, 2, 4)
        >>> mask = SpecMask(time=4, frequency=0)
        >>> drawn = mask.draw(1, torch.Generator().manual_seed(1))
        >>> mask.apply(x, drawn, "image").mean() == x.mean()
        tensor(False)
    """

    time: float = 0.1
    frequency: float = 0.15
    times: int = 1
    frequencies: int = 1
    name = "spec_mask"
    kinds = ("image", "sequence")

    def __post_init__(self) -> None:
        for name in ("time", "frequency"):
            value = getattr(self, name)
            whole = isinstance(value, int) or (isinstance(value, float) and (value.is_integer() or value < 1))
            if isinstance(value, bool) or not whole or value < 0:
                raise DataError(f"`{name}`: expected a share below 1 or a whole number of steps. Found {value!r}.")
        count("times", self.times)
        count("frequencies", self.frequencies)

    def draw(self, size: int, generator: torch.Generator) -> Tensor:
        """(size, masks, 2) in [0, 1): width and place of each mask."""
        return torch.rand((size, self.times + self.frequencies, 2), generator=generator)

    def apply(self, x: Tensor, drawn: Any, kind: str) -> Tensor:
        """``x`` with the bands replaced."""
        time, frequency = (x.ndim - 1, x.ndim - 2) if kind == "image" else (1, 2)
        hidden = torch.zeros(x.shape, dtype=torch.bool)
        for number in range(self.times + self.frequencies):
            axis, widest = (time, self.time) if number < self.times else (frequency, self.frequency)
            hidden |= self._band(x, axis, widest, drawn[:, number])
        mean = line_up(x.flatten(1).mean(1), x)
        return torch.where(hidden, mean, x)

    @staticmethod
    def _band(x: Tensor, axis: int, widest: float, drawn: Tensor) -> Tensor:
        length = x.shape[axis]
        largest = min(length, int(widest * length) if 0 < widest < 1 else int(widest))
        width = (drawn[:, 0] * (largest + 1)).floor()
        start = (drawn[:, 1] * (length - width + 1)).floor()
        step = torch.arange(length)
        inside = (step >= start[:, None]) & (step < (start + width)[:, None])
        shape = [len(x), *(length if a == axis else 1 for a in range(1, x.ndim))]
        band: Tensor = inside.reshape(shape)
        return band


@dataclass(frozen=True)
class Noise(Value):
    """Gaussian noise, of a random strength, in some of the samples.

    Args:
        deviation: lowest and highest standard deviation, in the unit of the input as the model sees it. (0, 0.1), as
            CGGM's released loader for BraTS.
        probability: of noise. 0.1, as above.

    Raises:
        DataError: an option is out of range.

    Example:
        >>> noise = Noise(deviation=(1.0, 1.0), probability=1.0)
        >>> x = torch.zeros(1, 10000)
        >>> round(float(noise.apply(x, noise.draw(1, torch.Generator().manual_seed(0)), "vector").std()), 1)
        1.0
    """

    deviation: tuple[float, float] = (0.0, 0.1)
    probability: float = 0.1
    name = "noise"
    kinds = ("image", "sequence", "vector", "video", "volume")

    def __post_init__(self) -> None:
        object.__setattr__(self, "deviation", interval("deviation", self.deviation, 0.0))
        share("probability", self.probability)

    def draw(self, size: int, generator: torch.Generator) -> Tensor:
        """(size, 2): deviation, and the seed of the batch's noise."""
        deviation = uniform(size, *self.deviation, generator)
        deviation = torch.where(chosen(size, self.probability, generator), deviation, 0.0)
        seed = torch.randint(1 << 48, (1,), generator=generator).expand(size)
        return torch.stack([deviation.double(), seed.double()], dim=1)

    def apply(self, x: Tensor, drawn: Any, kind: str) -> Tensor:
        """``x`` plus noise."""
        own = torch.Generator().manual_seed(int(drawn[0, 1]))
        deviation = line_up(drawn[:, 0].to(x.dtype), x)
        noisy: Tensor = x + deviation * torch.randn(x.shape, generator=own, dtype=x.dtype)
        return noisy


@dataclass(frozen=True)
class Colour(Value):
    """Brightness, contrast, saturation and hue changed at random, then gray in some of the samples (needs kornia).

    Pixels are brought back to [0, 1] by the mean and deviation of the card's ``normalise`` or ``scale``, changed, and
    normalised again. All frames of a video are changed alike.

    Args:
        brightness: factor from 1 - b to 1 + b. 0.4, as CGGM's released loader for Food-101.
        contrast: likewise. 0.4, as above.
        saturation: likewise. 0.4, as above.
        hue: turn of the colour circle, from -h to h; at most 0.5. 0.4, as above.
        probability: of a change. 0.8, as above.
        gray: probability of gray. 0.2, as above.

    Raises:
        DataError: an option is out of range, or samples have not three channels.
        MissingExtraError: kornia is not installed.

    Example:
        >>> Colour(brightness=0.2).draw(3, torch.Generator()).shape
        torch.Size([3, 5])
    """

    brightness: float = 0.4
    contrast: float = 0.4
    saturation: float = 0.4
    hue: float = 0.4
    probability: float = 0.8
    gray: float = 0.2
    name = "colour"
    kinds = ("image", "video")

    def __post_init__(self) -> None:
        for name in ("brightness", "contrast", "saturation", "probability", "gray"):
            share(name, getattr(self, name))
        if share("hue", self.hue) > 0.5:
            raise DataError(f"`hue`: expected a number in [0, 0.5]. Found {self.hue!r}.")

    def check(self, shape: tuple[int, ...], modality: str) -> None:
        """Refuse what has not three channels, and a missing kornia."""
        if shape[0] != 3:
            raise DataError(f"augmentation 'colour' of {modality!r}: expected 3 channels (RGB). Found {shape}.")
        try:
            import kornia  # noqa: F401
        except ImportError as error:
            raise missing_extra("kornia", "data", "The augmentation `colour`") from error

    def draw(self, size: int, generator: torch.Generator) -> Tensor:
        """(size, 5): three factors, the turn in radians, and whether to be gray."""
        on = chosen(size, self.probability, generator)
        parts = [uniform(size, 1 - s, 1 + s, generator) for s in (self.brightness, self.contrast, self.saturation)]
        turn = uniform(size, -self.hue, self.hue, generator) * 2 * torch.pi
        factors = [torch.where(on, part, 1.0) for part in parts]
        return torch.stack([*factors, torch.where(on, turn, 0.0), chosen(size, self.gray, generator).float()], dim=1)

    def apply(self, x: Tensor, drawn: Any, kind: str) -> Tensor:
        """Pixels ``x`` (B, 3, H, W) or (B, 3, T, H, W) in [0, 1], changed."""
        from kornia.color import rgb_to_grayscale
        from kornia.enhance import adjust_contrast_with_mean_subtraction, adjust_hue, adjust_saturation

        frames = x.transpose(1, 2).flatten(0, 1) if x.ndim == 5 else x
        brightness, contrast, saturation, turn, gray = drawn.repeat_interleave(len(frames) // len(x), 0).unbind(1)
        out = (frames * brightness[:, None, None, None]).clamp(0, 1)
        out = adjust_contrast_with_mean_subtraction(out, contrast)
        out = adjust_hue(adjust_saturation(out, saturation), turn)
        out = torch.where(gray[:, None, None, None] > 0, rgb_to_grayscale(out).expand_as(out), out)
        return out.reshape(len(x), -1, *out.shape[1:]).transpose(1, 2) if x.ndim == 5 else out
