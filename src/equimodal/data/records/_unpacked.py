"""Contents that are decoded once and for all: in memory, or in files that later runs find again."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from equimodal._utils.files import replace_file
from equimodal.data.records._contents import Contents
from equimodal.data.records._numbers import NumberColumns
from equimodal.data.records._reader import Array
from equimodal.errors import StorageError


def whole(contents: Contents | NumberColumns) -> tuple[Array, Array | None]:
    """(N, ...) all samples, zeros where they are absent, and their lengths (N,) if they differ."""
    out, lengths = np.empty(contents.shape, contents.element), np.zeros(len(contents), np.int64)
    begin = 0
    for values, own in contents.pieces():
        out[begin : begin + len(values)], lengths[begin : begin + len(values)] = values, own
        begin += len(values)
    return out, lengths if contents.padded else None


def unpacked(contents: Contents | NumberColumns, folder: Path, stamp: str) -> tuple[Array, Array | None]:
    """What :func:`whole` gives, in memory-mapped files of ``folder``, which are written if they are not there.

    Args:
        contents: of one modality.
        folder: of such files; it is made.
        stamp: equal for equal collections.

    Raises:
        StorageError: they could not be written.
    """
    named = hashlib.sha256(f"{stamp}|{contents.text()}".encode()).hexdigest()[:32]
    values, lengths = folder / f"{named}.npy", folder / f"{named}-lengths.npy"
    if not (_is_whole(values, contents) and _is_whole(lengths)):
        found: list[Array] = []
        try:
            folder.mkdir(parents=True, exist_ok=True)
            replace_file(values, lambda file: _write(file, contents, found))
            replace_file(lengths, lambda file: np.save(file, np.concatenate(found), allow_pickle=False))
        except OSError as error:
            raise StorageError(
                f"`cache`: {folder}: the samples could not be written ({error}). Free some space, or choose another."
            ) from error
    return _mapped(values), _mapped(lengths) if contents.padded else None


def _write(file: BinaryIO, contents: Contents | NumberColumns, lengths: list[Array]) -> None:
    """The samples piece by piece, as NumPy writes an array; also says how long they are."""
    head: dict[str, Any] = {"descr": np.lib.format.dtype_to_descr(contents.element), "fortran_order": False}
    np.lib.format.write_array_header_1_0(file, {**head, "shape": contents.shape})
    for values, own in contents.pieces():
        file.write(np.ascontiguousarray(values, contents.element).data)
        lengths.append(own)


def _is_whole(path: Path, contents: Contents | NumberColumns | None = None) -> bool:
    """Whether a file is there, and not cut off."""
    try:
        found = _mapped(path)
    except (OSError, ValueError, EOFError):
        return False
    return contents is None or (found.shape == contents.shape and found.dtype == contents.element)


def _mapped(path: Path) -> Array:
    return np.load(path, mmap_mode="r", allow_pickle=False)  # type: ignore[no-any-return]
