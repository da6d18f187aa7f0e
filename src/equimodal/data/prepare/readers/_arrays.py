"""Plain NumPy arrays on disk."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from equimodal._utils.foreign import kind_of_file
from equimodal.data.prepare import UnreadableError
from equimodal.data.prepare.readers._gate import check_file, instead

Array = npt.NDArray[Any]


def read_array(path: Path) -> Array:
    """The array in a .npy file; nothing in it is executed.

    Raises:
        UnreadableError: no such file, truncated, corrupt, pickled objects, or something else.
    """
    check_file(path)
    try:
        found = np.load(path, allow_pickle=False)
    except (ValueError, EOFError, OSError, zipfile.BadZipFile) as error:
        pickled = "Object arrays" in str(error)
        what = "pickled objects, which can run code" if pickled else instead(path, "")
        raise UnreadableError(f"no plain array but {what}, or truncated") from error
    if not isinstance(found, np.ndarray):
        raise UnreadableError(f"no single array but {kind_of_file(path)}")
    return found
