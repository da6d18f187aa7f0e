"""Files of NumPy arrays from outside: what they declare is compared with what is there, before memory is taken."""

from __future__ import annotations

import io
import math
import os
import zipfile
from pathlib import Path
from typing import IO, Any

import numpy as np

from equimodal._utils.outside import open_regular, size_text
from equimodal.errors import DataError

_ENTRIES = 100_000  # of an archive
_HEADER = 1 << 16  # bytes before the numbers of an array, at most
_READ = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}


def memory_limit() -> int:
    """Bytes that one array may take: half of this machine's memory; 8 GiB where the system does not say."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2
    except (AttributeError, ValueError, OSError):
        return 8 << 30


def check_npy(path: Path, what: str = "", *, inside: Path | None = None) -> None:
    """Refuse a .npy file that declares more than it holds, or that is no regular file.

    What is no .npy file at all passes: NumPy says so.

    Args:
        path: of the file.
        what: it is, for the message; default its path.
        inside: the folder that it belongs to.

    Raises:
        DataError: it is; the message names both sizes.
    """
    with open_regular(path, inside=inside) as file:
        _check_header(file, os.fstat(file.fileno()).st_size, what or f"`{path}`")


def npy_of(content: bytes, what: str) -> Any:
    """The array of a .npy file whose content is given; nothing in it is executed.

    Raises:
        DataError: no such content, truncated, corrupt, or pickled objects.
    """
    _check_header(io.BytesIO(content), len(content), what)
    try:
        return np.load(io.BytesIO(content), allow_pickle=False)
    except Exception as error:  # NumPy raises whatever a hostile header makes it raise
        raise DataError(f"{what}: expected a plain array of NumPy. Found something else ({error}).") from error


def check_npz(path: Path, name: str | None = None, *, every: bool = False, inside: Path | None = None) -> None:
    """Refuse an .npz file that declares more than it holds, more than fits into memory, or what NumPy does not write.

    What is no archive at all passes: NumPy says so.

    Args:
        path: of the file.
        name: of the array that is about to be read; default: the archive alone is looked at.
        every: all arrays are about to be read.
        inside: the folder that it belongs to.

    Raises:
        DataError: encrypted or compressed in an unusual way, a name twice, too many arrays, or too large.
    """
    with open_regular(path, inside=inside) as file:
        try:
            archive = zipfile.ZipFile(file)
        except (zipfile.BadZipFile, ValueError, OSError, NotImplementedError, UnicodeDecodeError):
            return
        with archive:
            _check_archive(archive, path, name, every)


def _check_archive(archive: zipfile.ZipFile, path: Path, asked: str | None, every: bool) -> None:
    entries = archive.infolist()
    if len(entries) > _ENTRIES or len({e.filename for e in entries}) < len(entries):
        raise DataError(
            f"`{path}`: expected at most {_ENTRIES} arrays, each name once. Found {len(entries)}, of which "
            f"{len({e.filename for e in entries})} differ."
        )
    for entry in entries:
        if entry.flag_bits & 1 or entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            how = "an encrypted one" if entry.flag_bits & 1 else "another compression"
            raise DataError(f"`{path}`: array `{entry.filename}`: expected a plain or deflated entry. Found {how}.")
        name = entry.filename.removesuffix(".npy")
        if not every and asked not in (name, entry.filename):
            continue
        if entry.file_size > memory_limit():
            raise DataError(
                f"`{path}`: array `{name}`: expected at most {size_text(memory_limit())}, half of the memory. Found "
                f"{size_text(entry.file_size)}. Unpack it: equimodal data unpack, or save a folder of .npy files."
            )
        try:
            with archive.open(entry) as content:
                _check_header(content, entry.file_size, f"`{path}`: array `{name}`")
        except (zipfile.BadZipFile, OSError, EOFError, NotImplementedError) as error:
            if isinstance(error, DataError):
                raise
            return  # NumPy meets it again, and its reader names it


def _check_header(file: IO[bytes], size: int, what: str) -> None:
    try:
        version = np.lib.format.read_magic(file)
        if version not in _READ:
            return
        shape, _, kind = _READ[version](file, max_header_size=_HEADER)
    except Exception:  # noqa: BLE001 (whatever is wrong with it, NumPy says it again to the reader)
        return
    declared = _size(shape, kind)
    if not kind.hasobject and declared > size - file.tell():
        raise DataError(
            f"{what}: expected {size_text(declared)}, as its header says (shape {_short(shape)}). Found "
            f"{size_text(max(0, size - file.tell()))}: truncated or corrupt. Copy or download it again."
        )


def _size(shape: tuple[Any, ...], kind: np.dtype[Any]) -> int:
    return math.prod(int(n) for n in shape) * kind.itemsize


def _short(shape: tuple[int, ...]) -> str:
    return str(shape) if len(shape) <= 8 else f"of {len(shape)} axes"
