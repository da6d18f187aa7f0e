"""Cells of a comparison in processes of this machine."""

from __future__ import annotations

from collections.abc import Collection
from concurrent.futures import Future
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Self

from equimodal.studies.comparisons._executor import Cell, Executor
from equimodal.studies.comparisons._workers import run_cell, worker_pool
from equimodal.studies.runs import Termination


class LocalPool(Executor):
    """Runs cells in processes with one thread each, see :class:`WorkerPool`.

    Args:
        workers: the number of processes.
        termination: says whether this process was asked to end.
        folder: of the comparison.
    """

    def __init__(self, workers: int, termination: Termination, folder: Path) -> None:
        self.slots = workers
        self._made_of = workers, termination, folder
        self._block = ExitStack()

    def __enter__(self) -> Self:
        self._pool = self._block.enter_context(worker_pool(*self._made_of))
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """End the processes: politely, or by a kill where there is an error."""
        self._block.__exit__(kind, error, at)

    def submit(self, cell: Cell) -> Future[None]:
        """Hand the cell to a process that is free."""
        return self._pool.submit(run_cell, cell)

    def wait(self, running: Collection[Future[None]], timeout: float) -> Collection[Future[None]]:
        """Those that have ended; the pool ends all of them when this process, or one of its own, was asked to end."""
        return self._pool.wait(timeout)

    def end(self, running: Collection[Future[None]]) -> None:
        """Ask the processes to save and end, and wait until they have, or for a while."""
        self._pool.end()
