"""Tar files in the form of WebDataset: files of one name with different suffixes are one row."""

from __future__ import annotations

import json
import os
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from equimodal._utils.arrays import npy_of
from equimodal.data.records._arrow import AbsentError, Names, single_contents
from equimodal.data.records._reader import Array, FileReader, Mask, Rows
from equimodal.errors import DataError

_READ: dict[str, Callable[[bytes], Any]] = {
    "txt": lambda content: content.decode(), "text": lambda content: content.decode(),
    "cls": int, "cls2": int, "index": int, "id": lambda content: content.decode(), "json": json.loads,
    "npy": lambda content: npy_of(content, "a file .npy"),
}  # fmt: skip
"""How a file is read, by the last part of its suffix; others are bytes."""


class TarReader(FileReader):
    """One file; of the contents only those are read that a batch needs, each at its place."""

    def __init__(self, path: Path) -> None:
        self._path = path
        rows: dict[str, int] = {}
        places: dict[str, dict[int, tuple[int, int]]] = {}
        try:
            with tarfile.open(path, "r:") as file:
                self._refuse_change()
                for member in file:
                    if member.isfile():
                        folder, _, name = member.name.rpartition("/")
                        base, _, suffix = name.partition(".")
                        row = rows.setdefault(f"{folder}/{base}", len(rows))
                        own = places.setdefault(suffix.lower(), {}) if suffix else {}
                        if row in own:
                            raise DataError(
                                f"{path}: expected one file of each name. Found {member.name} twice. Write the file "
                                "anew, with a name of its own for each row."
                            )
                        own[row] = (member.offset_data, member.size)
                    file.members = []  # type: ignore[attr-defined] # which it would keep
                end = file.offset
            with path.open("rb") as raw:  # where it is cut off or damaged, tarfile stops as if it were the end
                raw.seek(end)
                if raw.read(tarfile.BLOCKSIZE).strip(b"\0") or raw.tell() == end:
                    raise tarfile.ReadError(f"no end mark at byte {end}: it is cut off or damaged. Write it anew")
        except FileNotFoundError as error:
            raise DataError(f"{path}: expected a tar file. Found no such file. Check the path.") from error
        except (tarfile.TarError, OSError, EOFError) as error:
            text = f"{path}: expected an uncompressed tar file of WebDataset. Found one that cannot be read ({error})."
            raise DataError(text) from error
        if not rows:
            raise DataError(f"{path}: expected files in a tar file. Found none.")
        super().__init__(str(path), list(places), len(rows))
        self._places = {suffix: np.full((len(rows), 2), -1, np.int64) for suffix in places}
        for suffix, own in places.items():
            self._places[suffix][list(own)] = list(own.values())

    def _contents(self, column: str, rows: Rows) -> list[Any]:
        read = _READ.get(column.rpartition(".")[2], bytes)
        found = []
        self._refuse_change()
        with self._path.open("rb", buffering=0) as file:
            for row, (offset, size) in zip(rows.tolist(), self._places[column][rows].tolist(), strict=True):
                content = os.pread(file.fileno(), size, offset)
                try:
                    if len(content) != size:
                        raise ValueError("the end of the file")
                    found.append(read(content))
                except ValueError as error:
                    reason = str(error).rstrip(".")
                    raise DataError(
                        f"{self._path}: row {row}, file .{column}: expected content of that kind. Found: {reason}. "
                        "Write it anew."
                    ) from error
        return found

    def present(self, column: str) -> Mask:
        there: Mask = self._places[column][:, 0] >= 0
        return there

    def _values(self, column: str) -> tuple[Names, Array]:
        gaps = np.flatnonzero(~self.present(column))
        if len(gaps):
            raise AbsentError(gaps)
        return single_contents(self._contents(column, np.arange(self.count)))

    def take(self, column: str, rows: Rows) -> list[Any]:
        return self._contents(column, rows)
