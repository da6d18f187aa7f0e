"""Processes for tests, forked from a server that has imported what they need; a fresh interpreter takes seconds."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from typing import Any

_PRELOADED = ["pytest", "equimodal.studies.runs._checkpoint", "tests.features.killed", "tests.helpers"]


def context() -> Any:
    """The start method of tests. The server starts with the first process and never trains, so it has no threads."""
    found = multiprocessing.get_context("forkserver")
    found.set_forkserver_preload(_PRELOADED)
    return found


def together(function: Callable[..., None], *arguments: Any, count: int = 2) -> None:
    """Call ``function(number, *arguments)`` in ``count`` processes and wait; an error in one of them is raised here."""
    import torch.multiprocessing as mp

    context()
    mp.start_processes(  # type: ignore[attr-defined, no-untyped-call]
        function, args=arguments, nprocs=count, start_method="forkserver"
    )
