"""Plain NumPy arrays on disk."""

from __future__ import annotations

import struct
import tokenize
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from equimodal._utils.foreign import kind_of_file
from equimodal.data.prepare import UnreadableError
from equimodal.data.prepare.readers._gate import check_file

Array = npt.NDArray[Any]
_MAGIC = b"\x93NUMPY"
# what NumPy raises on headers that are none, besides errors of the file
_BROKEN = (
    ValueError, EOFError, OSError, SyntaxError, TypeError, KeyError, tokenize.TokenError, MemoryError, OverflowError,
    RecursionError, RuntimeError, struct.error,
)  # fmt: skip


def read_array(path: Path) -> Array:
    """The array in a .npy file; nothing in it is executed.

    Raises:
        UnreadableError: no such file, truncated, corrupt, pickled objects, or something else.
    """
    check_file(path)
    with path.open("rb") as file:
        if file.read(len(_MAGIC)) != _MAGIC:
            raise UnreadableError(f"no single array but {kind_of_file(path)}")
        file.seek(0)
        try:
            found: Array = np.load(file, allow_pickle=False)
        except _BROKEN as error:
            pickled = "Object arrays" in str(error)
            what = (
                "no plain array but pickled objects, which can run code" if pickled else "a truncated or corrupt array"
            )
            raise UnreadableError(what) from error
    return found
