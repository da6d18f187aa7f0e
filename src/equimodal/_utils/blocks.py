"""Blocks of code with something before and after them, for steps, where a generator would cost as much as a kernel."""

from __future__ import annotations

import contextlib
from collections.abc import Callable

NOTHING: contextlib.AbstractContextManager[None] = contextlib.nullcontext()
"""Nothing before and nothing after; one object serves all."""


class Around:
    """Calls one function before a block and another after it, also after an exception, which goes on.

    Args:
        before: called at the start; if it raises, the block is not entered and ``after`` is not called.
        after: called at the end.
        arguments: of ``before``.

    Example:
        >>> with Around(lambda: print("before"), lambda: print("after")):
        ...     print("inside")
        before
        inside
        after
    """

    def __init__(self, before: Callable[..., object], after: Callable[[], object], *arguments: object) -> None:
        self._before, self._after, self._arguments = before, after, arguments

    def __enter__(self) -> None:
        self._before(*self._arguments)

    def __exit__(self, *error: object) -> None:
        self._after()
