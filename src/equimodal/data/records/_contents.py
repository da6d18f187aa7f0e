"""Samples of one modality, decoded from the rows of a collection when they are asked for."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from equimodal.data._precision import is_wide
from equimodal.data._row_source import RowArray
from equimodal.data.records._arrow import (
    GapError,
    UnevenError,
    chosen,
    dense,
    element_type,
    filled,
    is_empty_media,
    npy_contents,
    one_by_one,
    padded,
)
from equimodal.data.records._block_cache import Block, BlockCache
from equimodal.data.records._field import DecodeError, Field
from equimodal.data.records._reader import Array, Mask, Reader, Rows
from equimodal.errors import DataError

_PIECE = 1 << 12  # samples that are decoded together for a digest


class Contents(RowArray):
    """Samples of one modality.

    Args:
        reader: of the collection.
        column: that holds the contents.
        field: says how a content becomes an array.
        there: (N,) which rows have something.
        first: a present row, of which the shape of all is taken.
        root: where relative paths begin.
        statistics: see :class:`RowArray`.
        modality: whose samples they are, for messages.
    """

    def __init__(
        self, reader: Reader, column: str, field: Field, there: Mask, first: int, root: Path | None, statistics: int,
        modality: str,
    ) -> None:  # fmt: skip
        self._reader, self._column, self._field, self._there, self._root = reader, column, field, there, root
        self._modality = modality
        self._shape: tuple[int, ...] | None = None
        self._type: np.dtype[Any] = np.dtype(np.float32)
        content = reader.take(column, np.array([first]))
        own = self._converted(content, np.array([first]))
        self._shape = own[0].shape[1:]
        wide = np.dtype(np.float64) if is_wide(own[0]) else np.dtype(np.float32)
        self._type = np.dtype(np.int64) if field.kind == "tokens" else wide
        kind = getattr(content, "type", None)
        element = element_type(kind) if field.decode is None else None
        self.plain = element is not None
        """The contents are numbers already, so that they may be kept in memory."""
        self.element = element or own[0].dtype
        numbers = kind is not None and self._of_arrays(content, np.array([first])) is not None
        steps = self._shape[0] if numbers and field.length is not None else 0
        self.row_bytes = int(np.prod(self._shape)) * self.element.itemsize + steps if numbers else 0
        """Of a sample that is kept as numbers with its block; 0 where contents are kept as they are."""
        super().__init__((len(reader), *self._shape), self._type, field.length is not None, statistics)
        self._blocks = None if reader.starts is None else BlockCache(reader.starts, self._read_block, self._type)

    def keep(self, count: int) -> None:
        """Keep so many blocks, where the collection is read in blocks; by default one."""
        if self._blocks is not None:
            self._blocks.resize(count)

    def take(self, rows: Rows) -> tuple[Array, Mask | None]:
        blocks = self._blocks
        if blocks is None:
            values, real = self._converted(self._reader.take(self._column, rows), rows)
            return np.require(values, self._type, "W"), real
        out = np.empty((0, *self.shape[1:]), self._type)
        mask = np.zeros((0, self.shape[1]), bool) if self.padded else None
        for number, (which, places, numeric) in enumerate(blocks.gathers(rows)):
            own = rows if which is None else rows[which]
            if numeric:
                self._refuse_empty(blocks.filled(places), own)
                values, real = blocks.numbers(places)
            else:
                values, real = self._of_objects(blocks.contents(places), own)
            if which is None:
                return values.astype(self._type, copy=False), real
            if not number:
                out = np.empty((len(rows), *self.shape[1:]), self._type)
                mask = None if mask is None else np.zeros((len(rows), self.shape[1]), bool)
            out[which] = values
            if mask is not None and real is not None:
                mask[which] = real
        return out, mask

    def pieces(self) -> Iterator[tuple[Array, Rows]]:
        """All samples in order, zeros where they are absent, in the type of the contents; and their lengths."""
        starts = self._reader.starts
        bounds = np.arange(0, len(self) + _PIECE, _PIECE).clip(max=len(self)) if starts is None else starts
        for number, (begin, end) in enumerate(pairwise(bounds.tolist())):
            there = np.flatnonzero(self._there[begin:end])
            values = np.zeros((end - begin, *self.shape[1:]), self.element)
            lengths = np.zeros(end - begin, np.int64)
            if len(there):
                rows = begin + there
                if starts is None:
                    own, real = self._converted(self._reader.take(self._column, rows), rows)
                else:
                    own, real = self._of_block(self._read_block(number), there, rows)
                values[there] = own
                lengths[there] = 0 if real is None else real.sum(1)
            yield values, lengths

    @property
    def where(self) -> str:
        """Collection and column, for messages."""
        return f"{self._reader.where}: column {self._column!r}"

    def text(self) -> str:
        """Equal for contents of equal collections that are decoded in the same way."""
        return f"{self._column}|{self._field.text()}|{hashlib.sha256(self._there.tobytes()).hexdigest()}"

    def digest(self) -> str:
        stored = self._reader.digest([self._column])
        known = hashlib.sha256(f"{stored}|{self._column}|{self._field.text()}".encode())
        if stored is None:
            rows = np.flatnonzero(self._there)
            for start in range(0, len(rows), _PIECE):
                values, real = self.take(rows[start : start + _PIECE])
                known.update(np.ascontiguousarray(values).tobytes())
                known.update(b"" if real is None else real.tobytes())
        return known.hexdigest()

    def _read_block(self, number: int) -> Block:
        """A block, with samples where its contents are numbers."""
        starts = np.zeros(1, np.int64) if self._reader.starts is None else self._reader.starts
        array = self._reader.block(self._column, number)
        there = filled(array)
        own = array if there.all() else chosen(array, np.flatnonzero(there))
        found = self._of_arrays(own, int(starts[number]) + np.flatnonzero(there))
        if found is not None:
            return Block(there, *found)
        return Block(there, content=one_by_one(array))

    def _of_block(self, block: Block, places: Rows, rows: Rows) -> tuple[Array, Mask | None]:
        """Samples at ``places`` of a block, which are ``rows`` of the collection."""
        if block.content is not None:
            return self._of_objects([block.content(place) for place in places.tolist()], rows)
        if block.values is None:
            raise IndexError("a block without contents")
        self._refuse_empty(block.filled[places], rows)
        own = (np.cumsum(block.filled) - 1)[places]
        return block.values[own], None if block.real is None else block.real[own]

    def _refuse_empty(self, there: Mask, rows: Rows) -> None:
        if not there.all():
            raise self._lacking(int(rows[np.flatnonzero(~there)[0]]))

    def _converted(self, contents: Any, rows: Rows) -> tuple[Array, Mask | None]:
        """Contents of ``rows`` as samples of one shape."""
        if not hasattr(contents, "type"):
            return self._of_objects(contents, rows)
        found = self._of_arrays(contents, rows)
        if found is not None:
            return found
        return self._of_objects(list(map(one_by_one(contents), range(len(contents)))), rows)

    def _of_arrays(self, array: Any, rows: Rows) -> tuple[Array, Mask | None] | None:
        """Samples of an array of Arrow that holds numbers already, in lists or .npy files; otherwise ``None``."""
        if self._field.decode is not None:
            return None
        if element_type(array.type) is not None:
            return self._of_numbers(array, rows)
        values = npy_contents(array) if self._field.length is None else None
        fits = values is not None and values.ndim > 1 and self._shape in (None, values.shape[1:])
        return (values, None) if values is not None and fits else None

    def _of_numbers(self, array: Any, rows: Rows) -> tuple[Array, Mask | None]:
        length = self._field.length
        try:
            if length is not None:
                return padded(array, length, None if self._shape is None else self._shape[1:])
            values = dense(
                array, self._shape if hasattr(array.type, "value_type") or hasattr(array, "storage") else None
            )
        except UnevenError as error:
            raise self._refusal(
                int(rows[error.place]), f"{error.expected} entries, as in the first row", f"{error.found}{self._hint()}"
            ) from error
        except GapError as error:
            row = int(rows[error.place])
            if not error.inside:
                raise self._lacking(row) from error
            step = "Fill it, leave out what is not there, or give decode=, which does"
            raise self._refusal(row, "numbers alone", f"an empty place (null) in a list. {step}") from error
        return (values[:, None] if values.ndim == 1 else values), None

    def _of_objects(self, contents: list[Any], rows: Rows) -> tuple[Array, Mask | None]:
        made, length = [], self._field.length
        for row, content in zip(rows.tolist(), contents, strict=True):
            if content is None or is_empty_media(content):
                raise self._lacking(row)
            array = self._array_of(content, row)
            array = array[None] if array.ndim == 0 else array
            if length is not None and len(array) == 0 and self._shape is not None:
                array = np.zeros((0, *self._shape[1:]), array.dtype)  # an empty list does not say of what
            expected = None if self._shape is None else self._shape[1:] if length is not None else self._shape
            found = array.shape[1:] if length is not None else array.shape
            if expected is not None and found != expected:
                raise self._refusal(row, f"shape {expected}, as in the first row", f"{found}{self._hint()}")
            made.append(array)
        if length is None:
            return (np.array(made) if made else np.zeros((0, *(self._shape or ())), self._type)), None
        values = np.zeros((len(made), length, *made[0].shape[1:]), np.result_type(*made))
        real = np.zeros((len(made), length), bool)
        for place, array in enumerate(made):
            count = min(length, len(array))
            values[place, :count], real[place, :count] = array[:count], True
        return values, real

    def _array_of(self, content: Any, row: int) -> Array:
        try:
            return self._field.array_of(content, self._root)
        except DecodeError as error:
            raise self._refusal(
                row,
                f"`decode` of modality {self._modality!r} to make an array of the content",
                f"{error.found}. Correct the function, or put None there if the row has no {self._modality}",
            ) from error.reason
        except (ValueError, OSError) as error:
            raise self._refusal(row, f"content of kind {self._field.kind!r}", str(error)) from error

    def _hint(self) -> str:
        """The next step where contents differ in shape."""
        if self._field.decode is not None:
            return ". Correct `decode`, so that it makes them alike"
        several = self._field.kind in ("sequence", "tokens") and self._field.length is None
        return ". Give its `length`, or decode=" if several else ". Give decode=, which makes them alike"

    def _lacking(self, row: int) -> DataError:
        return self._refusal(row, "a content, since `present` says that there is one", "none. Correct `present`")

    def _refusal(self, row: int, expected: str, found: str) -> DataError:
        return DataError(f"{self.where}, row {row}: expected {expected}. Found {found}.")
