"""Samples that are read and decoded when a batch asks for them; what is absent is never looked at."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from equimodal.batch import Tokens, Tree
from equimodal.data._card import ModalityCard, Part
from equimodal.data._source import Array, Mask, Rows, Source
from equimodal.data._transforms import apply
from equimodal.errors import DataError

_RUN = 256  # rows that follow each other, where statistics are taken of some rows only
_PIECE = 1 << 16  # rows at most that are decoded at once when a pass over the data is made


class RowArray(ABC):
    """Samples of one modality, one per row, which are decoded when they are asked for.

    It has the attributes of an array that the checks of a card look at.

    Args:
        shape: of all samples, (N, ...).
        dtype: of what :meth:`take` returns.
        padded: samples differ in length, and :meth:`take` says which steps are real.
        statistics: training rows at most whose mean and deviation standardise the samples.
    """

    def __init__(self, shape: tuple[int, ...], dtype: npt.DTypeLike, padded: bool, statistics: int) -> None:
        self.shape, self.dtype, self.padded, self.statistics = shape, np.dtype(dtype), padded, statistics

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return len(self.shape)

    def __len__(self) -> int:
        return self.shape[0]

    @abstractmethod
    def take(self, rows: Rows) -> tuple[Array, Mask | None]:
        """Samples (B, ...) of present ``rows``, and which steps (B, T) are real if they are padded."""

    @abstractmethod
    def digest(self) -> str:
        """Equal for equal samples that are decoded in the same way."""


class RowSource(Source):
    """Prepared samples of a :class:`RowArray`."""

    def __init__(self, card: ModalityCard, array: RowArray) -> None:
        self._rows_of = array
        super().__init__(card, cast(Array, array), None, mapped=True)
        self._small = False
        self._there: Mask | None = None

    def _prepare(self, rows: Rows | slice) -> Array:
        if isinstance(rows, slice):  # only the shape is asked for
            blank = np.zeros((1, *self._rows_of.shape[1:]), self._rows_of.dtype)
            return apply(self.card.transforms, blank, self._type, own=True)
        return self._read(rows)[0]

    def _read(self, rows: Rows) -> tuple[Array, Mask | None]:
        values, real = self._rows_of.take(rows)
        if self.card.kind == "tokens" and (values < 0).any():
            bad = rows[(values < 0).reshape(len(values), -1).any(1)]
            raise DataError(
                f"modality {self.card.name!r}: expected token ids, whole numbers from 0. Found "
                f"{int(values.min())}, first dataset indices {bad[:5].tolist()}. Give ids of a vocabulary."
            )
        return apply(self.card.transforms, values, self._type, own=True), real

    def settle(self, parts: Mapping[Part, Rows], present: Mask | None) -> None:
        """Remember which rows have something, and standardise by training rows that do."""
        self._there = present
        if self.card.standardise != "none":
            train = parts["train"] if present is None else parts["train"][present[parts["train"]]]
            self._standardise(spread_runs(train, self._rows_of.statistics))

    def _check_counters(self, rows: Rows) -> None:
        """Whole numbers arrive in float64."""

    def _pieces(self, rows: Rows, plain: bool = False) -> Iterator[tuple[Rows, Array, Mask | None]]:
        step = min(_PIECE, self._step)
        for start in range(0, len(rows), step):
            piece = rows[start : start + step]
            values, real = self._read(piece)
            self._refuse("train", piece, values, real)
            yield piece, values, real

    def fetch(self, rows: Tensor) -> Tree:
        """Prepared samples (B, ...) of the dataset's ``rows`` (B,); zeros where they are absent."""
        own = rows.numpy()
        there = None if self._there is None else np.flatnonzero(self._there[own])
        if there is not None and len(there) == 0:
            return self.blank(len(own))
        values, real = self._read(own if there is None else own[there])
        made = self._finish(values, own=True)
        if there is not None and len(there) < len(own):
            made = _scattered(made, there, len(own))
            real = None if real is None else _scattered(real, there, len(own))
        found = torch.from_numpy(np.ascontiguousarray(made))
        if real is None:
            return found
        mask = torch.from_numpy(real)
        return Tokens(found.masked_fill(~mask.reshape(*mask.shape, *(1,) * (found.ndim - 2)), 0), mask)

    def blank(self, count: int) -> Tree:
        """``count`` rows of what :meth:`fetch` returns, with nothing in them: zeros, and no real step."""
        values = torch.zeros((count, *self.shape), dtype=getattr(torch, self.dtype))
        return Tokens(values, torch.zeros(count, self.shape[0], dtype=torch.bool)) if self._rows_of.padded else values


def spread_runs(rows: Rows, most: int) -> Rows:
    """At most ``most`` of sorted ``rows``: runs that follow each other, evenly over all, since these are read at once.

    Example:
        >>> spread_runs(np.arange(2000), 512)[[0, 255, 256, 511]].tolist()
        [0, 255, 1744, 1999]
    """
    if len(rows) <= most:
        return rows
    runs = max(1, most // _RUN)
    starts = np.linspace(0, len(rows) - most // runs, runs).astype(np.int64)
    return rows[np.unique(starts[:, None] + np.arange(most // runs))]


def _scattered(values: npt.NDArray[Any], places: Rows, count: int) -> npt.NDArray[Any]:
    out = np.zeros((count, *values.shape[1:]), values.dtype)
    out[places] = values
    return out
