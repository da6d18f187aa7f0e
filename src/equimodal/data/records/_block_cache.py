"""Blocks of rows that were read last, as arrays of which the rows of a batch are gathered at once."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from equimodal.data.records._reader import Array, Mask, Rows

_ABSENT = -(1 << 62)


@dataclass(frozen=True)
class Block:
    """Contents of one block.

    Args:
        filled: (n,) which rows have something.
        values: (k, ...) numbers of the k filled rows; ``None`` where contents are decoded when they are asked for.
        real: (k, T) which of their steps are real, where they differ in length.
        content: gives one of the n contents by its place, where there are no ``values``.
    """

    filled: Mask
    values: Array | None = None
    real: Mask | None = None
    content: Callable[[int], Any] | None = None


class BlockCache:
    """The blocks that were used last; one that a batch needs is read at most once for it.

    Numbers of all blocks are in one array, with a slot of equal size for each.

    Args:
        starts: (B + 1,) where blocks begin.
        read: gives a block by its number.
        general: type that all numbers can be given in, where blocks have several.
    """

    def __init__(self, starts: Rows, read: Callable[[int], Block], general: np.dtype[Any]) -> None:
        self._starts, self._read, self._general = starts, read, general
        self._size = int(np.diff(starts).max(initial=1))
        self.resize(1)

    def resize(self, count: int) -> None:
        """Keep ``count`` blocks, and forget those that are there."""
        self._base = np.full(len(self._starts), _ABSENT)  # what makes of a row of a block its place in the arrays
        self._block = np.full(count, -1)  # of each slot; -1: empty
        self._used, self._now = np.full(count, -1), 0  # row that each slot was used for last, counted from the start
        self._filled = np.zeros(0, bool)
        self._values: Array | None = None
        self._real: Mask | None = None
        self._contents: dict[int, Callable[[int], Any]] = {}  # slot -> contents that are no numbers yet

    def __getstate__(self) -> dict[str, Any]:
        """The state for another process, which reads its own blocks."""
        own = BlockCache(self._starts, self._read, self._general)
        own.resize(len(self._block))
        return own.__dict__

    def gathers(self, rows: Rows) -> Iterator[tuple[Rows | None, Rows, bool]]:
        """Parts of ``rows``: which (``None``: all), their places for the methods below, and whether these are numbers.

        What is kept comes first, and blocks leave in the order of their last rows: a batch that is the last of some
        blocks and the first of others reads none again, nor does the next one.
        """
        if not len(rows):
            return
        owner = np.searchsorted(self._starts, rows, side="right") - 1
        places = self._base[owner] + rows
        there, begin = places >= 0, self._now
        self._now += len(rows)
        if there.all():
            yield from self._parts(None, places, begin)
            return
        if there.any():
            yield from self._parts(np.flatnonzero(there), places[there], begin)
        missing = np.flatnonzero(~there)
        missing = missing[owner[missing].argsort(kind="stable")]
        groups = np.split(missing, np.flatnonzero(np.diff(owner[missing])) + 1)
        for which in sorted(groups, key=lambda own: int(own[-1])):
            number = int(owner[which[0]])
            self._load(number)
            own = rows[which] + self._base[number]
            yield from self._parts(None if len(which) == len(rows) else which, own, begin)

    def _parts(self, which: Rows | None, places: Rows, begin: int) -> Iterator[tuple[Rows | None, Rows, bool]]:
        """The rows whose blocks are kept as numbers, and the others."""
        slots = places // self._size
        self._used[slots] = begin + (np.arange(len(places)) if which is None else which)  # the last row of each
        if not self._contents or len(self._contents) == np.count_nonzero(self._block >= 0):
            yield which, places, not self._contents
            return
        numeric = ~np.isin(slots, list(self._contents))
        for flag in (True, False):
            own = np.flatnonzero(numeric == flag)
            if len(own):
                yield (own if which is None else which[own]), places[own], flag

    def filled(self, places: Rows) -> Mask:
        """(n,) whether something is at ``places``."""
        return self._filled[places]

    def numbers(self, places: Rows) -> tuple[Array, Mask | None]:
        """Numbers (n, ...) at ``places``, and which of their steps are real."""
        if self._values is None:
            raise IndexError("no block of numbers")
        return self._values.take(places, 0, mode="clip"), None if self._real is None else self._real[places]

    def contents(self, places: Rows) -> list[Any]:
        """The contents at ``places``."""
        slots, own = np.divmod(places, self._size)
        return [self._contents[slot](place) for slot, place in zip(slots.tolist(), own.tolist(), strict=True)]

    def _load(self, number: int) -> None:
        """Read a block into the slot that was not used for the longest time."""
        slot = int(self._used.argmin())
        if self._block[slot] >= 0:
            self._base[self._block[slot]] = _ABSENT
            self._block[slot] = -1
            self._contents.pop(slot, None)
        block = self._read(number)
        begin, length = slot * self._size, len(block.filled)
        if not len(self._filled):
            self._filled = np.zeros(len(self._block) * self._size, bool)
        self._filled[begin : begin + length] = block.filled
        if block.values is None:
            if block.content is not None:
                self._contents[slot] = block.content
        else:
            where = slice(begin, begin + length) if block.filled.all() else begin + np.flatnonzero(block.filled)
            self._room_for(block.values)[where] = block.values
            if block.real is not None:
                if self._real is None:
                    self._real = np.zeros((len(self._filled), *block.real.shape[1:]), bool)
                self._real[where] = block.real
        self._block[slot], self._base[number] = number, begin - self._starts[number]

    def _room_for(self, values: Array) -> Array:
        """An array for the numbers of all slots, which holds these exactly."""
        kind = values.dtype.newbyteorder("=")
        if self._values is None:
            self._values = np.empty((len(self._filled), *values.shape[1:]), kind)
        elif self._values.dtype != kind:  # files of one collection may differ
            self._values = self._values.astype(self._general, copy=False)
        return self._values
