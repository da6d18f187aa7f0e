"""What float32 can hold of an array."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
_ROUNDING = float(np.finfo(np.float32).eps) / 2
_SHARE = 1e-3  # of a deviation; a larger rounding error changes what is learnt
_FAR, _WIDE = 2.0, 10.0  # deviations from 0, and times 1; training that begins near 0 would first learn the unit


def is_wide(array: Array) -> bool:
    """Whether the type of ``array`` holds numbers that float32 rounds: float64, and integers of 32 bits and more."""
    return array.dtype.itemsize > (4 if array.dtype.kind == "f" else 2) and array.dtype.kind in "fiu"


def lost_in_float32(mean: Array, deviation: Array) -> npt.NDArray[np.bool_]:
    """Where numbers of this mean and deviation differ by less than float32 rounds them.

    Example:
        >>> lost_in_float32(np.array([1.7e9, 1.7e9, 5.0]), np.array([30.0, 1e8, 1e-3]))
        array([ True, False, False])
    """
    lost: npt.NDArray[np.bool_] = (_ROUNDING * np.abs(mean) > _SHARE * deviation) & (deviation > 0)
    return lost


def moments(values: Array) -> tuple[Array, Array]:
    """Mean and deviation (D,) of numbers (N, D), in float64; exact far from 0, where only differences are."""
    values = values.astype(np.float64)
    with np.errstate(over="ignore", invalid="ignore"):
        deviation = (values - values[:1]).std(0)
    return values.mean(0), deviation


def far_from_outputs(mean: Array, deviation: Array) -> bool:
    """Whether targets of these moments have another unit than what an untrained model puts out.

    Example:
        >>> far_from_outputs(np.array([0.1]), np.array([1.5])), far_from_outputs(np.array([13.0]), np.array([2.0]))
        (False, True)
    """
    far = (np.abs(mean) > _FAR * deviation) | (deviation > _WIDE) | (deviation < 1 / _WIDE)
    return bool((far & (deviation > 0)).any())
