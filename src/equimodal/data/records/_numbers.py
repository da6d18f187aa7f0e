"""Columns of single numbers that make one vector."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from equimodal.data.records._contents import Contents
from equimodal.data.records._reader import Array, Rows
from equimodal.errors import DataError


class NumberColumns:
    """Samples of a vector whose numbers are in columns of their own; they are kept in memory or in a cache.

    Args:
        columns: contents of each column, of the same rows.

    Raises:
        DataError: a column that does not hold single numbers.
    """

    plain, padded = True, False

    def __init__(self, columns: Sequence[Contents]) -> None:
        self._columns = columns
        for own in columns:
            if not own.plain or own.shape[1:] != (1,):
                raise DataError(
                    f"{own.where}: expected single numbers, since several columns make one vector. Found contents of "
                    f"shape {own.shape[1:]}. Make it a modality of its own."
                )
        self.shape = (len(columns[0]), len(columns))
        self.element = np.result_type(*(own.element for own in columns))

    def __len__(self) -> int:
        return self.shape[0]

    def pieces(self) -> Iterator[tuple[Array, Rows]]:
        """All samples in order, zeros where they are absent; and their lengths, which say nothing."""
        for found in zip(*(own.pieces() for own in self._columns), strict=True):
            yield np.concatenate([values for values, _ in found], axis=1), found[0][1]

    def text(self) -> str:
        """Equal for contents of equal collections."""
        return "+".join(own.text() for own in self._columns)
