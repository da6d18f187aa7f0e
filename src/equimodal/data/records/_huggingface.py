"""Datasets of Hugging Face's library ``datasets``, which lie on disk as Arrow; nothing of theirs is decoded."""

from __future__ import annotations

from typing import Any

import numpy as np

from equimodal.data.records._arrow import AbsentError, Names, filled, one_array, single_values
from equimodal.data.records._reader import Array, Mask, Reader, Rows

_PIECE = 1 << 16  # rows that are looked at together where gaps are looked for


class HuggingFaceReader(Reader):
    """A ``datasets.Dataset``, also one that was filtered, shuffled or selected from."""

    def __init__(self, dataset: Any, where: str = "`rows`") -> None:
        super().__init__(where, dataset.column_names, len(dataset))
        self._dataset = dataset.with_format("arrow")
        self._single: dict[str, Any] = {}

    def _column(self, column: str, rows: Any) -> Any:
        if column not in self._single:
            self._single[column] = self._dataset.select_columns([column])
        return one_array(self._single[column][rows].column(0))

    def take(self, column: str, rows: Rows) -> Any:
        return self._column(column, rows)

    def present(self, column: str) -> Mask:
        pieces = [self._column(column, slice(s, s + _PIECE)) for s in range(0, self.count, _PIECE)]
        return np.concatenate([filled(piece) for piece in pieces])

    def _values(self, column: str) -> tuple[Names, Array]:
        array = self._column(column, slice(0, self.count))
        if array.null_count:
            raise AbsentError(np.flatnonzero(~array.is_valid().to_numpy(zero_copy_only=False)))
        names = getattr(self._dataset.features[column], "names", None)
        own, found = single_values(array)
        if names is not None and (found < 0).any():  # what the hub writes for a label that is not known
            raise AbsentError(np.flatnonzero(found < 0))
        return own if names is None else tuple(names), found

    def stamp(self) -> str | None:
        return getattr(self._dataset, "_fingerprint", None)
