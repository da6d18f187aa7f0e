"""Cells as the numbers that an exported model takes: what comes before the graph, and nothing that is learnt."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from equimodal.data.tables._features import days_since_1970
from equimodal.data.tables._preparation import Preparation
from equimodal.data.tables._table import Array, Table


def raw_inputs(
    preparation: Preparation, table: Table, root: Path, modalities: set[str] | None = None
) -> dict[str, Array]:
    """Modality -> what an exported model takes of each row.

    ========= =========================================================================================================
    table     (N, K) float64, one number per column: a number as it is; the place of a category in ``values``, their
              count for one that is not there; a date as days since 1970-01-01 in UTC; NaN for an empty cell
    text      (N, L) int64, ids of the tokenizer, cut at L and padded; padding alone is an absent text
    others    float32 as :meth:`Preparation.arrays` reads them, before they are standardised; NaN in absent rows, and
              behind the last step of a sequence
    ========= =========================================================================================================

    Args:
        preparation: of the run.
        table: rows.
        root: folder that relative paths begin in.
        modalities: the others are absent in every row, and nothing of them is opened; default all.

    Raises:
        DataError: as :meth:`Preparation.arrays`.
    """
    wanted = set(preparation.modalities) if modalities is None else set(modalities)
    arrays, present = preparation.arrays(table, root, wanted)
    for name, own in preparation.modalities.items():
        if own["kind"] == "table":
            arrays[name] = np.full((len(table), len(own["state"])), np.nan)
            if present[name].any():
                arrays[name] = np.column_stack([raw_column(state, table) for state in own["state"]])
        elif own["kind"] != "text":
            arrays[name] = arrays[name].astype(np.float32)
            arrays[name][~present[name]] = np.nan
    return arrays


def raw_column(state: Mapping[str, Any], table: Table) -> Array:
    """(N,) float64: the numbers that the cells of a column are, see :func:`raw_inputs`."""
    column, kind = str(state["column"]), state["kind"]
    if kind == "category":
        texts, gaps = table.texts(column), table.empty(column)
        places = {value: i for i, value in enumerate(state["values"])}
        values: Array = np.array([places.get(text, len(places)) for text in texts], np.float64)
    elif kind == "date":
        dates, gaps = table.dates(column)
        values = np.array(days_since_1970(dates), np.float64)
    else:
        values, gaps = table.numbers(column, "Correct or empty the cell.")
    values[gaps] = np.nan
    return values
