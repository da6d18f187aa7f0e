"""Masks of what is present, from .csv, .npz or .npy files whose mistakes are named by row."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from equimodal._utils.arrays import check_npy
from equimodal._utils.outside import read_bytes
from equimodal.data._arrays import Arrays
from equimodal.data._checks import Used
from equimodal.errors import DataError, unknown_name

Array = npt.NDArray[Any]
Mask = npt.NDArray[np.bool_]
ROW = "row"
"""Name of the column that holds rows of the dataset."""
_FLAGS = {"0": False, "1": True, "false": False, "true": True}


def read_mask(path: Path, names: Sequence[str], size: int, used: Used | None) -> Mask:
    """(N, M) what the file says is present; samples and modalities that it does not mention are.

    A ``.csv`` has a header of modality names and 0 or 1 in each cell; an ``.npz`` has one array of 0 and 1 per
    modality. With a further column or array ``row`` (rows of the dataset), or one that is named as an array of the
    bundle with a different value for each sample, only some samples need be there; without it, all are in the order of
    the dataset. An ``.npy`` is one array (N, M) in the order of the modalities. Without ``used``, arrays of the bundle
    are not known, and samples are named by ``row`` alone.

    Raises:
        DataError: unreadable, or something else than 0 and 1, with the row and modality; samples that are not there or
            are there twice.
        UnknownNameError: a column that is no modality.
    """
    if path.suffix == ".npy":
        return _whole(path, _read_npy(path), names, size)
    if path.suffix == ".npz":
        columns: dict[str, Array] = dict(Arrays(path).items())
    elif path.suffix == ".csv":
        columns = _read_csv(path, names)
    else:
        raise DataError(f"{path}: expected a mask file .csv, .npz or .npy. Found the suffix {path.suffix!r}.")
    return _table(path, columns, names, size, used)


def _read_npy(path: Path) -> Array:
    check_npy(path)
    try:
        return np.asarray(np.load(path, allow_pickle=False))
    except (OSError, ValueError, EOFError) as error:
        raise DataError(f"{path}: expected a readable .npy file of plain numbers. Found: {error}.") from error


def _whole(path: Path, values: Array, names: Sequence[str], size: int) -> Mask:
    if values.shape != (size, len(names)):
        raise DataError(
            f"{path}: expected one row per sample and one column per modality {list(names)}, shape "
            f"({size}, {len(names)}). Found {values.shape}. Use .csv or .npz to name rows or modalities."
        )
    return np.stack([_flags(path, m, values[:, i]) for i, m in enumerate(names)], axis=1)


def _read_csv(path: Path, names: Sequence[str]) -> dict[str, Array]:
    try:
        lines = list(csv.reader(read_bytes(path).decode("utf-8-sig").splitlines()))
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path}: expected a readable .csv file in UTF-8. Found: {error}.") from error
    while lines and not lines[-1]:
        lines.pop()
    if len(lines) < 2:
        raise DataError(f"{path}: expected a header and one line per sample. Found {len(lines)} line(s).")
    header = [h.strip() for h in lines[0]]
    if len(set(header)) != len(header):
        raise DataError(f"{path}: line 1: expected different column names. Found {header}.")
    for number, line in enumerate(lines[1:], 2):
        if len(line) != len(header):
            raise DataError(f"{path}: line {number}: expected {len(header)} cells. Found {len(line)}.")
    columns: dict[str, Array] = {}
    for position, name in enumerate(header):
        cells = [line[position].strip() for line in lines[1:]]
        if name in names:
            for number, cell in enumerate(cells, 2):
                if cell.lower() not in _FLAGS:
                    raise DataError(
                        f"{path}: line {number}: {name}: expected 0 (absent) or 1 (present). Found {cell!r}."
                    )
            columns[name] = np.array([_FLAGS[cell.lower()] for cell in cells])
        else:
            columns[name] = np.array(cells)
    return columns


def _table(path: Path, columns: Mapping[str, Array], names: Sequence[str], size: int, used: Used | None) -> Mask:
    others = [c for c in columns if c not in names]
    if len(others) > 1 or not set(columns) & set(names):
        unknown = next(
            (c for c in others if c != ROW and c not in _arrays_of(used)), others[0] if others else "nothing"
        )
        raise unknown_name(f"column of {path}:", unknown, [*names, ROW])
    rows = np.arange(size) if not others else _rows(path, others[0], columns[others[0]], names, size, used)
    table = np.ones((size, len(names)), np.bool_)
    for i, m in enumerate(names):
        if m in columns:
            if columns[m].shape != rows.shape:
                extra = "" if others else f" Name the rows in a column `{ROW}` if the file has only some of them."
                raise DataError(f"{path}: {m}: expected {len(rows)} values, shape {rows.shape}. Found shape "
                                f"{columns[m].shape}.{extra}")  # fmt: skip
            table[rows, i] = _flags(path, m, columns[m], rows)
    return table


def _arrays_of(used: Used | None) -> Mapping[str, Array]:
    return {} if used is None else used.arrays


def _rows(path: Path, name: str, values: Array, names: Sequence[str], size: int, used: Used | None) -> Array:
    """Rows of the dataset that the file's samples are."""
    if values.ndim != 1:
        raise DataError(f"{path}: {name}: expected one value per sample, shape (n,). Found shape {values.shape}.")
    if name == ROW:
        known = {str(i): i for i in range(size)}
        what = f"a row of the dataset, 0 to {size - 1}"
    else:
        if used is None or name not in used.arrays:
            raise unknown_name(f"column of {path}:", name, [*names, ROW])
        stored = used.array(name, "the mask file")
        if stored.shape != (size,):
            raise DataError(
                f"{path}: {name}: expected an array of the bundle with one value per sample, shape ({size},). Found "
                f"{stored.shape}."
            )
        known = {str(v): i for i, v in enumerate(stored.tolist())}
        if len(known) != size:
            raise DataError(
                f"{path}: {name}: expected an array of the bundle with a different value for each sample. Found "
                f"{len(known)} values for {size} samples. Use a column `{ROW}`."
            )
        what = f"a value of the bundle's array `{name}`"
    found: list[int] = []
    seen: dict[str, str] = {}
    for number, value in enumerate(values.tolist()):
        text, where = str(value), f"line {number + 2}" if path.suffix == ".csv" else f"entry {number}"
        if text not in known:
            raise DataError(f"{path}: {where}: {name}: expected {what}. Found {text!r}.")
        if text in seen:
            raise DataError(f"{path}: {where}: {name}: expected each sample once. Found {text!r} in {seen[text]} too.")
        seen[text] = where
        found.append(known[text])
    return np.array(found, np.int64)


def _flags(path: Path, name: str, values: Array, rows: Array | None = None) -> Mask:
    good = np.isin(values, (0, 1)) if values.dtype.kind in "biuf" else np.zeros(len(values), np.bool_)
    if not good.all():
        first = int(np.flatnonzero(~good)[0])
        row = first if rows is None else int(rows[first])
        raise DataError(
            f"{path}: {name}: expected 0 (absent) or 1 (present) everywhere. Found {values[first]!r} for dataset row "
            f"{row}, and {int((~good).sum())} wrong value(s) in all."
        )
    return np.asarray(values, dtype=np.bool_)
