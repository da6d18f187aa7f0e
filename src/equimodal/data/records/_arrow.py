"""Arrays of Arrow as NumPy arrays or plain contents, without a Python object per number."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from equimodal._utils.arrays import npy_of
from equimodal.errors import DataError, missing_extra

Array = npt.NDArray[Any]
Rows = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]
_NUMBERS = {"float": "float32", "double": "float64", "halffloat": "float16"}
Names = tuple[str, ...] | None
NPY = b"\x93NUMPY"
"""How a .npy file begins."""
_HEAD = 10  # bytes before the header of a .npy file of version 1; the last two say how long it is
MEDIA = {"bytes", "path"}
"""What Hugging Face stores of a picture or a sound; both are null where a row has none."""


class UnevenError(ValueError):
    """Lists differ in length; holds the first place that does, its length and the expected one."""

    def __init__(self, place: int, found: int | tuple[int, ...], expected: int | tuple[int, ...]) -> None:
        super().__init__(place, found, expected)
        self.place, self.found, self.expected = place, found, expected


class AbsentError(ValueError):
    """Rows have no value; holds which ones."""

    def __init__(self, rows: Rows) -> None:
        super().__init__(rows)
        self.rows = rows


class MixedError(ValueError):
    """Values of a column are of several kinds; holds the first place that differs, and the words for it."""

    def __init__(self, place: int, found: str) -> None:
        super().__init__(place, found)
        self.place, self.found = place, found


class GapError(ValueError):
    """A place is empty; holds which one, and whether it is inside a list."""

    def __init__(self, place: int, inside: bool) -> None:
        super().__init__(place, inside)
        self.place, self.inside = place, inside


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
    """A column in pieces as one array; of one piece nothing is copied."""
    if not hasattr(column, "combine_chunks"):
        return column
    return column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()


def filled(array: Any) -> Mask:
    """(n,) booleans: contents that are not null, and not the ``{bytes: null, path: null}`` of a missing media file."""
    kind, parts = array.type, [array]
    if library("Reading Arrow").types.is_struct(kind) and {kind.field(i).name for i in range(kind.num_fields)} == MEDIA:
        parts = array.flatten()
    elif not array.null_count:
        return np.ones(len(array), bool)
    found = [part.is_valid().to_numpy(zero_copy_only=False) for part in parts]
    return np.asarray(np.logical_or.reduce(found), bool)


def is_empty_media(content: Any) -> bool:
    """Whether a plain content is the ``{bytes: None, path: None}`` of a missing media file."""
    if isinstance(content, (bytes, np.ndarray)):  # most are; the question about a mapping takes longer
        return False
    return isinstance(content, Mapping) and set(content) == MEDIA and all(part is None for part in content.values())


def chosen(array: Any, places: Rows) -> Any:
    """Some contents of an array of Arrow."""
    pa, own = library("Reading Arrow"), np.ascontiguousarray(places, np.int64)
    try:  # pyarrow.array() would import pandas
        return array.take(pa.Array.from_buffers(pa.int64(), len(own), [None, pa.py_buffer(own)]))
    except pa.ArrowNotImplementedError:  # binary_view, string_view
        return pa.concat_arrays([array.slice(place, 1) for place in own.tolist()] or [array.slice(0, 0)])


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
    """Numbers (n, ...) of n present contents of equal shape: lists, or tensors of Arrow's ``fixed_shape_tensor``.

    Raises:
        UnevenError: lists differ in length.
        GapError: a content, or something in a list, is null.
    """
    kind = array.type
    array = array.storage if hasattr(array, "storage") else array
    _refuse_gaps(array)
    shape = tuple(kind.shape) if getattr(kind, "extension_name", "") == "arrow.fixed_shape_tensor" else ()
    axes = list(kind.permutation or range(len(shape))) if shape else []
    if shape and axes == np.argsort(axes).tolist():  # of others it is not agreed what they mean: they stay flat
        stored = dense(array)
        values = stored.reshape(len(stored), *shape).transpose(0, *(axis + 1 for axis in axes))
        if expected and values.shape[1:] != expected:
            raise UnevenError(0, values.shape[1:], expected)
        return values
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
    except GapError as error:
        raise GapError(error.place // max(1, first), True) from None
    return inner.reshape(len(array), first, *inner.shape[1:])


def npy_contents(array: Any) -> Array | None:
    """Numbers (n, ...) of n present contents of .npy files with equal headers; ``None`` where they are something else.

    It is a view of the contents: no object of Python is made of any but the first.
    """
    pa = library("Reading Arrow")
    if not pa.types.is_binary(array.type) or not len(array) or array.null_count:
        return None
    first = array[0].as_py()
    size, head = len(first), _HEAD + int.from_bytes(first[_HEAD - 2 : _HEAD], "little")
    found = _npy_layout(first[:head], size) if first[: len(NPY)] == NPY else None
    if found is None:
        return None
    bounds, data = _binary(array)
    if (np.diff(bounds) != size).any():
        return None
    contents = np.frombuffer(data, np.uint8)[bounds[0] : bounds[-1]].reshape(len(array), size)
    if (contents[:, :head] != contents[0, :head]).any():
        return None
    entry = np.dtype({"names": ["x"], "formats": [found], "offsets": [head], "itemsize": size})
    return np.asarray(contents.view(entry)["x"][:, 0])


def _binary(array: Any) -> tuple[npt.NDArray[np.int32], Any]:
    """Where n contents of bytes begin and end, (n + 1,), and the bytes of all."""
    _, offsets, data = array.buffers()
    return np.frombuffer(offsets, np.int32)[array.offset : array.offset + len(array) + 1], data


@lru_cache(maxsize=64)
def _npy_layout(head: bytes, size: int) -> tuple[np.dtype[Any], tuple[int, ...]] | None:
    """Type and shape of a .npy file of ``size`` bytes by its header of version 1; ``None`` if it is not plain."""
    try:
        sample = np.asarray(npy_of(head.ljust(size, b"\0"), "the content"))
    except DataError:
        return None
    plain = sample.dtype.kind in "biuf" and sample.flags.c_contiguous and 0 < sample.nbytes == size - len(head)
    return (sample.dtype, sample.shape) if plain else None


def one_by_one(array: Any) -> Callable[[int], Any]:
    """A function that gives one content by its place: plain, lists of numbers as an array if they are of one shape."""
    pa, kind = library("Reading Arrow"), array.type
    if element_type(kind) is not None and hasattr(kind, "value_type"):
        return lambda place: _plain(array.slice(place, 1))
    if not pa.types.is_binary(kind) or array.null_count or not len(array):
        return lambda place: array[place].as_py()
    bounds, data = _binary(array)
    begin, content = bounds.data, memoryview(data)
    return lambda place: bytes(content[begin[place] : begin[place + 1]])


def _plain(content: Any) -> Any:
    """One list of numbers as an array; as a list where it is none, which is for the function that decodes it."""
    try:
        return dense(content)[0]
    except (UnevenError, GapError):
        return content.to_pylist()[0]


def padded(array: Any, length: int, expected: tuple[int, ...] | None = None) -> tuple[Array, Mask]:
    """Numbers (n, length, ...) of n present lists, cut and filled with zeros, and which steps (n, length) are real."""
    array = array.storage if hasattr(array, "storage") else array
    _refuse_gaps(array)
    lengths = array.value_lengths().to_numpy(zero_copy_only=False).astype(np.int64)
    try:
        inner = dense(array.flatten(), expected)
    except (UnevenError, GapError) as error:
        row = int(np.searchsorted(np.cumsum(lengths), error.place, side="right"))
        if isinstance(error, GapError):
            raise GapError(row, True) from None
        raise UnevenError(row, error.found, error.expected) from None
    real = np.arange(length) < lengths[:, None]
    values = np.zeros((len(lengths), length, *inner.shape[1:]), inner.dtype)
    values[real] = inner[((np.cumsum(lengths) - lengths)[:, None] + np.arange(length))[real]]
    return values, real


def _refuse_gaps(array: Any) -> None:
    """NumPy would make NaN of a null, and any whole number of that."""
    if array.null_count:
        gaps = np.flatnonzero(~array.is_valid().to_numpy(zero_copy_only=False))
        raise GapError(int(gaps[0]), False)


def single_values(array: Any) -> tuple[Names, Array]:
    """(n,) or (n, D) values of a column without gaps; of texts the sorted names, and the number of each.

    Raises:
        UnevenError: lists differ in length.
        GapError: something in a list is null.
        MixedError: values of several kinds.
    """
    array = array.storage if hasattr(array, "storage") else array
    pa = library("Reading Arrow")
    if pa.types.is_string(array.type) or pa.types.is_large_string(array.type) or pa.types.is_string_view(array.type):
        array = array.dictionary_encode()
    if pa.types.is_dictionary(array.type):
        names, numbers = coded(np.array(array.dictionary.to_pylist()))
        return names, np.asarray(numbers[array.indices.to_numpy(zero_copy_only=False)])
    return single_contents(array.to_pylist()) if element_type(array.type) is None else coded(dense(array))


def single_contents(contents: Sequence[Any]) -> tuple[Names, Array]:
    """What :func:`single_values` gives, of plain contents.

    Raises:
        MixedError: texts beside other values, or lists that differ in length.
    """
    texts = [isinstance(content, str) for content in contents]
    if any(texts) and not all(texts):
        place = texts.index(not texts[0])
        raise MixedError(place, f"{contents[place]!r} ({type(contents[place]).__name__}) beside {contents[0]!r}")
    try:
        return coded(np.array(contents))
    except ValueError as error:
        sizes = [np.size(content) for content in contents]
        place = next((i for i, size in enumerate(sizes) if size != sizes[0]), 0)
        raise MixedError(place, f"{sizes[place]} numbers beside {sizes[0]}") from error


def coded(values: Array) -> tuple[Names, Array]:
    """The sorted names among texts, and the number of each; other values as they are."""
    if values.dtype.kind != "U":
        return None, values
    found, numbers = np.unique(values, return_inverse=True)
    return tuple(found.tolist()), numbers.astype(np.int64)
