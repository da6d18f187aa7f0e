"""Cells of a comparison in processes of this machine."""

from __future__ import annotations

from collections.abc import Collection
from concurrent.futures import Future
from contextlib import ExitStack
from types import TracebackType
from typing import Self

from equimodal.studies.comparisons._executor import Cell, Executor
from equimodal.studies.comparisons._workers import end_workers, run_cell, signals_waiting, worker_pool


class LocalPool(Executor):
    """Runs cells in processes with one thread each.

    Args:
        workers: the number of processes.
    """

    def __init__(self, workers: int) -> None:
        self.slots = workers
        self._block = ExitStack()

    def __enter__(self) -> Self:
        self._pool = self._block.enter_context(worker_pool(self.slots))
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """End the processes: politely, or by a kill where there is an error."""
        self._block.__exit__(kind, error, at)

    def submit(self, cell: Cell) -> Future[None]:
        """Hand the cell to a process that is free."""
        with signals_waiting():  # processes are started here
            return self._pool.submit(run_cell, cell)

    def end(self, running: Collection[Future[None]]) -> None:
        """Ask the processes to save and end, and wait until they have, or for a while."""
        end_workers(self._pool, dict.fromkeys(running))
