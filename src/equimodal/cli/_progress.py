"""Progress: a live bar on a terminal, an occasional plain line elsewhere, nothing with --quiet."""

from __future__ import annotations

import os
import sys
import time
from types import TracebackType
from typing import Any, TextIO

from equimodal._utils.printing import Printed, printable


class Progress:
    """Shows how many of how many epochs, or samples, are done.

    Args:
        quiet: show nothing.
        stream: where to; results go to the standard output, so this is the standard error by default.
        pause: least seconds between two plain lines.
        unit: what is counted.
    """

    def __init__(
        self, quiet: bool = False, stream: TextIO | None = None, pause: float = 15.0, unit: str = "epochs"
    ) -> None:
        self._stream = sys.stderr if stream is None else stream
        terminal = self._stream.isatty() and os.environ.get("TERM") != "dumb"
        self._mode = "silent" if quiet else "live" if terminal else "plain"
        self._pause, self._last, self._shown = pause, float("-inf"), -1
        self._unit = unit
        self._began: tuple[float, int] | None = None
        self._bar: Any = None
        self._task: Any = None

    def __enter__(self) -> Progress:
        if self._mode == "live":
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
            from rich.progress import Progress as Bar

            self._bar = Bar(
                BarColumn(), MofNCompleteColumn(), TextColumn(self._unit), TimeElapsedColumn(), TextColumn("left"),
                TimeRemainingColumn(), TextColumn("{task.description}", markup=False),
                console=Console(file=self._stream.stream if isinstance(self._stream, Printed) else self._stream),
            )  # fmt: skip
            self._bar.start()
            self._task = self._bar.add_task("starting", total=None)
        return self

    def __call__(self, done: int, total: int, text: str) -> None:
        """``done`` of ``total`` units; ``text`` says what is running."""
        text = printable(text)
        if self._bar is not None:
            self._bar.update(self._task, completed=done, total=total, description=text)
        elif self._mode == "plain":
            now = time.monotonic()
            self._began = self._began or (now, done)
            finished = done == total and self._shown != done
            if finished or (done != self._shown and now - self._last >= self._pause):
                self._last, self._shown = now, done
                words = [f"{done}/{total} {self._unit}", text, self._left(now, done, total)]
                print("  ".join(word for word in words if word), file=self._stream, flush=True)

    def _left(self, now: float, done: int, total: int) -> str:
        """The time that is left, if what was done so far took long enough to tell."""
        begin, before = self._began or (now, done)
        if self._unit == "epochs" or done <= before or done >= total or now - begin < 1.0:
            return ""
        minutes, seconds = divmod(round((total - done) * (now - begin) / (done - before)), 60)
        return f"{minutes}:{seconds:02} left"

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()
