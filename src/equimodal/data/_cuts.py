"""Batches of an epoch, each cut when it is asked for: of a million rows no list is made."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor


class Cuts:
    """Rows of each batch of one process.

    Args:
        rows: (n,) whole numbers in the order of the epoch.
        starts: (B,) where each batch begins in ``rows``.
        stops: (B,) where it ends.
        share: this process, and how many share the batches; each takes every so many-th row.
        of: (N,) what ``rows`` are places in; ``None``: they are meant themselves.
    """

    def __init__(
        self, rows: Tensor, starts: Tensor, stops: Tensor, share: tuple[int, int] = (0, 1), of: Tensor | None = None
    ) -> None:
        self._rows, self._starts, self._stops, self._of = rows, starts, stops, of
        self._rank, self._processes = share

    def __len__(self) -> int:
        return len(self._starts)

    def __getitem__(self, number: int) -> Tensor:
        """(b,) rows of batch ``number``, int64."""
        own = self._rows[int(self._starts[number]) : int(self._stops[number])][self._rank :: self._processes].long()
        return own if self._of is None else self._of[own]

    def __iter__(self) -> Iterator[Tensor]:
        return (self[number] for number in range(len(self)))


def bounds(sizes: Tensor, whole: int) -> tuple[Tensor, Tensor]:
    """Where batches of ``whole`` rows begin and end in runs of rows that follow each other; none crosses two runs.

    Args:
        sizes: (R,) rows of each run.
        whole: rows per batch; the last one of a run may have fewer.

    Example:
        >>> bounds(torch.tensor([5, 2]), 2)
        (tensor([0, 2, 4, 5]), tensor([2, 4, 5, 7]))
    """
    ends = sizes.cumsum(0)
    counts = (sizes + whole - 1) // whole
    run = torch.repeat_interleave(torch.arange(len(sizes)), counts)
    within = torch.arange(len(run)) - (counts.cumsum(0) - counts)[run]
    starts = (ends - sizes)[run] + within * whole
    return starts, torch.minimum(starts + whole, ends[run])


def shuffled(count: int, generator: torch.Generator) -> Tensor:
    """(count,) a random order; the same one in 32 bits where they are enough, in a quarter of the time."""
    small = count < 1 << 31
    return torch.randperm(count, generator=generator, dtype=torch.int32 if small else torch.int64)
