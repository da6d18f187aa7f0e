"""The processes that run the cells of a comparison: started once, from a server that has imported what they need."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import signal
import threading
import time
import traceback
import warnings
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from multiprocessing import connection
from pathlib import Path
from typing import Any

import torch

from equimodal.data import Dataset
from equimodal.errors import EquimodalError
from equimodal.studies.comparisons._executor import Cell
from equimodal.studies.runs import STOPPED, Terminated, Termination, process_context
from equimodal.studies.setup import DataConfig, build_data

PATIENCE = 20.0
"""Seconds that workers have to save and end; then they are killed, which costs what they did since they saved last."""

CELLS = 50
"""Cells after which a worker makes room for a fresh one, whatever its memory has become."""

_UNSTARTED = (
    "A worker process died while it started ({}): out of memory, or a script without `if __name__ == '__main__':` "
    "around its calls. What is finished is kept: call again with the same folder, and with fewer workers."
)


class WorkerDiedError(EquimodalError):
    """The process of a task has ended without an answer."""


class _Worker:
    """A process with its end of a pipe.

    Args:
        context: how processes are started.
    """

    def __init__(self, context: Any) -> None:
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=_serve, args=(theirs, dict(os.environ)))
        try:
            self.process.start()
        except (OSError, EOFError) as error:  # the server from which it is started has died
            raise WorkerDiedError(_UNSTARTED.format(error)) from error
        theirs.close()  # only the process holds it now, so that its end is seen
        self.ready = False
        self.task: Future[Any] | None = None
        self.done = 0

    def end(self) -> None:
        """Let it go; it ends by itself when it has nothing to do."""
        self.pipe.close()


class WorkerPool:
    """Processes with one thread each, which do one task after the other.

    A process that dies takes its task with it: :class:`WorkerDiedError` is what the task has come to, and another
    process is started. After :data:`CELLS` tasks a process is replaced as well.

    Args:
        count: of the processes.
        termination: says whether this process was asked to end.
        folder: of what can be continued then.
    """

    def __init__(self, count: int, termination: Termination, folder: Path) -> None:
        self._context, self._count = process_context(), count
        self._termination, self._folder = termination, folder
        self._waiting: deque[tuple[Future[Any], Any]] = deque()
        self._workers: list[_Worker] = []
        self._replaced: list[_Worker] = []

    def submit(self, function: Callable[..., Any], *arguments: Any) -> Future[Any]:
        """Have a process call a function; :meth:`wait` hands the tasks out, in this order."""
        future: Future[Any] = Future()
        self._waiting.append((future, (function, arguments)))
        return future

    @property
    def running(self) -> list[Future[Any]]:
        """The tasks that a process has begun."""
        return [worker.task for worker in self._workers if worker.task is not None]

    def wait(self, timeout: float = 0.5) -> list[Future[Any]]:
        """The tasks that were done meanwhile; returns early with the first ones.

        Args:
            timeout: seconds to wait for some.

        Raises:
            Terminated: this process or one of its workers was asked to end; all of them have saved and ended.
            WorkerDiedError: a process has died before it could take any task, as others would.
        """
        found: list[Future[Any]] = []
        deadline = time.monotonic() + timeout
        try:
            self._hand_out()
            while not found and not self._termination.requested:
                found = self._answers(max(0.0, deadline - time.monotonic()))
                self._hand_out()
                if time.monotonic() >= deadline:
                    break
        except WorkerDiedError:
            if not self._is_asked_soon():
                raise
        if self._termination.requested or any(isinstance(f.exception(), Terminated) for f in found):
            self.end()
            raise Terminated(self._folder)
        return found

    def _is_asked_soon(self) -> bool:
        """Whether this process is asked to end, too: a signal to all comes to one of them first."""
        deadline = time.monotonic() + 1.0
        while time.monotonic() < deadline and not self._termination.requested:
            time.sleep(0.05)
        return self._termination.requested

    def end(self) -> None:
        """Ask the processes to save and end, and wait until they have, or for :data:`PATIENCE` seconds."""
        self._waiting.clear()
        deadline = time.monotonic() + PATIENCE
        for worker in self._workers:
            if worker.task is not None:
                worker.process.terminate()
        with suppress(WorkerDiedError):
            while self.running and time.monotonic() < deadline:
                self._answers(0.2)
        self.kill()

    def close(self) -> None:
        """Let all processes go, and wait until they have ended."""
        for worker in self._workers:
            worker.end()
        for worker in (*self._workers, *self._replaced):
            worker.process.join(PATIENCE)
        self.kill()

    def kill(self) -> None:
        """End all processes at once; every file is whole at any moment."""
        every = [*self._workers, *self._replaced]
        self._workers, self._replaced = [], []
        for worker in every:
            worker.process.kill()
            worker.end()
        for worker in every:
            worker.process.join(1.0)

    def _hand_out(self) -> None:
        for worker in self._workers:
            if worker.done >= CELLS and worker.task is None:
                worker.end()
                self._replaced.append(worker)
        self._workers = [w for w in self._workers if not w.pipe.closed]
        while len(self._workers) < min(self._count, len(self._waiting) + len(self.running)):
            self._workers.append(_Worker(self._context))
        for worker in self._workers:
            if worker.ready and worker.task is None and self._waiting:
                future, task = self._waiting.popleft()
                with suppress(OSError):  # it has just died, which the next answer tells
                    worker.pipe.send(task)
                worker.task = future

    def _answers(self, timeout: float) -> list[Future[Any]]:
        found = []
        for pipe in connection.wait([w.pipe for w in self._workers], timeout):
            worker = next(w for w in self._workers if w.pipe is pipe)
            try:
                kind, content = worker.pipe.recv()
            except (EOFError, OSError):
                kind, content = "died", self._lost(worker)
            if kind == "ready":
                worker.ready = True
                continue
            future, worker.task, worker.done = worker.task, None, worker.done + 1
            if future is None:
                continue  # it has died while it waited
            if kind == "done":
                future.set_result(content)
            else:
                future.set_exception(content)
            found.append(future)
        return found

    def _lost(self, worker: _Worker) -> WorkerDiedError:
        """A process has ended by itself."""
        self._workers.remove(worker)
        worker.end()
        worker.process.join(1.0)
        code = worker.process.exitcode
        if not worker.ready:
            raise WorkerDiedError(_UNSTARTED.format(f"exit code {code}"))
        return WorkerDiedError(
            f"its process died (exit code {code}), as where memory runs out. Call again with the same folder, and with "
            "fewer workers"
        )


@contextmanager
def worker_pool(count: int, termination: Termination, folder: Path) -> Iterator[WorkerPool]:
    """A :class:`WorkerPool`, whose processes are killed where the block does not end well."""
    threads = os.environ.get("OMP_NUM_THREADS")
    os.environ["OMP_NUM_THREADS"] = "1"
    pool = WorkerPool(count, termination, folder)
    try:
        yield pool
        pool.close()
    finally:
        pool.kill()
        if threads is None:
            del os.environ["OMP_NUM_THREADS"]
        else:
            os.environ["OMP_NUM_THREADS"] = threads


def _serve(pipe: Any, environment: Mapping[str, str]) -> None:
    """What a worker does: one task after the other, until nobody is there to give it another one."""
    os.environ.clear()  # the server has that of its own start
    os.environ.update(environment)
    _prepare()
    pipe.send(("ready", None))
    while True:
        try:
            function, arguments = pipe.recv()
            answer = ("done", function(*arguments))
        except EOFError:
            return
        except (Exception, SystemExit) as error:  # noqa: BLE001 (told to the one who asked)
            answer = ("failed", _told(error))
        try:
            pipe.send(answer)
        except OSError:
            return
        except Exception as error:  # noqa: BLE001 (no value that travels)
            pipe.send(("failed", _told(error)))


def _told(error: BaseException) -> BaseException:
    """An exception with its traceback as a note; another one where it could not be made again from what travels."""
    try:
        error.add_note("".join(traceback.format_exception(error)))
        pickle.loads(pickle.dumps(error))  # noqa: S301 (of this process)
    except Exception:  # noqa: BLE001 (an exception of anybody's class)
        return RuntimeError(f"{type(error).__name__}: {error}")
    return error


def _prepare() -> None:
    """One thread; Ctrl-C is the parent's to handle; and no worker outlives its parent, however that ended."""
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore", STOPPED)  # the parent says so, once and for the whole comparison
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _termination.install()
    parent = multiprocessing.parent_process()

    def follow() -> None:
        if parent is not None:
            connection.wait([parent.sentinel])
            os._exit(1)

    threading.Thread(target=follow, daemon=True).start()


_termination = Termination()
"""In a worker: after it was asked to end it takes no further cell."""


def run_cell(cell: Cell) -> None:
    """One cell, unless this worker was asked to end."""
    if _termination.requested:
        raise Terminated(cell.folder)
    cell.run(_dataset(cell.data))


_known: list[tuple[DataConfig, Dataset]] = []
"""In a worker: the data of the comparison, which are read once."""


def _dataset(config: DataConfig) -> Dataset:
    if not _known or _known[0][0] != config:
        _known[:] = [(config, build_data(config))]
    return _known[0][1]
