"""A table of the user's as one thing: its frame, where it comes from, and errors that name the cell."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from equimodal.errors import DataError, missing_extra

Array = npt.NDArray[Any]
Mask = npt.NDArray[np.bool_]
EMPTY = ("", "NA", "N/A", "NaN", "nan", "null", "NULL", "<NA>", "NaT")
"""Texts that mark an empty cell."""
TEXT_FORMATS = {".csv": ",", ".tsv": "\t"}
FORMATS = (*TEXT_FORMATS, ".parquet")
_WHOLE = re.compile(r"[+-]?\d+\.0+")
_SHOWN = 60


def pandas(purpose: str = "Reading a table") -> Any:
    """The library, imported when it is used.

    Raises:
        MissingExtraError: it is not installed.
    """
    try:
        import pandas as library
    except ImportError as error:
        raise missing_extra("pandas", "table", purpose) from error
    return library


@dataclass(frozen=True)
class Table:
    """Rows with named columns.

    Args:
        frame: of pandas.
        where: file or argument that it comes from, for messages.
        first: number of its first row, for messages; rows count from 0, after the header.
        rows: (N,) numbers of its rows, where they are not one after the other.
    """

    frame: Any
    where: str = "`frame`"
    first: int = 0
    rows: Array | None = None

    def __len__(self) -> int:
        return len(self.frame)

    @property
    def columns(self) -> list[str]:
        """Names of the columns."""
        return list(self.frame.columns)

    def number(self, row: int) -> int:
        """The number by which the user knows a row."""
        return self.first + row if self.rows is None else int(self.rows[row])

    def refusal(self, column: str, row: int, expected: str, found: Any, step: str) -> DataError:
        """The error for one cell: file, column, row, what was expected, the value and the next step."""
        shown = repr(found)
        shown = shown if len(shown) <= _SHOWN else f"{shown[:_SHOWN]}... ({len(str(found))} characters)"
        return DataError(
            f"{self.where}: column {column!r}, row {self.number(row)}: expected {expected}. Found {shown}. {step}"
        )

    def empty(self, column: str) -> Mask:
        """(N,) booleans, ``True`` where the cell holds nothing: missing, blank, or a text such as ``NA``."""
        series = self.frame[column]
        gaps = np.array(series.isna().to_numpy(dtype=bool), dtype=bool)
        if series.dtype.kind in "OTU" or str(series.dtype) in ("str", "string", "category"):
            words = [isinstance(v, str) and v.strip() in EMPTY for v in series.astype(object)]
            gaps |= np.array(words, dtype=bool).reshape(gaps.shape)
        return gaps

    def cells(self, column: str) -> list[Any]:
        """The cells as Python objects."""
        return list(self.frame[column].astype(object))

    def texts(self, column: str) -> list[str]:
        """The cells as texts that do not depend on the column's type; empty ones are ``""``.

        Raises:
            DataError: a cell holds a list or another nesting.
        """
        gaps, found = self.empty(column), []
        for row, value in enumerate(self.cells(column)):
            if gaps[row]:
                found.append("")
                continue
            if isinstance(value, (list, tuple, dict, set, np.ndarray)):
                raise self.refusal(
                    column, row, "one value per cell", value,
                    "Give all cells lists of numbers of one length, spread them over columns, or leave the column out: "
                    f"columns={{{column!r}: 'ignore'}}.",
                )  # fmt: skip
            if isinstance(value, (bytes, bytearray)):
                step = (
                    f"Decode it: frame[{column!r}].str.decode('utf-8'). Contents of files are read by "
                    "equimodal.data.from_rows (docs/data.md)."
                )
                raise self.refusal(column, row, "a text or a number", value, step)
            found.append(plain_text(value))
        self._refuse_surrogates(column, found)
        return found

    def _refuse_surrogates(self, column: str, texts: list[str]) -> None:
        """Refuse halves of characters, which no file in UTF-8 holds."""
        try:
            "".join(texts).encode()
        except UnicodeEncodeError:
            for row, text in enumerate(texts):
                if any("\ud800" <= c <= "\udfff" for c in text):
                    step = "Read the file again as what it is: encoding=..., errors='strict'."
                    raise self.refusal(column, row, "text of whole characters", text, step) from None

    def keys(self, column: str) -> list[str]:
        """Cells as texts that tell them apart; of arrays their bytes."""
        if not self.nested(column):
            return self.texts(column)
        return ["" if v is None else np.asarray(v).tobytes().hex() for v in self.cells(column)]

    def nested(self, column: str) -> bool:
        """Whether the cells hold arrays or lists."""
        if self.frame[column].dtype.kind != "O":
            return False
        return any(isinstance(v, (np.ndarray, list, tuple)) for v in self.frame[column])

    def numbers(self, column: str, step: str = "") -> tuple[Array, Mask]:
        """Values (N,) in float64, NaN where the cell is empty, and which cells are.

        Raises:
            DataError: a cell is no finite number.
        """
        gaps, series = self.empty(column), self.frame[column]
        if series.dtype.kind in "biuf" and isinstance(series.dtype, np.dtype):
            values = series.to_numpy(dtype=np.float64, copy=True)
        else:
            values = np.array(pandas().to_numeric(pandas().Series(self.texts(column), dtype=object), errors="coerce"))
            values = values.astype(np.float64)
        values[gaps] = np.nan
        wrong = ~gaps & ~np.isfinite(values)
        if wrong.any():
            row = int(np.flatnonzero(wrong)[0])
            more = f" {int(wrong.sum())} cells are like it." if wrong.sum() > 1 else ""
            step = step or f"Correct or empty the cell, or say what the column is: columns={{{column!r}: 'category'}}."
            raise self.refusal(column, row, "a finite number", self.cells(column)[row], step + more)
        return values, gaps

    def dates(self, column: str) -> tuple[Any, Mask]:
        """A DatetimeIndex in UTC, and which cells are empty.

        Raises:
            DataError: a cell is no date of ISO 8601.
        """
        library, gaps, series = pandas(), self.empty(column), self.frame[column]
        if series.dtype.kind == "M":
            return library.DatetimeIndex(library.to_datetime(series, utc=True)), gaps
        texts = [None if gap else text for gap, text in zip(gaps, self.texts(column), strict=True)]
        found = library.DatetimeIndex(library.to_datetime(texts, utc=True, format="ISO8601", errors="coerce"))
        wrong = ~gaps & np.array(found.isna(), dtype=bool)
        if wrong.any():
            row = int(np.flatnonzero(wrong)[0])
            step = f"Write dates so, or say what the column is: columns={{{column!r}: 'category'}}."
            raise self.refusal(column, row, "a date as 2024-12-31 or 2024-12-31T23:59", self.cells(column)[row], step)
        return found, gaps

    def take(self, rows: Array) -> Table:
        """Some of the rows; in messages they keep their numbers."""
        own = self.first + np.arange(len(self)) if self.rows is None else self.rows
        return Table(self.frame.iloc[rows], self.where, self.first, own[rows])


def plain_text(value: Any) -> str:
    """A cell as text: 1, 1.0 and "1.0" are all ``"1"``, whatever type the column was read with.

    Example:
        >>> plain_text(1.0), plain_text("1.0"), plain_text(True), plain_text(" red ")
        ('1', '1', 'True', 'red')
    """
    if isinstance(value, (bool, np.bool_)):
        return str(bool(value))
    if isinstance(value, (float, np.floating)) and float(value).is_integer() and abs(float(value)) < 2**53:
        return str(int(value))
    if hasattr(value, "isoformat"):
        return str(value.isoformat())
    text = str(value).strip()
    return text.partition(".")[0] if _WHOLE.fullmatch(text) else text


def as_table(frame: Any, where: str = "`frame`", first: int = 0) -> Table:
    """A pandas or polars frame, or a mapping from names to columns, as a :class:`Table`.

    Raises:
        DataError: something else, names of columns that are no different texts, or no rows.
        MissingExtraError: pandas is not installed.
    """
    library = pandas("A table")
    if isinstance(frame, Table):
        return frame
    if not isinstance(frame, library.DataFrame):
        if hasattr(frame, "to_pandas"):  # polars, pyarrow
            try:
                frame = frame.to_pandas()
            except ImportError as error:
                raise missing_extra("pyarrow", "table", "A frame of polars") from error
        elif isinstance(frame, Mapping):
            frame = library.DataFrame(dict(frame))
        else:
            raise DataError(f"{where}: expected a frame of pandas or polars. Found {type(frame).__name__}.")
    names = [str(name) for name in frame.columns]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise DataError(f"{where}: expected different names of columns. Found {twice[:5]} more than once. Rename them.")
    if not names:
        raise DataError(f"{where}: expected a table with columns. Found none.")
    frame = frame.set_axis(names, axis=1) if names != list(frame.columns) else frame
    return Table(frame, where, first)


def read_table(path: str | Path) -> Table:
    """The whole table of a .csv, .tsv or .parquet file.

    Raises:
        DataError: no such file, another format, not UTF-8, or rows of different lengths.
    """
    pieces = list(read_pieces(path, 1 << 62))
    return pieces[0]


def read_pieces(path: str | Path, rows: int) -> Iterator[Table]:
    """The table of a file in pieces of so many rows, so that a file of any length can be read.

    Raises:
        DataError: as :func:`read_table`.
    """
    path, library = Path(path), pandas()
    if path.suffix.lower() not in FORMATS:
        raise DataError(f"{path}: expected a table, of {', '.join(FORMATS)}. Found the suffix {path.suffix!r}.")
    if not path.is_file():
        raise DataError(f"{path}: expected a table. Found no such file. Check the path.")
    if path.suffix.lower() == ".parquet":
        yield from _parquet(path, rows)
        return
    separator, first = TEXT_FORMATS[path.suffix.lower()], 0
    try:
        reader = library.read_csv(
            path, sep=separator, dtype=str, keep_default_na=False, na_values=list(EMPTY), encoding="utf-8-sig",
            chunksize=min(rows, 1 << 40), skip_blank_lines=True, index_col=False, on_bad_lines="error", quoting=0,
            encoding_errors="strict", low_memory=False,
        )  # fmt: skip
        with reader:
            for piece in reader:
                yield as_table(piece, str(path), first)
                first += len(piece)
        if first == 0:
            yield Table(library.read_csv(path, sep=separator, dtype=str, encoding="utf-8-sig"), str(path))
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path}: expected text in UTF-8. Found the byte {error.object[error.start]:#04x} that is none. Save it "
            "as UTF-8, for example: iconv -f latin1 -t utf-8."
        ) from error
    except library.errors.EmptyDataError as error:
        raise DataError(f"{path}: expected a header and rows. Found an empty file.") from error
    except library.errors.ParserError as error:
        raise DataError(f"{path}: expected rows of one length. Found: {str(error).strip()}. Quote the cell.") from error


def _parquet(path: Path, rows: int) -> Iterator[Table]:
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as error:
        raise missing_extra("pyarrow", "table", "Reading Parquet") from error
    first = 0
    try:
        with parquet.ParquetFile(path) as file:
            size = min(rows, max(1, file.metadata.num_rows))
            for piece in file.iter_batches(batch_size=size):
                yield as_table(piece.to_pandas(), str(path), first)
                first += piece.num_rows
            if first == 0:
                yield Table(file.schema_arrow.empty_table().to_pandas(), str(path))
    except (pyarrow.ArrowException, OSError) as error:
        raise DataError(f"{path}: expected a Parquet file. Found one that cannot be read ({error}).") from error


def count_rows(path: str | Path) -> int:
    """About how many rows a table file has: of text its line ends, so more than there are where cells hold some."""
    path = Path(path)
    if path.suffix.lower() == ".parquet":
        return sum(len(piece) for piece in read_pieces(path, 1 << 16))
    with path.open("rb") as file:
        return max(0, sum(block.count(b"\n") for block in iter(lambda: file.read(1 << 20), b"")) - 1)
