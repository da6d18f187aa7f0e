"""Rows of a collection, column by column; sequences of mappings, and collections that follow each other."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from equimodal._utils.files import content_hash
from equimodal.data._columns import is_missing
from equimodal.data.records._arrow import (
    AbsentError,
    GapError,
    MixedError,
    Names,
    UnevenError,
    in_parts,
    is_empty_media,
    single_contents,
)
from equimodal.errors import DataError, unknown_name

Array = npt.NDArray[Any]
Rows = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]


_SINGLE = (str, int, float, np.generic)


class Reader(ABC):
    """Columns of a collection of rows, of which only those that are asked for are read.

    Args:
        where: file or argument that it comes from, for messages.
        columns: names of the columns.
        count: number of rows.
        starts: (B + 1,) where the blocks of rows begin that are read at once; ``None``: each row is read alone.
    """

    def __init__(self, where: str, columns: Sequence[str], count: int, starts: Rows | None = None) -> None:
        self.where, self.columns, self.count, self.starts = where, tuple(columns), count, starts

    known_from = ""
    """What the names of the columns are taken of, where it is not the whole collection; for messages."""

    def __len__(self) -> int:
        return self.count

    def check(self, column: str, argument: str) -> None:
        """Refuse a column that there is not.

        Raises:
            UnknownNameError: no such column.
            DataError: several columns of that name.
        """
        if column not in self.columns:
            raise unknown_name(f"column of {self.where}{self.known_from} in `{argument}`:", column, self.columns)
        if self.columns.count(column) > 1:
            raise DataError(
                f"`{argument}`: expected one column {column!r} of {self.where}. Found {self.columns.count(column)} of "
                "that name. Rename them."
            )

    @abstractmethod
    def present(self, column: str) -> Mask:
        """(N,) booleans, ``True`` where a row has something in the column; contents are not decoded."""

    def values(self, column: str, argument: str) -> tuple[Names, Array]:
        """A column of one value per row, (N,) or (N, D); of texts and classes the names, and the number of each.

        Args:
            column: name of the column.
            argument: that it is wanted for.

        Raises:
            DataError: a row has no value, or values are of several kinds; names the row.
        """
        start = f"{self.where}: column {column!r}, row"
        try:
            return self._values(column)
        except AbsentError as error:
            raise DataError(
                f"{start} {error.rows[0]}: expected a value for the `{argument}`. Found none in {len(error.rows)} "
                "row(s). Leave these rows out, or give them a value."
            ) from error
        except UnevenError as error:
            place, found = error.place, f"{error.found} numbers beside {error.expected}"
        except GapError as error:
            place, found = error.place, "an empty place in a list"
        except MixedError as error:
            place, found = error.place, error.found
        raise DataError(
            f"{start} {place}: expected values of one kind for the `{argument}`, names or numbers. Found {found}. "
            "Make them alike."
        )

    @abstractmethod
    def _values(self, column: str) -> tuple[Names, Array]:
        """What :meth:`values` gives.

        Raises:
            AbsentError: rows have no value.
            MixedError, UnevenError, GapError: values are of several kinds.
        """

    @abstractmethod
    def take(self, column: str, rows: Rows) -> Any:
        """Contents of present ``rows``: a list, or an array of Arrow."""

    def block(self, column: str, number: int) -> Any:
        """Contents of all rows of a block, an array of Arrow."""
        raise NotImplementedError

    def block_bytes(self, columns: Sequence[str], number: int | None = None) -> int:
        """Bytes of a block in these columns as they are stored; default: of the largest."""
        return 0

    def stamp(self) -> str | None:
        """Different if the collection may have changed; ``None`` where this is not known without reading it."""
        return None

    def digest(self, columns: Sequence[str]) -> str | None:
        """Equal for equal contents of the columns, where it can be had without decoding them."""
        return None


def stamp_of(path: Path) -> str:
    """Path, size and time of a file."""
    found = path.stat()
    return f"{path.resolve()}|{found.st_size}|{found.st_mtime_ns}"


class FileReader(Reader):
    """Rows of one file, which is known by its place, size and time, and by its content."""

    _path: Path
    _known: tuple[int, int] | None = None

    def _refuse_change(self) -> None:
        """Refuse a file that is another one than when it was first read: rows are no longer where they were.

        Raises:
            DataError: it is, or it is gone.
        """
        try:
            found = self._path.stat()
        except OSError as error:
            raise DataError(
                f"{self._path}: expected a file that stays while it is read. Found none ({error.strerror}). Check the "
                "path."
            ) from error
        now = (found.st_size, found.st_mtime_ns)
        if self._known not in (None, now):
            raise DataError(
                f"{self._path}: expected a file that stays as it is while it is read. Found one that was written "
                "since. Begin anew, and write new files beside the old ones."
            )
        self._known = now

    def stamp(self) -> str | None:
        return stamp_of(self._path)

    @cached_property
    def _hash(self) -> str:
        return content_hash(self._path)

    def digest(self, columns: Sequence[str]) -> str | None:
        return self._hash


class SequenceReader(Reader):
    """Rows of a collection that gives the mapping of a row by its number: a list, a map-style dataset of PyTorch."""

    known_from = ", those of its row 0,"

    def __init__(self, rows: Any, where: str = "`rows`") -> None:
        super().__init__(where, (), len(rows))
        self._rows = rows
        first = self._row(0)
        self.columns = tuple(first)
        self._single = [c for c in self.columns if isinstance(first[c], _SINGLE) or getattr(first[c], "ndim", 1) == 0]

    def _row(self, number: int) -> Mapping[str, Any]:
        try:
            row = self._rows[number]
        except Exception as error:
            raise self._refusal(number, f"nothing ({type(error).__name__}: {error})") from error
        if not isinstance(row, Mapping):
            raise self._refusal(number, type(row).__name__)
        other = next((name for name in row if not isinstance(name, str)), None)
        if other is not None:
            raise self._refusal(number, f"the name {other!r}, which is no text")
        return row

    def _refusal(self, number: int, found: str) -> DataError:
        kind = type(self._rows)
        step = {"DataFrame": "rows.to_dict('records')", "Table": "rows.to_pylist()"}.get(kind.__name__)
        return DataError(
            f"{self.where}: expected rows that map names to contents. Found {found} in row {number} of "
            f"{kind.__name__!r}. {'Make them' if step is None else f'Give {step}, which is'} a list of mappings."
        )

    @cached_property
    def _seen(self) -> tuple[dict[str, Mask], dict[str, list[Any]]]:
        """Which rows have something in each column, and the single values; every row is asked for once."""
        there = {c: np.zeros(self.count, bool) for c in self.columns}
        values: dict[str, list[Any]] = {c: [] for c in self._single}
        for number in range(self.count):
            row = self._row(number)
            for column, mask in there.items():
                mask[number] = not (is_missing(row.get(column)) or is_empty_media(row.get(column)))
            for column, own in values.items():
                own.append(row.get(column))
        return there, values

    def _contents(self, column: str, rows: Any) -> list[Any]:
        return [self._row(int(row)).get(column) for row in rows]

    def present(self, column: str) -> Mask:
        return self._seen[0][column]

    def _values(self, column: str) -> tuple[Names, Array]:
        gaps = np.flatnonzero(~self.present(column))
        if len(gaps):
            raise AbsentError(gaps)
        found = self._seen[1][column] if column in self._single else self._contents(column, range(self.count))
        return single_contents([v.item() if getattr(v, "ndim", 1) == 0 else v for v in found])

    def take(self, column: str, rows: Rows) -> list[Any]:
        return self._contents(column, rows)


class JoinedReader(Reader):
    """Several collections, one behind the other."""

    def __init__(self, readers: Sequence[Reader]) -> None:
        self._readers = list(readers)
        self._bounds = np.cumsum([0, *(len(r) for r in readers)])
        common = [c for c in readers[0].columns if all(c in r.columns for r in readers)]
        starts = None
        if all(r.starts is not None for r in readers):
            own = [r.starts[:-1] + b for r, b in zip(readers, self._bounds, strict=False) if r.starts is not None]
            starts = np.concatenate([*own, self._bounds[-1:]])
        super().__init__(" and ".join(r.where for r in readers), common, int(self._bounds[-1]), starts)

    def present(self, column: str) -> Mask:
        return np.concatenate([r.present(column) for r in self._readers])

    def values(self, column: str, argument: str) -> tuple[Names, Array]:
        found = [r.values(column, argument) for r in self._readers]
        listed = [names for names, _ in found if names is not None]
        if 0 < len(listed) < len(found):
            raise DataError(f"{self.where}: column {column!r}: expected names in all, or numbers in all. Found both.")
        if len(set(listed)) <= 1:
            return found[0][0], np.concatenate([values for _, values in found])
        every = sorted({name for names in listed for name in names})
        place = {name: number for number, name in enumerate(every)}
        own = [np.array([place[n] for n in names or ()])[values] for names, values in found]
        return tuple(every), np.concatenate(own)

    def _values(self, column: str) -> tuple[Names, Array]:
        return self.values(column, "target")

    def take(self, column: str, rows: Rows) -> Any:
        bounds = self._bounds
        return in_parts(bounds, rows, lambda number, own: self._readers[number].take(column, own - bounds[number]))

    def _owner(self, number: int) -> tuple[Reader, int]:
        """Whose block one is, and which of its own."""
        for reader in self._readers:
            if reader.starts is not None:
                count = len(reader.starts) - 1
                if number < count:
                    return reader, number
                number -= count
        raise IndexError(number)

    def block(self, column: str, number: int) -> Any:
        reader, own = self._owner(number)
        return reader.block(column, own)

    def block_bytes(self, columns: Sequence[str], number: int | None = None) -> int:
        if number is None:
            return max(r.block_bytes(columns) for r in self._readers)
        reader, own = self._owner(number)
        return reader.block_bytes(columns, own)

    def stamp(self) -> str | None:
        own = [r.stamp() for r in self._readers]
        return None if None in own else repr(own)

    def digest(self, columns: Sequence[str]) -> str | None:
        own = [r.digest(columns) for r in self._readers]
        return None if None in own else hashlib.sha256(repr(own).encode()).hexdigest()
