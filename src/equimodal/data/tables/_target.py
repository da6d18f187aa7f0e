"""The target of a table: classes by name, or numbers, whose mean and deviation the task learns them by."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any, Literal

import numpy as np

from equimodal.data.tables._table import Array, Table
from equimodal.errors import DataError, DataWarning, unknown_name

TaskName = Literal["auto", "classification", "regression"]
_MOST_CLASSES = 20
_RARE = 5


def fit_target(table: Table, column: str, task: TaskName, log: bool) -> dict[str, Any]:
    """What the target is, as plain values: its task, and the names of the classes.

    Numbers are classes where they are whole and at most 20 different ones, texts always.

    Raises:
        UnknownNameError: no such column.
        DataError: an empty cell, one class only, or numbers that are none.
    """
    if column not in table.columns:
        raise unknown_name(f"column of {table.where}", column, table.columns)
    if task not in ("auto", "classification", "regression"):
        raise unknown_name("task", str(task), ("auto", "classification", "regression"))
    gaps = table.empty(column)
    if gaps.any():
        rows = np.flatnonzero(gaps)
        raise DataError(
            f"{table.where}: column {column!r}, row {table.number(int(rows[0]))}: expected a target in every row. "
            f"Found an empty cell in {len(rows)} row(s), first {[table.number(int(r)) for r in rows[:5]]}. Leave these "
            "rows out: unlabelled='drop'."
        )
    texts = table.texts(column)
    classes = sorted(set(texts), key=_order)
    if task == "auto":
        task = "regression" if _are_measurements(table, column, classes) else "classification"
    if task == "regression":
        values, _ = table.numbers(column, "Correct the cell, or choose task='classification'.")
        if log and values.min() <= 0:
            row = int(values.argmin())
            raise table.refusal(
                column, row, "a number above 0 for a log target", values[row], "Leave `log_target` out."
            )
        if values.min() == values.max():
            raise DataError(
                f"{table.where}: column {column!r}: expected different targets. Found {values[0]:g} in all."
            )
        return {"column": column, "task": "regression", "log": log, "mean": 0.0, "deviation": 1.0, "classes": []}
    if log:
        raise DataError(f"`log_target`: expected False for classes. Found True for column {column!r}.")
    if len(classes) < 2:
        raise DataError(
            f"{table.where}: column {column!r}: expected at least two classes. Found {classes} in all {len(texts)} "
            "row(s). Name another target."
        )
    if len(classes) > max(_MOST_CLASSES, len(texts) // 2):
        raise DataError(
            f"{table.where}: column {column!r}: expected classes that several rows share. Found {len(classes)} "
            f"different values in {len(texts)} rows, such as {classes[0]!r}. Numbers can be a regression: "
            "task='regression'."
        )
    rare = [c for c in classes if texts.count(c) < _RARE]
    if rare:
        text = (
            f"{table.where}: column {column!r}: fewer than {_RARE} rows of the class(es) {rare[:5]}; little is learnt."
        )
        warnings.warn(text, DataWarning, stacklevel=3)
    return {"column": column, "task": "classification", "classes": classes}


def target_values(state: Mapping[str, Any], table: Table) -> Array:
    """Class numbers (N,), or numbers in the target's unit."""
    texts = table.texts(state["column"])
    if state["task"] == "classification":
        place = {name: i for i, name in enumerate(state["classes"])}
        return np.array([place[text] for text in texts], dtype=np.int64)
    return table.numbers(state["column"])[0]


def with_moments(state: dict[str, Any], values: Array, rows: Array) -> dict[str, Any]:
    """The state with mean and deviation of the training ``rows``, of a log target those of its logarithm."""
    known = np.log(values[rows]) if state["log"] else values[rows]
    deviation = float(known.std())
    return state | {"mean": float(known.mean()), "deviation": deviation if deviation > 0 else 1.0}


def unit_options(state: Mapping[str, Any]) -> dict[str, Any]:
    """Options of the task that learns the target in deviations from its mean; none for classes."""
    if state["task"] != "regression":
        return {}
    return {"mean": float(state["mean"]), "deviation": float(state["deviation"]), "log": bool(state["log"])}


def _are_measurements(table: Table, column: str, classes: list[str]) -> bool:
    if table.frame[column].dtype.kind == "b":
        return False
    try:
        values = [float(c) for c in classes]
    except ValueError:
        return False
    whole = all(v == int(v) for v in values if np.isfinite(v))
    return len(classes) > _MOST_CLASSES or not whole


def _order(text: str) -> tuple[int, float, str]:
    try:
        return (0, float(text), text)
    except ValueError:
        return (1, 0.0, text)
