"""Being asked to end: SIGTERM is remembered, everything is saved, and the exit code asks to be started again."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any

from equimodal._utils.outside import check_folder
from equimodal.errors import DataError, EquimodalWarning, StorageError, missing_extra

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


class InUseError(DataError):
    """Another process works in a folder."""


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
        outer = self._outer
        self.requested = self.requested or (outer is not None and outer.requested)
        return self

    @property
    def _outer(self) -> Termination | None:
        """The block around this one."""
        owner = getattr(self._before, "__self__", None)
        return owner if isinstance(owner, Termination) else None

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        if self._main:
            signal.signal(signal.SIGTERM, self._before if self._before is not None else signal.SIG_DFL)
        outer = self._outer
        if outer is not None:  # also where this block had nothing left to save
            outer.requested = outer.requested or self.requested
        if isinstance(error, Terminated) and outer is None:
            warnings.warn(
                f"{STOPPED}, exit code {REQUEUE}. Continue with: {self._again}", EquimodalWarning, stacklevel=2
            )


@contextmanager
def locked(folder: Path, patience: float = 0.2) -> Iterator[None]:
    """Keep other processes out of ``folder`` while the block runs; the system lets go when the process ends.

    Args:
        folder: made where it is not there.
        patience: seconds to wait for another process; with 0, a file that its owner has just removed looks locked.

    Raises:
        InUseError: another process works there.
        StorageError: there can be no such folder, or nothing can be written to it.
    """
    try:
        from filelock import FileLock, Timeout
    except ImportError as error:
        raise missing_extra("filelock", "cli", "Keeping other processes out of a folder") from error
    check_folder(folder)
    path = folder / ".lock"
    lock = FileLock(path, timeout=patience, poll_interval=0.02)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock.acquire()
        path.write_text(f"{os.getpid()}\n", encoding="utf-8")
    except Timeout as error:
        raise InUseError(
            f"`{folder}`: expected a folder that no other process works in. Found it in use by process "
            f"{_owner(path)}. Wait for it, or choose another folder."
        ) from error
    except OSError as error:
        lock.release()
        raise StorageError(
            f"`{folder}`: expected a folder that can be made and written to. Found: {error.strerror or error}. Choose "
            "another folder."
        ) from error
    try:
        yield
    finally:
        with contextlib.suppress(OSError):  # Windows removes no file that is open
            path.unlink(missing_ok=True)
        lock.release()


def in_use(folder: Path) -> bool:
    """Whether a process works in ``folder``; one that was killed does not."""
    if not (folder / ".lock").exists():
        return False
    try:
        with locked(folder, 0):
            return False
    except InUseError:
        return True


def _owner(path: Path) -> str:
    """The process that holds the lock, as it wrote into the file."""
    with contextlib.suppress(OSError):
        return path.read_text(encoding="utf-8").strip() or "unknown"
    return "unknown"
