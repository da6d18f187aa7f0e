"""Arrays, tables, tensors and lists of users as plain NumPy arrays, or a refusal that says what to do instead."""

from __future__ import annotations

import importlib
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from equimodal.errors import DataError

Array = npt.NDArray[Any]
_LOOKS_MISSING = ("nan", "NaN", "None", "<NA>", "NaT")


def numbers(value: Any, name: str) -> Array:
    """``value`` as an array of numbers, the samples on its first axis.

    Args:
        value: an array, a tensor (also bfloat16, or one that requires gradients), a table, or nested lists.
        name: the argument, for messages: ``"inputs['a']"``.

    Raises:
        DataError: no numbers, gaps, lists of several lengths, one number per sample without an axis of its own.

    Example:
        >>> numbers([[1, 2], [3, 4]], "inputs['a']").shape
        (2, 2)
    """
    array = _table(value, name) if hasattr(value, "columns") else plain_array(value, name)
    if array.dtype.kind not in "biuf":
        raise DataError(f"`{name}`: expected numbers of shape (N, ...). {_instead_of_numbers(array)}")
    if array.ndim == 1:
        raise DataError(
            f"`{name}`: expected numbers of shape (N, ...), here (N, 1). Found one number per sample, "
            f"{array.dtype} {array.shape}. Give the array an axis of features: array[:, None]."
        )
    if array.ndim == 0:
        raise DataError(f"`{name}`: expected numbers of shape (N, ...). Found a single {type(value).__name__}.")
    return array


def names(value: Any, name: str) -> Array:
    """``value`` as one name (text) or whole number per sample, (N,).

    Raises:
        DataError: a value is missing (None, NaN), of another kind, or texts and numbers are mixed.

    Example:
        >>> names(["no", "yes"], "target")
        array(['no', 'yes'], dtype='<U3')
    """
    if (isinstance(value, np.ndarray) and value.dtype.kind != "O") or hasattr(value, "detach"):
        array = plain_array(value, name)
    else:
        # NumPy would make texts of None and NaN that stand beside texts
        entries = _entries(value, name)
        refuse_missing(entries, name)
        array = _same_kind(entries, name)
    if array.dtype.kind == "f" and array.ndim == 1 and np.isnan(array).any():
        refuse_missing(array.tolist(), name)
    if array.dtype.kind not in "biuU" or array.ndim != 1:
        hint = ""
        if array.dtype.kind == "f" and array.ndim == 1 and (array == np.floor(array)).all():
            hint = " Whole numbers need a type of whole numbers: values.astype(int)."
        elif array.dtype.kind == "S":
            hint = " Make them text: numpy.char.decode(values, 'utf-8')."
        raise DataError(
            f"`{name}`: expected one name or whole number per sample. Found {array.dtype} {array.shape}.{hint}"
        )
    return array


def refuse_missing(entries: Sequence[Any], name: str) -> None:
    """Raise if some entries are missing values, which are no names and no numbers.

    Raises:
        DataError: names the samples.
    """
    gaps = [i for i, entry in enumerate(entries) if is_missing(entry)]
    if gaps:
        raise DataError(
            f"`{name}`: expected a value for every sample. Found {entries[gaps[0]]!r} in {len(gaps)} sample(s), first "
            f"indices {gaps[:5]}. Leave these samples out, or give them a value."
        )


def is_missing(value: Any) -> bool:
    """Whether a value of a table stands for nothing: None, NaN, NaT, NA."""
    if value is None or type(value).__name__ in ("NAType", "NaTType"):
        return True
    if isinstance(value, (np.datetime64, np.timedelta64)):
        return bool(np.isnat(value))
    return isinstance(value, (float, np.floating)) and bool(value != value)


def missing_names(found: Iterable[str]) -> list[str]:
    """Names that look like missing values which became text."""
    return [n for n in found if n in _LOOKS_MISSING or not n.strip()]


def plain_array(value: Any, name: str) -> Array:
    """``value`` as a NumPy array, whatever holds it.

    Raises:
        DataError: it cannot be one, or it would lose something (masked or sparse arrays, lists of several lengths).
    """
    if hasattr(value, "detach") and type(value).__module__.startswith("torch"):
        value = _tensor(value, name)
    if isinstance(value, np.ma.MaskedArray):
        if value.mask.any():
            raise DataError(
                f"`{name}`: expected an array without masked entries. Found {int(value.mask.sum())} of them. "
                "Fill them: array.filled(value)."
            )
        value = value.filled()
    if type(value).__module__.startswith("scipy.sparse"):
        raise DataError(f"`{name}`: expected a dense array. Found {type(value).__name__}. Use array.toarray().")
    try:
        array = np.asarray(value)
    except (ValueError, TypeError, RuntimeError, OverflowError) as error:
        raise DataError(f"`{name}`: expected one array. {_lengths(value, str(error))}") from error
    if array.dtype.kind == "O" and (text := _lengths(value, "")):
        raise DataError(f"`{name}`: expected one array. {text}")
    return array


