"""Where the cells of a comparison run: one interface, for this process, local processes and clusters."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from equimodal.data import Dataset
from equimodal.errors import DataError
from equimodal.studies.runs import Terminated, run
from equimodal.studies.setup import DataConfig, RunConfig, build_data, trusting


class Postponed(Exception):  # noqa: N818 (no error: the cell is run again)
    """The cell was not finished where it ran, and goes on anywhere else."""


@dataclass(frozen=True)
class Cell:
    """One run of a comparison: all that it needs to be run on any machine that sees its folder and its data.

    Args:
        name: label and seed, as in ``StudyConfig.cells``.
        config: of the run.
        folder: where it leaves its results.
        data: where its data lie, which the paths of its configuration need not say.
        fingerprint: of the data; others are refused.
        loggers: use the loggers that ``config`` names.
        modules: names of modules that may be imported, see :func:`equimodal.studies.trusting`.
    """

    name: str
    config: RunConfig
    folder: Path
    data: DataConfig
    fingerprint: str
    loggers: bool = False
    modules: tuple[str, ...] = ()

    def run(self, data: Dataset | None = None) -> None:
        """Train it, from its last whole epoch where it was begun; a finished one is not run again.

        Args:
            data: the dataset, if it is loaded already.

        Raises:
            DataError: the data found here are not those of the comparison, or another process works in the folder.
            Terminated: after SIGTERM; everything is saved.
        """
        with trusting(self.modules):
            data = build_data(self.data) if data is None else data
            if data.fingerprint != self.fingerprint:
                raise DataError(
                    f"`{self.data.name}`: expected the data of the comparison (fingerprint {self.fingerprint[:12]}). "
                    f"Found others ({data.fingerprint[:12]}). Bring the same files onto every machine."
                )
            run(self.config, self.folder, resume=True, loggers=self.loggers, data=data)


class Executor(ABC):
    """Runs cells of a comparison somewhere; a context manager that is entered while there are cells.

    Leaving the block by an exception ends what still runs.

    Args:
        slots: how many cells it is given at a time; more would wait in it.
        arguments: of ``equimodal compare`` that choose it, for the line that says how to continue.
    """

    slots: int = 1
    arguments: str = ""

    @abstractmethod
    def submit(self, cell: Cell) -> Future[None]:
        """Begin to run a cell; its future ends as :meth:`Cell.run` does, also with ``SystemExit``."""

    def wait(self, running: Collection[Future[None]], timeout: float) -> Collection[Future[None]]:
        """Those of ``running`` that have ended, as soon as there is one; none after ``timeout`` seconds."""
        return wait(running, timeout, FIRST_COMPLETED).done

    @abstractmethod
    def end(self, running: Collection[Future[None]]) -> None:
        """Ask the cells to save and end, and wait until they have, or for a while."""

    def __enter__(self) -> Self:
        return self

    def __exit__(  # noqa: B027 (an executor that holds nothing need not have one)
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        """Let go of what runs the cells."""


class InProcess(Executor):
    """Runs each cell here, when it is submitted.

    Args:
        data: the dataset, which is loaded already.
        advance: told the name of the cell and its epochs so far.
    """

    def __init__(self, data: Dataset, advance: Callable[[str, int], None]) -> None:
        self._data = data
        self._advance = advance

    def submit(self, cell: Cell) -> Future[None]:
        """Run the cell; the future has ended."""

        def progress(event: Mapping[str, Any]) -> None:
            self._advance(cell.name, event["epoch"])

        future: Future[None] = Future()
        try:
            run(cell.config, cell.folder, resume=True, progress=progress, loggers=cell.loggers, data=self._data)
            future.set_result(None)
        except (Exception, Terminated) as error:  # noqa: BLE001 (the future raises it)
            future.set_exception(error)
        return future

    def end(self, running: Collection[Future[None]]) -> None:
        """Nothing runs after :meth:`submit`."""
