"""Arrays while they are being made: rows written in any order, by any process, into files that grow."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from equimodal._utils.files import replace_file
from equimodal.data.prepare._interface import ArraySpec, dtype_of

Array = npt.NDArray[Any]
HEADER = 256  # bytes kept free for the .npy header, so that a file with its rows in order needs no copy
_CHUNK = 1 << 24


class Store:
    """The unfinished arrays in a folder; a row is written at its place without touching others.

    Writing goes past the memory map, so the memory of a process stays flat and nothing is lost when it is killed.
    """

    def __init__(self, folder: Path, specs: Mapping[str, ArraySpec]) -> None:
        self.folder = folder
        self.specs = dict(specs)
        self._open: dict[str, io.FileIO] = {}

    def path(self, name: str) -> Path:
        """File of the unfinished array ``name``."""
        return self.folder / f"{name}.rows"

    def row_bytes(self, name: str) -> int:
        """Bytes per sample."""
        spec = self.specs[name]
        return dtype_of(spec).itemsize * int(np.prod(spec.shape, dtype=np.int64))

    def bytes_per_sample(self) -> int:
        """Bytes per sample over all arrays."""
        return sum(map(self.row_bytes, self.specs))

    def write(self, name: str, row: int, values: Array) -> None:
        """Write ``values`` (k, *shape) to rows ``row`` to ``row + k - 1``."""
        data = np.ascontiguousarray(values, dtype_of(self.specs[name])).reshape(-1).view(np.uint8).data
        file = self._file(name)
        file.seek(HEADER + row * self.row_bytes(name))
        while data:  # an unbuffered file may take a part only
            data = data[file.write(data) :]

    def sync(self) -> None:
        """Wait until what was written, by whichever process, is on the disk."""
        for name in self.specs:
            os.fsync(self._file(name).fileno())

    def close(self) -> None:
        """Close the files."""
        for file in self._open.values():
            file.close()
        self._open = {}

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_open": {}}

    def _file(self, name: str) -> io.FileIO:
        if name not in self._open:
            path = self.path(name)
            path.touch()
            self._open[name] = path.open("r+b", buffering=0)
        return self._open[name]

    def finish(self, name: str, rows: Sequence[tuple[int, int]], target: Path) -> None:
        """Turn the array into ``target`` (.npy) with the samples of ``rows`` (start, count), in that order.

        Without gaps the file is only moved; otherwise it is copied, and removed afterwards. Whichever moment this is
        stopped at, either ``target`` is complete or the rows are still there.
        """
        if target.exists():
            self.path(name).unlink(missing_ok=True)
            return
        total = sum(count for _, count in rows)
        header = _header(self.specs[name], total)
        if all(start == before for (start, _), before in zip(rows, _starts(rows), strict=True)):
            whole = self._file(name)
            whole.truncate(HEADER + total * self.row_bytes(name))
            whole.seek(0)
            whole.write(header)
            os.fsync(whole.fileno())
            self._open.pop(name).close()
            self.path(name).replace(target)
            return

        def write(file: BinaryIO) -> None:
            file.write(header)
            for piece in self._pieces(name, rows):
                file.write(piece)

        replace_file(target, write)
        self._open.pop(name).close()
        self.path(name).unlink()

    def _pieces(self, name: str, rows: Sequence[tuple[int, int]]) -> Iterator[bytes]:
        size, source = self.row_bytes(name), self._file(name)
        for start, count in rows:
            source.seek(HEADER + start * size)
            left = count * size
            while left:
                piece = source.read(min(left, _CHUNK))
                if not piece:
                    raise OSError(f"{self.path(name)} ends before row {start + count}")
                yield piece
                left -= len(piece)


def _starts(rows: Sequence[tuple[int, int]]) -> Iterator[int]:
    position = 0
    for _, count in rows:
        yield position
        position += count


def _header(spec: ArraySpec, rows: int) -> bytes:
    """A .npy header (format 1.0), padded to ``HEADER`` bytes."""
    fields = {"descr": dtype_of(spec).str, "fortran_order": False, "shape": (rows, *map(int, spec.shape))}
    text = repr(fields).encode("latin1")
    text += b" " * (HEADER - 10 - len(text) - 1) + b"\n"
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text