def _tensor(value: Any, name: str) -> Any:
    if value.layout != importlib.import_module("torch").strided or value.is_quantized:
        raise DataError(f"`{name}`: expected a dense tensor of plain numbers. Found {value.layout}. Use .to_dense().")
    value = value.detach().cpu()
    half = str(value.dtype) in ("torch.bfloat16",) or "float8" in str(value.dtype)
    return value.float().numpy() if half else value.resolve_conj().resolve_neg().numpy()


def _table(frame: Any, name: str) -> Array:
    """The numbers of a table, one feature per column."""
    wrong = []
    for column, kind in zip(frame.columns, frame.dtypes, strict=True):
        if getattr(kind, "kind", "O") not in "biuf":
            wrong.append(f"{column!r} ({kind})")
        elif getattr(frame[column], "hasnans", False) is True and not isinstance(kind, np.dtype):
            wrong.append(f"{column!r} ({kind} with gaps)")
    if wrong:
        raise DataError(
            f"`{name}`: expected a table of numbers. Found the column(s) {', '.join(wrong[:5])}. Leave them out, or "
            "turn them into numbers (texts into categories, dates into seconds)."
        )
    array: Array = frame.to_numpy()
    return array if array.dtype.kind in "biuf" else array.astype(np.float64)


def _instead_of_numbers(array: Array) -> str:
    kind, shown = array.dtype.kind, f"{array.dtype} {array.shape}"
    if kind in "US":
        return (
            f"Found texts, {shown}. Turn texts into token ids (a tokenizer, or word numbers) and pass "
            "kinds={...: 'tokens'}, or into vectors."
        )
    if kind in "mM":
        return f"Found times, {shown}. Turn them into numbers: (times - times.min()) / numpy.timedelta64(1, 's')."
    if kind == "c":
        return f"Found complex numbers, {shown}. Stack real and imaginary part: numpy.stack([x.real, x.imag], -1)."
    if kind == "V":
        return f"Found records, {shown}. Pass their fields as columns of one array."
    flat = array.ravel().tolist()
    gaps = [i for i, entry in enumerate(flat) if is_missing(entry)]
    if gaps:
        places = sorted({i // max(1, len(flat) // len(array)) for i in gaps}) if array.ndim else []
        return f"Found {flat[gaps[0]]!r} among the values of the samples {places[:5]}. Fill these gaps."
    kinds = sorted({type(entry).__name__ for entry in flat})
    return f"Found objects ({', '.join(kinds[:4])}), {shown}. Make one array of numbers of them."


def _entries(value: Any, name: str) -> list[Any]:
    """One object per sample, as it is."""
    if isinstance(value, (str, bytes)) or not isinstance(value, Iterable):
        raise DataError(f"`{name}`: expected one value per sample. Found a single {type(value).__name__}.")
    if isinstance(value, np.ma.MaskedArray):
        value = plain_array(value, name)
    if isinstance(value, np.ndarray) and value.ndim != 1:
        raise DataError(f"`{name}`: expected one name or whole number per sample. Found {value.dtype} {value.shape}.")
    return list(value)


def _same_kind(entries: list[Any], name: str) -> Array:
    """Names alone, or numbers alone."""
    text = [isinstance(entry, str) for entry in entries]
    if all(text):
        return np.array([str(entry) for entry in entries], dtype=str) if entries else np.empty(0, np.int64)
    if not any(text):
        wrong = [e for e in entries if not isinstance(e, (bool, int, float, np.generic)) and np.ndim(e) == 0]
        if not wrong:
            return plain_array(entries, name)
    else:
        wrong = [entry for entry in entries if not isinstance(entry, str)]
    place = next(i for i, entry in enumerate(entries) if entry is wrong[0])
    also = " beside texts" if any(text) else ""
    raise DataError(
        f"`{name}`: expected one name or whole number per sample. Found {wrong[0]!r} "
        f"({type(wrong[0]).__name__}{also}) in sample {place}. Give all samples names, or all of them whole numbers."
    )


def _lengths(value: Any, otherwise: str) -> str:
    """What is wrong with a list that is no array: its entries differ in length."""
    if isinstance(value, np.ndarray) and value.dtype.kind != "O":
        return f"Found: {otherwise}." if otherwise else ""
    try:
        sizes = sorted({len(entry) for entry in value if not isinstance(entry, (str, bytes))})
    except TypeError:
        sizes = []
    if len(sizes) > 1:
        return (
            f"Found samples of {len(sizes)} different lengths, {sizes[0]} to {sizes[-1]}. Pad them with zeros to one "
            "length, and give their lengths: masks={MODALITY: lengths}, or the `mask` of a card (docs/data.md)."
        )
    if sizes and not isinstance(value, np.ndarray):
        shapes = sorted({str(np.shape(entry)) for entry in value if isinstance(entry, np.ndarray)})
        if len(shapes) > 1:
            return f"Found samples of the shapes {', '.join(shapes[:4])}. Bring them to one shape."
    return f"Found: {otherwise}." if otherwise else ""
