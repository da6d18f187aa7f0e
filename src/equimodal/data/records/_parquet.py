"""Parquet files, of which row groups and columns are read that a batch needs."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from equimodal.data.records._arrow import (
    AbsentError,
    Names,
    chosen,
    filled,
    in_parts,
    library,
    one_array,
    single_values,
)
from equimodal.data.records._reader import Array, FileReader, Mask, Rows
from equimodal.errors import DataError

_PIECE = 1 << 16  # rows that are looked at together where gaps are looked for
_LAST = threading.local()  # the reader whose file is open, and the file


class ParquetReader(FileReader):
    """One file; a block is a row group."""

    def __init__(self, path: Path) -> None:
        library("Reading Parquet")
        self._path, self._metadata = path, None
        with self._file() as file:
            self._metadata, names = file.metadata, file.schema_arrow.names
        sizes = [self._metadata.row_group(g).num_rows for g in range(self._metadata.num_row_groups)]
        self._groups = [g for g, size in enumerate(sizes) if size]
        starts = np.cumsum([0, *(sizes[g] for g in self._groups)])
        super().__init__(str(path), names, int(starts[-1]), starts)

    @contextlib.contextmanager
    def _file(self) -> Iterator[Any]:
        """The open file; it stays open until another is read: there may be many of them, and worker processes."""
        from pyarrow import ArrowException, OSFile, parquet

        try:
            reader, file = getattr(_LAST, "read", (None, None))
            if reader is not self:
                if not self._path.is_file():
                    raise DataError(f"{self._path}: expected a Parquet file. Found no such file. Check the path.")
                # what a path is opened by looks for file systems each time
                file = parquet.ParquetFile(OSFile(str(self._path)), metadata=self._metadata)
                _LAST.read = (self, file)
            yield file
        except (ArrowException, OSError) as error:
            raise DataError(
                f"{self._path}: expected a Parquet file. Found one that cannot be read ({error})."
            ) from error

    def block(self, column: str, number: int) -> Any:
        with self._file() as file:
            return one_array(file.read_row_group(self._groups[number], [column], use_threads=False).column(column))

    def take(self, column: str, rows: Rows) -> Any:
        starts = self._starts
        return in_parts(starts, rows, lambda number, own: chosen(self.block(column, number), own - starts[number]))

    @property
    def _starts(self) -> Rows:
        return np.zeros(1, np.int64) if self.starts is None else self.starts

    def present(self, column: str) -> Mask:
        there = np.ones(self.count, bool)
        for number, group in enumerate(self._groups):
            if self._complete(column, group):
                continue
            start = self._starts[number]
            with self._file() as file:
                for piece in file.iter_batches(_PIECE, row_groups=[group], columns=[column], use_threads=False):
                    there[start : start + len(piece)] = filled(piece.column(column))
                    start += len(piece)
        return there

    def _complete(self, column: str, group: int) -> bool:
        """Whether the statistics of the file say that nothing is missing."""
        own = self._chunks(column, group)
        stored = [chunk.statistics for chunk in own]
        return bool(own) and all(s is not None and s.has_null_count and s.null_count == 0 for s in stored)

    def _chunks(self, column: str, group: int) -> list[Any]:
        metadata: Any = self._metadata
        metadata = metadata.row_group(group)
        chunks = [metadata.column(i) for i in range(metadata.num_columns)]
        return [c for c in chunks if c.path_in_schema == column or c.path_in_schema.startswith(f"{column}.")]

    def _values(self, column: str) -> tuple[Names, Array]:
        with self._file() as file:
            array = one_array(file.read([column], use_threads=False).column(column))
        if array.null_count:
            raise AbsentError(np.flatnonzero(~array.is_valid().to_numpy(zero_copy_only=False)))
        return single_values(array)

    def block_bytes(self, columns: Sequence[str]) -> int:
        sizes = [
            sum(c.total_uncompressed_size for column in columns for c in self._chunks(column, group))
            for group in self._groups
        ]
        return int(max(sizes))
