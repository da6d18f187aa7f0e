"""Arrays of Arrow as NumPy arrays or plain contents, without a Python object per number."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from equimodal.errors import missing_extra

Array = npt.NDArray[Any]
Rows = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]
_NUMBERS = {"float": "float32", "double": "float64", "halffloat": "float16"}
Names = tuple[str, ...] | None


class UnevenError(ValueError):
    """Lists differ in length; holds the first place that does, its length and the expected one."""

    def __init__(self, place: int, found: int, expected: int) -> None:
        super().__init__(place, found, expected)
        self.place, self.found, self.expected = place, found, expected


def library(purpose: str) -> Any:
    """PyArrow, imported when it is used.

    Raises:
        MissingExtraError: it is not installed.
    """
    try:
        import pyarrow
    except ImportError as error:
        raise missing_extra("pyarrow", "rows", purpose) from error
    return pyarrow


def one_array(column: Any) -> Any:
    """A column in pieces as one array."""
    return column.combine_chunks() if hasattr(column, "combine_chunks") else column


def chosen(array: Any, places: Rows) -> Any:
    """Some contents of an array of Arrow."""
    pa, own = library("Reading Arrow"), np.ascontiguousarray(places, np.int64)
    # pyarrow.array() would import pandas
    return array.take(pa.Array.from_buffers(pa.int64(), len(own), [None, pa.py_buffer(own)]))


def in_parts(bounds: Rows, rows: Rows, take: Callable[[int, Rows], Any]) -> Any:
    """Contents of ``rows`` of which each part is taken at once, in the order of ``rows``.

    Args:
        bounds: where the parts begin, and where the last one ends.
        rows: (B,) any of them.
        take: gives the contents of rows of one part.
    """
    owner = np.searchsorted(bounds, rows, side="right") - 1
    parts = np.unique(owner).tolist()
    if len(parts) == 1:
        return take(parts[0], rows)
    order = np.argsort(owner, kind="stable")
    back = np.empty(len(rows), np.int64)
    back[order] = np.arange(len(rows))
    taken = [take(part, rows[owner == part]) for part in parts]
    if all(hasattr(own, "type") for own in taken) and len({str(own.type) for own in taken}) == 1:
        return chosen(library("Reading Arrow").concat_arrays(taken), back)
    plain = [content for own in taken for content in (own.to_pylist() if hasattr(own, "type") else own)]
    return [plain[place] for place in back]


def element_type(kind: Any) -> np.dtype[Any] | None:
    """The type of the numbers in (nested) lists of an Arrow type; ``None`` where they are no numbers."""
    if kind is None:
        return None
    while hasattr(kind, "value_type") or hasattr(kind, "storage_type"):
        kind = kind.storage_type if hasattr(kind, "storage_type") else kind.value_type
    name = _NUMBERS.get(str(kind), str(kind))  # to_pandas_dtype() would import pandas
    return np.dtype(name) if name in np.sctypeDict and np.dtype(name).kind in "biuf" else None


def dense(array: Any, expected: tuple[int, ...] | None = None) -> Array:
    """Numbers (n, ...) of n present contents of equal shape.

    Raises:
        UnevenError: lists differ in length.
    """
    array = array.storage if hasattr(array, "storage") else array
    if not hasattr(array.type, "value_type") or hasattr(array.type, "index_type"):
        return np.asarray(array.to_numpy(zero_copy_only=False))
    lengths = array.value_lengths().to_numpy(zero_copy_only=False)
    first = expected[0] if expected else int(lengths[0]) if len(lengths) else 0
    wrong = np.flatnonzero(lengths != first)
    if len(wrong):
        raise UnevenError(int(wrong[0]), int(lengths[wrong[0]]), first)
    try:
        inner = dense(array.flatten(), expected[1:] if expected else None)
    except UnevenError as error:
        raise UnevenError(error.place // max(1, first), error.found, error.expected) from None
    return inner.reshape(len(array), first, *inner.shape[1:])


def padded(array: Any, length: int, expected: tuple[int, ...] | None = None) -> tuple[Array, Mask]:
    """Numbers (n, length, ...) of n present lists, cut and filled with zeros, and which steps (n, length) are real."""
    array = array.storage if hasattr(array, "storage") else array
    lengths = array.value_lengths().to_numpy(zero_copy_only=False).astype(np.int64)
    try:
        inner = dense(array.flatten(), expected)
    except UnevenError as error:
        row = int(np.searchsorted(np.cumsum(lengths), error.place, side="right"))
        raise UnevenError(row, error.found, error.expected) from None
    real = np.arange(length) < lengths[:, None]
    values = np.zeros((len(lengths), length, *inner.shape[1:]), inner.dtype)
    values[real] = inner[((np.cumsum(lengths) - lengths)[:, None] + np.arange(length))[real]]
    return values, real


def single_values(array: Any) -> tuple[Names, Array]:
    """(n,) or (n, D) values of a column without gaps; of texts the sorted names, and the number of each."""
    array = array.storage if hasattr(array, "storage") else array
    pa = library("Reading Arrow")
    if pa.types.is_string(array.type) or pa.types.is_large_string(array.type) or pa.types.is_string_view(array.type):
        array = array.dictionary_encode()
    if pa.types.is_dictionary(array.type):
        names, numbers = coded(np.array(array.dictionary.to_pylist()))
        return names, np.asarray(numbers[array.indices.to_numpy(zero_copy_only=False)])
    return coded(np.array(array.to_pylist()) if element_type(array.type) is None else dense(array))


def coded(values: Array) -> tuple[Names, Array]:
    """The sorted names among texts, and the number of each; other values as they are."""
    if values.dtype.kind != "U":
        return None, values
    found, numbers = np.unique(values, return_inverse=True)
    return tuple(found.tolist()), numbers.astype(np.int64)
