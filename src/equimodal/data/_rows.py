"""Rows of an array on disk."""

from __future__ import annotations

import mmap
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from equimodal.errors import DataError

Array = npt.NDArray[Any]
_LARGE = 1 << 14  # bytes of a row above which it is read instead of mapped


def rows_of(array: Array, rows: npt.NDArray[np.int64] | slice) -> Array:
    """``array[rows]``, in memory.

    Large rows of a memory-mapped array are read from its file: every page of a mapping that was looked at counts as
    memory of the process until the system takes it back, so that an epoch would look like a leak as large as the data;
    and a file that was cut off is an error instead of the end of the process.
    """
    size = array[:1].nbytes
    whole = isinstance(array, np.memmap) and isinstance(array.base, mmap.mmap) and array.flags.c_contiguous
    if isinstance(rows, slice) or not whole or size < _LARGE or not isinstance(array, np.memmap):
        return np.asarray(array[rows])
    chosen: Array = np.empty((len(rows), *array.shape[1:]), array.dtype)
    path = Path(str(array.filename))
    with path.open("rb", buffering=0) as file:
        for place, row in zip(chosen, rows, strict=True):
            file.seek(array.offset + int(row) * size)
            left = memoryview(place.reshape(-1).view(np.uint8))
            while left:
                count = file.readinto(left)
                if not count:
                    raise DataError(
                        f"{path}: expected {len(array)} samples. Found the end of the file in sample {row}."
                    )
                left = left[count:]
    return chosen
