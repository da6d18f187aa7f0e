"""Running what is not finished of a comparison, the cells that others use first, beside other processes or alone."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from pathlib import Path

from equimodal.errors import DataError, EquimodalError
from equimodal.studies.comparisons._executor import Cell, Executor, Postponed
from equimodal.studies.comparisons._schedule import Schedule
from equimodal.studies.comparisons._twins import take_over
from equimodal.studies.runs import InUseError, Terminated, Termination, check_config, epochs_done, in_use, is_finished
from equimodal.studies.runs import verify as verify_files

TICK = 0.5
"""Seconds between two looks at what runs."""
ARRIVAL = 60.0
"""Seconds after which the files of another machine must be here; network folders keep what they saw for a while."""


class Tally:
    """Epochs of a comparison that are done, and what is told of them.

    Args:
        total: epochs of each cell.
        progress: called with (epochs done, epochs in all, what is running).
    """

    def __init__(self, total: Mapping[str, int], progress: Callable[[int, int, str], None] | None) -> None:
        self._total = dict(total)
        self._done = dict.fromkeys(total, 0)
        self._progress = progress

    def end(self, cell: str) -> None:
        """The cell has none left."""
        self._done[cell] = self._total[cell]

    def advance(self, cell: str, epochs: int) -> None:
        """The cell has done so many."""
        self._done[cell] = epochs
        self.tell(cell)

    def read(self, cell: Cell) -> None:
        """Look up how many a cell has done that runs elsewhere."""
        self._done[cell.name] = epochs_done(cell.folder)

    def tell(self, what: str) -> None:
        """Say where things stand."""
        if self._progress is not None:
            self._progress(sum(self._done.values()), sum(self._total.values()), what)


def run_cells(
    cells: Mapping[str, Cell],
    schedule: Schedule,
    executor: Executor,
    tally: Tally,
    termination: Termination,
    folder: Path,
    twins: Mapping[str, Path] | None = None,
) -> None:
    """Run the cells of ``schedule``, which notes what failed.

    A cell that another process runs is waited for, and not run again if it ends well.

    Args:
        cells: name -> cell.
        schedule: what is to run, and in which order.
        executor: where.
        tally: told of every epoch.
        termination: whether to end.
        folder: of the comparison.
        twins: cell -> folder of one of equal configuration, whose records it takes over if it is finished.

    Raises:
        EquimodalError: the executor cannot run anything.
        Terminated: after SIGTERM; running cells are saved.
    """
    twins = {} if twins is None else twins
    running: dict[Future[None], str] = {}
    ready: list[str] = []
    elsewhere: list[str] = []  # another process runs them

    def end(cell: str, failure: BaseException | None) -> None:
        for ended in schedule.finish(cell, failure):
            tally.end(ended)

    tally.tell("")
    with executor:
        termination.install()
        while True:
            if len(ready) < executor.slots:
                ready += schedule.take()
            if not ready and not running and not elsewhere:
                return
            ready, elsewhere = [*ready, *elsewhere], []
            while ready and len(running) < executor.slots and not termination.requested:
                cell = cells[ready.pop(0)]
                if is_finished(cell.folder):
                    end(cell.name, _what_is_wrong(cell))
                elif in_use(cell.folder):
                    elsewhere.append(cell.name)
                elif (twin := twins.get(cell.name)) and is_finished(twin) and take_over(twin, cell.folder):
                    end(cell.name, _what_is_wrong(cell))
                else:
                    running[executor.submit(cell)] = cell.name
            if termination.requested:
                executor.end(running)
                raise Terminated(folder)
            if elsewhere and not running:
                time.sleep(TICK)
            name = ""
            for future in executor.wait(running, TICK) if running else ():
                name, failure = running.pop(future), future.exception()
                if isinstance(failure, Terminated):  # a worker was asked to end, this process not (yet)
                    executor.end(running)
                    raise Terminated(folder)
                if isinstance(failure, (InUseError, Postponed)):  # another process was faster, or its machine is gone
                    elsewhere.append(name)
                    continue
                end(name, _not_arrived(cells[name]) if failure is None else failure)
            for other in running.values():
                tally.read(cells[other])
            tally.tell(next(iter(running.values()), name))


def _what_is_wrong(cell: Cell) -> EquimodalError | None:
    """Of a run that another process has finished."""
    try:
        verify_files(cell.folder)
        check_config(cell.config, cell.folder)
    except EquimodalError as error:
        return error
    return None


def _not_arrived(cell: Cell) -> DataError | None:
    """The error of a cell whose results are not here although it has ended well."""
    deadline = time.monotonic() + ARRIVAL
    while not is_finished(cell.folder):
        if time.monotonic() > deadline:
            return DataError(
                f"`{cell.folder}`: expected the results of {cell.name!r}, which ended well. Found none here. Name a "
                "folder that all machines share, under the same path."
            )
        time.sleep(TICK)
        if cell.folder.is_dir():
            list(cell.folder.iterdir())  # makes a network folder look again
    return None
