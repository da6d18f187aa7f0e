"""Being asked to end: SIGTERM is remembered, everything is saved, and the exit code asks to be started again."""

from __future__ import annotations

import os
import signal
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType, TracebackType
from typing import IO, Any

from equimodal.errors import DataError, EquimodalWarning, StorageError

REQUEUE = 75
"""Exit code after SIGTERM: EX_TEMPFAIL of sysexits.h, "try again later"."""

STOPPED = "SIGTERM: saved and stopped"
"""How the line begins that says so."""

PREVIOUS = "previous.ckpt"
"""The checkpoint before the newest one; gone when a run is finished."""


class Terminated(SystemExit):
    """The process was asked to end and has saved; its exit code is :data:`REQUEUE`.

    Args:
        folder: of the run or study that can be continued.
    """

    def __init__(self, folder: Path | str) -> None:
        super().__init__(REQUEUE)
        self.folder = str(folder)

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.folder,)


class Termination:
    """Remembers SIGTERM while its block runs; a second one ends the process as if nothing had been installed.

    Only in the main thread: Python hands signals to no other. Elsewhere it does nothing.

    Args:
        again: the command that continues; the outermost block names it, if it ends by SIGTERM.
    """

    def __init__(self, again: str = "the same command") -> None:
        self.requested = False
        self._again = again
        self._before: Any = None
        self._main = threading.current_thread() is threading.main_thread()

    def install(self) -> None:
        """Take the signal; again, if somebody else has taken it since."""
        if self._main:
            signal.signal(signal.SIGTERM, self._remember)

    def _remember(self, number: int, frame: FrameType | None) -> None:
        if self.requested:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            signal.raise_signal(signal.SIGTERM)
        self.requested = True

    def __enter__(self) -> Termination:
        self._before = signal.getsignal(signal.SIGTERM)
        self.install()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        if self._main:
            signal.signal(signal.SIGTERM, self._before if self._before is not None else signal.SIG_DFL)
        inside = isinstance(getattr(self._before, "__self__", None), Termination)
        if isinstance(error, Terminated) and not inside:
            warnings.warn(
                f"{STOPPED}, exit code {REQUEUE}. Continue with: {self._again}", EquimodalWarning, stacklevel=2
            )


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keep other processes out of ``folder`` while the block runs; the system lets go when the process ends.

    Raises:
        DataError: another process works there.
        StorageError: there can be no such folder, or nothing can be written to it.
    """
    path = folder / ".lock"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = _open(path)
        while not _same(file, path):  # removed by its owner between opening and locking
            file.close()
            file = _open(path)
    except OSError as error:
        raise StorageError(
            f"`{folder}`: expected a folder that can be made and written to. Found: {error.strerror or error}. Choose "
            "another folder."
        ) from error
    try:
        file.seek(0)
        file.truncate()
        file.write(f"{os.getpid()}\n")
        file.flush()
        yield
    finally:
        path.unlink(missing_ok=True)
        file.close()


def _same(file: IO[str], path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False


def _open(path: Path) -> IO[str]:
    file = path.open("a+", encoding="utf-8")
    try:
        _lock(file)
    except OSError as error:
        file.seek(0)
        owner = file.read().strip() or "unknown"
        file.close()
        raise DataError(
            f"`{path.parent}`: expected a folder that no other process works in. Found it in use by process {owner}. "
            "Wait for it, or choose another folder."
        ) from error
    return file


def _lock(file: IO[str]) -> None:
    try:
        import fcntl
    except ImportError:  # Windows
        import msvcrt

        lock: Any = msvcrt
        lock.locking(file.fileno(), lock.LK_NBLCK, 1)
        return
    fcntl.flock(file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
