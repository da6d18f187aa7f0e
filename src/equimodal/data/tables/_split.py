"""Training, validation and test rows: by a column, or drawn with a seed, by class and without splitting a group."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from equimodal.data.tables._table import Array, Table
from equimodal.errors import DataError

PARTS = ("train", "validation", "test")
NAMES = {
    "train": "train", "training": "train", "0": "train",
    "validation": "validation", "valid": "validation", "val": "validation", "dev": "validation", "1": "validation",
    "test": "test", "2": "test",
}  # fmt: skip


def split_by_column(table: Table, column: str) -> Array:
    """(N,) names of parts that a column holds.

    Raises:
        DataError: a cell that names no part.
    """
    found = []
    for row, text in enumerate(table.texts(column)):
        part = NAMES.get(text.lower())
        if part is None:
            value = table.cells(column)[row]
            raise table.refusal(column, row, "train, validation or test", value, "Correct the cell.")
        found.append(part)
    return np.array(found)


def drawn_split(strata: Array, groups: Sequence[str] | None, shares: Sequence[float], seed: int) -> Array:
    """(N,) names of parts, drawn so that each part has its share of every stratum.

    Args:
        strata: (N,) whole numbers: the class, or the range of the target.
        groups: (N,) names; all rows of a name are in one part.
        shares: of training, validation and test; they sum to 1.
        seed: decides the draw.

    Raises:
        DataError: shares that are none, or too few groups or rows for the parts.
    """
    numbers = isinstance(shares, Sequence) and all(isinstance(share, (int, float)) for share in shares)
    if not (numbers and len(shares) == 3 and min(shares) >= 0 and abs(sum(shares) - 1) <= 1e-6 and min(shares[:2]) > 0):
        raise DataError(
            "`shares`: expected three numbers that sum to 1, for training (> 0), validation (> 0) and test, as "
            f"(0.7, 0.15, 0.15). Found {shares!r}."
        )
    units = np.arange(len(strata)) if groups is None else np.unique(np.array(groups), return_inverse=True)[1]
    count, needed = int(units.max(initial=-1)) + 1, sum(share > 0 for share in shares)
    if count < needed:
        what = "rows" if groups is None else "groups"
        raise DataError(f"`frame`: expected at least {needed} {what}, one per part. Found {count}.")
    table = np.zeros((count, int(strata.max()) + 1))  # rows of each unit in each stratum
    np.add.at(table, (units, strata), 1)
    random = np.random.default_rng(seed)
    order = random.permutation(count)
    order = order[np.argsort(-table[order].sum(1), kind="stable")]  # large groups first
    goal = np.outer(shares, table.sum(0))
    have = np.zeros_like(goal)
    part_of = np.zeros(count, np.int64)
    for unit in order:
        own = table[unit]
        need = ((goal - have) / np.maximum(goal, 1e-9)) @ (own / own.sum())
        need[np.array(shares) == 0] = -np.inf
        part_of[unit] = int(np.argmax(need))
        have[part_of[unit]] += own
    for part in range(3):  # of very few rows a part may have got none
        if shares[part] > 0 and not (part_of == part).any():
            largest = np.flatnonzero(part_of == np.bincount(part_of, minlength=3).argmax())
            stratum = table[largest].argmax(1)
            part_of[largest[np.bincount(stratum)[stratum].argmax()]] = part
    return np.array(PARTS)[part_of[units]]


def strata_of(values: Array, classes: int) -> Array:
    """(N,) whole numbers to draw by: the class, or which tenth of the numbers a target is in."""
    if classes:
        return values.astype(np.int64)
    bins = min(10, max(1, len(values) // 10))
    ranks = np.argsort(np.argsort(values, kind="stable"), kind="stable")
    strata: Any = ranks * bins // max(1, len(values))
    return np.asarray(strata, np.int64)
