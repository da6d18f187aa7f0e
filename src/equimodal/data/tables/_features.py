"""Numbers, categories and dates of a table as one vector per row; what is learnt from training rows is plain values."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np

from equimodal.data.tables._table import Array, Mask, Table

LARGEST = 20.0
"""Deviations from the mean beyond which a number is cut."""
MOST_VALUES = 64
RARE = 3
_DAY = 86_400_000_000  # microseconds
State = dict[str, Any]


def fit_column(table: Table, column: str, kind: str, rows: Array) -> State:
    """What is learnt of a column from the training ``rows``: plain values.

    Numbers and dates: mean and scale of the filled cells. Categories: the values that occur at least 3 times, at most
    64; the others share one place. A column with empty training cells gets an indicator.
    """
    own = table.take(rows)
    state: State = {"column": column, "kind": kind}
    if kind == "category":
        texts, gaps = own.texts(column), own.empty(column)
        counts = Counter(t for t, gap in zip(texts, gaps, strict=True) if not gap)
        least = RARE if len(counts) > 2 else 1
        kept = sorted((v for v, n in counts.items() if n >= least), key=lambda v: (-counts[v], v))[:MOST_VALUES]
        return state | {"values": sorted(kept), "other": len(kept) < len(counts), "indicator": bool(gaps.any())}
    if kind == "date":
        dates, gaps = own.dates(column)
        values = days_since_1970(dates)
        state["clock"] = bool((dates[~gaps].hour.to_numpy() != 0).any()) if (~gaps).any() else False
    else:
        values, gaps = own.numbers(column)
    filled = values[~gaps]
    with np.errstate(over="ignore", invalid="ignore"):
        mean = float(filled.mean()) if len(filled) else 0.0
    with np.errstate(over="ignore", invalid="ignore"):
        deviation = float(filled.std()) if len(filled) else 0.0
    if not np.isfinite(mean) or not np.isfinite(deviation):
        row = int(np.flatnonzero(np.abs(values) == np.abs(filled).max())[0])
        raise own.refusal(
            column, row, "numbers whose squares can be added", own.cells(column)[row], "Correct or empty the cell."
        )
    spread = max(abs(mean), 1.0) * 1e-12
    return state | {
        "mean": mean,
        "scale": 1 / deviation if deviation > spread else 0.0,
        "indicator": bool(gaps.any()),
    }


def column_vector(state: Mapping[str, Any], table: Table) -> tuple[Array, Mask]:
    """(N, k) float32 of a column, and which of its cells are empty.

    Numbers: (x - mean) / deviation, cut at 20, 0 where empty. Categories: one place per value; a value that training
    did not have is all zeros, or the place of the rare ones. Dates: days as a number, and year, week and (where the
    training dates have a time) day as sine and cosine.
    """
    column, kind = state["column"], state["kind"]
    if kind == "category":
        texts, gaps = table.texts(column), table.empty(column)
        places = {value: i for i, value in enumerate(state["values"])}
        width = len(places) + bool(state["other"])
        values = np.zeros((len(texts), width), np.float32)
        unknown = len(places) if state["other"] else None
        for row, (text, gap) in enumerate(zip(texts, gaps, strict=True)):
            place = None if gap else places.get(text, unknown)
            if place is not None:
                values[row, place] = 1.0
    elif kind == "date":
        dates, gaps = table.dates(column)
        values = np.column_stack([_scaled(days_since_1970(dates), state), *_circles(dates, state["clock"])])
        values[gaps] = 0.0
    else:
        numbers, gaps = table.numbers(column, "Correct or empty the cell.")
        values = _scaled(numbers, state)[:, None]
        values[gaps] = 0.0
    if state["indicator"]:
        values = np.column_stack([values, gaps.astype(np.float32)])
    return values.astype(np.float32), gaps


def _scaled(values: Array, state: Mapping[str, Any]) -> Array:
    scaled: Array = np.clip((values - state["mean"]) * state["scale"], -LARGEST, LARGEST)
    return scaled


def days_since_1970(dates: Any) -> Array:
    """Days of a DatetimeIndex in UTC since 1970-01-01, with their fraction."""
    days: Array = dates.as_unit("us").asi8 / _DAY
    return days


def _circles(dates: Any, clock: bool) -> list[Array]:
    """Sine and cosine of the place in the year and the week, and in the day if ``clock``."""
    parts = [np.asarray(dates.day_of_year, np.float64) / 365.25, np.asarray(dates.day_of_week, np.float64) / 7]
    if clock:
        parts.append((dates.as_unit("us").asi8 % _DAY) / _DAY)
    return [wave(2 * np.pi * part) for part in parts for wave in (np.sin, np.cos)]
