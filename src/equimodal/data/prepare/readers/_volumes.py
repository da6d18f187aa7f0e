"""Volumes on disk (NIfTI), standardised and cut."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from equimodal.data.prepare import UnreadableError

Array = npt.NDArray[Any]


def read_volume(path: Path) -> Array:
    """The numbers (X, Y, Z) of a NIfTI file, scaled as its header says, in the order in which they are stored.

    Raises:
        UnreadableError: truncated, corrupt, not three-dimensional, or not finite.
    """
    import nibabel
    from nibabel.filebasedimages import ImageFileError

    try:
        image: Any = nibabel.load(path)
        values = np.asarray(image.dataobj)
    except (ImageFileError, OSError, EOFError, ValueError, KeyError, zlib.error) as error:
        raise UnreadableError(f"is no readable NIfTI file ({' '.join(str(error).split())[:120]})") from error
    if values.ndim != 3 or 0 in values.shape or values.dtype.kind not in "biuf":
        raise UnreadableError(f"holds {values.dtype} {values.shape}; a volume of numbers is expected")
    if values.dtype.kind == "f" and not np.isfinite(values).all():
        raise UnreadableError("holds NaN or infinity")
    return values


def standardised(volume: Array) -> Array:
    """Mean 0 and deviation 1 over the voxels above 0, as float32; the others are 0.

    Raises:
        UnreadableError: no voxel above 0, or all of them equal.
    """
    inside = volume > 0
    own = volume[inside].astype(np.float64)
    if not len(own) or own.std() == 0:
        raise UnreadableError("is empty or constant")
    found = np.zeros(volume.shape, np.float32)
    found[inside] = (own - own.mean()) / own.std()
    return found


def cut(volume: Array, middle: Sequence[int], shape: Sequence[int]) -> Array:
    """The part of ``shape`` that begins ``shape // 2`` before ``middle``; zeros where it goes beyond the volume."""
    out = np.zeros(tuple(shape), volume.dtype)
    source, target = [], []
    for centre, length, there in zip(middle, shape, volume.shape, strict=True):
        start = centre - length // 2
        begin, end = max(start, 0), min(start + length, there)
        source.append(slice(begin, max(end, begin)))
        target.append(slice(begin - start, max(end, begin) - start))
    out[tuple(target)] = volume[tuple(source)]
    return out
