"""What an augmentation is: random numbers for a batch, and what they do to values."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar

import torch
from torch import Tensor

from equimodal.errors import DataError


class Operation(ABC):
    """One augmentation of one modality. Subclasses are frozen dataclasses: their fields are its options.

    ``draw`` makes the random numbers of all samples of a batch, from the given generator alone; the operation itself
    is a function of them.
    """

    name: ClassVar[str]
    kinds: ClassVar[tuple[str, ...]]
    """Kinds of modalities it is for."""

    @abstractmethod
    def draw(self, size: int, generator: torch.Generator) -> Any:
        """Random numbers for ``size`` samples."""

    def check(self, shape: tuple[int, ...], modality: str) -> None:  # noqa: B027  (most fit every shape)
        """Refuse samples of this shape; called once, before training."""


class Value(Operation):
    """An operation that changes values where they are."""

    @abstractmethod
    def apply(self, x: Tensor, drawn: Any, kind: str) -> Tensor:
        """``x`` (B, ...) changed; ``drawn`` is indexed like ``x``."""


class Geometry(Operation):
    """An operation that moves pixels, the same way in all channels, frames, and slices of a sample."""

    kinds = ("image", "video", "volume")

    @abstractmethod
    def move(self, x: Tensor, drawn: Any, nearest: bool) -> Tensor:
        """``x`` (B, K, H, W) with its pixels moved; ``nearest`` makes no new values (labels)."""


def share(name: str, value: Any) -> float:
    """``value`` if it is a number in [0, 1]."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= 1:
        raise DataError(f"`{name}`: expected a number in [0, 1]. Found {value!r}.")
    return float(value)


def interval(name: str, value: Any, lowest: float, highest: float = float("inf")) -> tuple[float, float]:
    """``value`` if it is two ascending numbers between the limits."""
    numbers = tuple(value) if isinstance(value, (list, tuple)) else ()
    plain = len(numbers) == 2 and all(isinstance(n, (int, float)) and not isinstance(n, bool) for n in numbers)
    if not plain or not lowest <= numbers[0] <= numbers[1] <= highest:
        raise DataError(f"`{name}`: expected [low, high] between {lowest:g} and {highest:g}. Found {value!r}.")
    return float(numbers[0]), float(numbers[1])


def count(name: str, value: Any, least: int = 0) -> int:
    """``value`` if it is a whole number of at least ``least``."""
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise DataError(f"`{name}`: expected a whole number of at least {least}. Found {value!r}.")
    return value


def uniform(size: int, low: float, high: float, generator: torch.Generator) -> Tensor:
    """(size,) numbers, uniform in [low, high)."""
    return low + (high - low) * torch.rand(size, generator=generator)


def chosen(size: int, probability: float, generator: torch.Generator) -> Tensor:
    """(size,) booleans, ``True`` with ``probability``."""
    return torch.rand(size, generator=generator) < probability
