"""Runs that are killed, and continued, in processes of their own (forked from one that has everything imported)."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

from equimodal.studies import RunConfig
from tests.processes import context


def _train(config: dict[str, Any], folder: str, stop: tuple[int, int] | None) -> None:
    """Train; at the given step of this process, send the given signal to it."""
    import torch

    from equimodal.lightning import MethodModule
    from equimodal.studies import run

    torch.set_num_threads(1)
    if stop is not None:
        original, seen = MethodModule.training_step, [0]

        def step(self: MethodModule, batch: Any, batch_idx: int) -> None:
            original(self, batch, batch_idx)
            seen[0] += 1
            if stop is not None and seen[0] == stop[0]:
                os.kill(os.getpid(), stop[1])

        MethodModule.training_step = step  # type: ignore[method-assign]
    run(RunConfig.from_dict(config), folder, resume=True, loggers=False)


def train(config: RunConfig, folder: Path, stop: tuple[int, int] | None = None) -> int:
    """Train in a new process; its exit code, negative for a signal."""
    return in_process(_train, config.to_dict(), str(folder), stop)


def in_process(function: Callable[..., None], *arguments: Any) -> int:
    """Call ``function`` in a new process and wait."""
    process = context().Process(target=function, args=arguments)
    process.start()
    process.join(300)
    if process.is_alive():
        os.kill(process.pid, signal.SIGKILL)
        process.join()
    return int(process.exitcode)
