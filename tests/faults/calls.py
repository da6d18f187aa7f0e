"""System calls that fail, one at a time: opening, writing, renaming, making, cutting and putting on the disk."""

from __future__ import annotations

import errno
import io
import os
import signal
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

_NAMES = ("fsync", "replace", "rename", "mkdir", "truncate")


class Calls:
    """Counts system calls that change files; call number ``at`` fails, a write in the middle of its bytes.

    Args:
        at: which call; 0 for none.
        kill: end the process by SIGKILL instead of raising ENOSPC.
    """

    def __init__(self, at: int = 0, *, kill: bool = False) -> None:
        self.count, self._at, self._kill = 0, at, kill

    def due(self) -> bool:
        self.count += 1
        return self.count == self._at

    def fail(self) -> None:
        if self._kill:
            os.kill(os.getpid(), signal.SIGKILL)
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    @contextmanager
    def __call__(self) -> Iterator[Calls]:
        calls, opened = self, io.open
        before = {name: getattr(os, name) for name in _NAMES}

        class Raw(io.FileIO):
            def write(self, content: Any) -> int:
                if calls.due():
                    super().write(memoryview(content)[: len(memoryview(content)) // 2])
                    calls.fail()
                return super().write(content)

        def open_(file: Any, mode: str = "r", buffering: int = -1, *rest: Any, **options: Any) -> Any:
            if "b" not in mode or not set(mode) & set("wax+"):
                if set(mode) & set("wax") and calls.due():
                    calls.fail()
                return opened(file, mode, buffering, *rest, **options)
            if calls.due():
                calls.fail()
            raw = Raw(file, mode.replace("b", ""))
            return raw if buffering == 0 else io.BufferedWriter(raw)

        def counted(call: Callable[..., Any]) -> Callable[..., Any]:
            def called(*arguments: Any, **options: Any) -> Any:
                if calls.due():
                    calls.fail()
                return call(*arguments, **options)

            return called

        io.open = open_
        for name, call in before.items():
            setattr(os, name, counted(call))
        try:
            yield self
        finally:
            io.open = opened
            for name, call in before.items():
                setattr(os, name, call)


def killed(write: Callable[[], Any], at: int) -> bool:
    """Whether a process that writes was killed in call number ``at``; ``False`` if it ended before."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about threads of this process, which the other does not have
        pid = os.fork()
    if pid == 0:
        code = 1
        try:
            with Calls(at, kill=True)():
                write()
            code = 0
        finally:
            os._exit(code)
    status = os.waitpid(pid, 0)[1]
    assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0, status
    return os.WIFSIGNALED(status)
