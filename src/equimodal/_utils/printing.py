"""Text that comes from data, for terminals, tables and spreadsheets."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from typing import Any, TextIO

_FORMULA = ("=", "+", "-", "@", "\t", "\r")


def printable(text: str) -> str:
    r"""``text`` on one line, without characters that change what a terminal or a reader sees of the rest.

    That is: control characters and escape sequences, marks of the writing direction, invisible and unassigned ones.

    Example:
        >>> printable("a\x1b[31mb\nc")
        'a [31mb c'
    """
    return "".join(c if c.isprintable() else " " for c in text).strip()


def printable_lines(text: str) -> str:
    """As :func:`printable`, line by line."""
    return "".join(c if c.isprintable() or c in "\n\t" else " " for c in text)


def table_cell(text: str) -> str:
    """A text of a table in a file: on one line, and no formula where a spreadsheet opens it.

    Example:
        >>> table_cell("=1+1"), table_cell("yes")
        ("'=1+1", 'yes')
    """
    clean = printable(text)
    return f"'{clean}" if text.startswith(_FORMULA) or clean.startswith(_FORMULA) else clean


class Printed:
    """A stream for people, to which only printable text gets; everything else is the stream's own.

    Args:
        stream: such as the standard output.
    """

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream

    def write(self, text: str) -> int:
        """Write ``text`` as :func:`printable_lines` gives it."""
        return self.stream.write(printable_lines(text))

    def writelines(self, lines: Any) -> None:
        """Write each of ``lines``."""
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)


@contextlib.contextmanager
def printed_streams() -> Iterator[None]:
    """Put :class:`Printed` in the place of both standard streams; for one that is closed, a stream to nowhere."""
    before = sys.stdout, sys.stderr
    with contextlib.ExitStack() as stack:
        found = [s or stack.enter_context(open(os.devnull, "w", encoding="utf-8")) for s in before]  # noqa: PTH123
        sys.stdout, sys.stderr = (Printed(s) for s in found)
        try:
            yield
        finally:
            sys.stdout, sys.stderr = before
