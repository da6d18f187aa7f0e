"""Processes for tests, forked from a server that has imported what they need; a fresh interpreter takes seconds."""

from __future__ import annotations

import multiprocessing
import sys
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
        _measured, args=(_measurement(), function, arguments), nprocs=count, start_method="forkserver"
    )


def _measurement() -> tuple[str, str] | None:
    """Data file and settings of the measurement of lines in this process, if there is one."""
    coverage: Any = sys.modules.get("coverage")
    current = None if coverage is None else coverage.Coverage.current()
    return None if current is None else (current.get_data().base_filename(), current.config.config_file)


def _measured(
    number: int, measurement: tuple[str, str] | None, function: Callable[..., None], arguments: tuple[Any, ...]
) -> None:
    """Call the function; its lines count as those of the process that waits for it."""
    if measurement is None:
        function(number, *arguments)
        return
    from coverage import Coverage

    file, settings = measurement
    lines = Coverage(data_file=file, data_suffix=True, config_file=settings)
    lines.start()
    try:
        function(number, *arguments)
    finally:
        lines.stop()
        lines.save()
