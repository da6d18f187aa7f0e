"""Argument and shape checks that the encoders share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from numbers import Real
from pathlib import Path
from typing import Any, Literal, get_args

from equimodal.errors import BatchError, ModelError, did_you_mean

Norm = Literal["batch", "layer", "none"]


def _is_size(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def check_positive(**sizes: int) -> None:
    """Refuse a size that is no positive integer, by its parameter's name."""
    for name, size in sizes.items():
        if not _is_size(size):
            raise ModelError(f"`{name}`: expected a positive integer. Found {size!r}.")


def check_widths(name: str, widths: Sequence[int], allow_empty: bool = False) -> tuple[int, ...]:
    """The widths of a stack of layers, each a positive integer."""
    if isinstance(widths, str) or not isinstance(widths, Sequence) or not all(map(_is_size, widths)):
        raise ModelError(f"`{name}`: expected a sequence of positive integers, such as (64, 128). Found {widths!r}.")
    if not widths and not allow_empty:
        raise ModelError(f"`{name}`: expected at least one layer. Found none.")
    return tuple(widths)


def check_share(name: str, share: float) -> float:
    """A share of units to drop, in [0, 1)."""
    if isinstance(share, bool) or not isinstance(share, Real) or not 0.0 <= share < 1.0:
        raise ModelError(f"`{name}`: expected a number in [0, 1). Found {share!r}.")
    return float(share)


def check_odd(name: str, kernel: int) -> None:
    """Refuse an even kernel, which would shift the sequence by half a step."""
    check_positive(**{name: kernel})
    if kernel % 2 == 0:
        raise ModelError(f"`{name}`: expected an odd number, so that padding keeps positions. Found {kernel}.")


def check_norm(norm: str) -> None:
    """Refuse an unknown normalisation."""
    if norm not in get_args(Norm):
        raise ModelError(
            f"`norm`: expected one of {list(get_args(Norm))}. Found {norm!r}.{did_you_mean(norm, get_args(Norm))}"
        )


def check_shape(found: Sequence[int], fits: bool, expected: str, hint: str) -> None:
    """Refuse an input that does not fit the encoder, with both shapes in the message."""
    if not fits:
        raise BatchError(f"Input of the encoder: expected {expected}. Found {tuple(found)}. {hint}")


def check_choice(name: str, value: object, allowed: Sequence[object]) -> None:
    """Refuse a value that is none of ``allowed``."""
    if value not in allowed:
        raise ModelError(f"`{name}`: expected one of {list(allowed)}. Found {value!r}.{did_you_mean(value, allowed)}")


def check_pair(name: str, value: Any) -> tuple[int, int]:
    """Height and width, given as two numbers or as one for both."""
    pair = (value, value) if isinstance(value, int) else tuple(value) if isinstance(value, Sequence) else ()
    if len(pair) != 2 or not all(map(_is_size, pair)):
        raise ModelError(f"`{name}`: expected a positive integer or (height, width). Found {value!r}.")
    return pair[0], pair[1]


def check_patches(settings: Any) -> None:
    """Refuse images that are no whole number of patches high and wide: what is left over would not be read."""
    image, patch = check_pair("image_size", settings.image_size), check_pair("patch_size", settings.patch_size)
    if image[0] % patch[0] or image[1] % patch[1]:
        raise ModelError(f"`image_size`: expected multiples of the patch size {patch}. Found {image}.")


def check_sources(config: object, weights: object) -> None:
    """Refuse fields of a configuration that are no mapping, and weights that are no path."""
    if config is not None and not isinstance(config, Mapping):
        raise ModelError(f"`config`: expected a mapping of fields to values, or None. Found {config!r}.")
    if weights is not None and not isinstance(weights, (str, Path)):
        raise ModelError(f"`weights`: expected the path of a file or folder, or None. Found {weights!r}.")
