"""The processes that run the cells of a comparison."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import warnings
from collections.abc import Mapping
from concurrent.futures import Future, ProcessPoolExecutor, wait
from multiprocessing import connection
from typing import Any

import torch

from equimodal.studies.runs import STOPPED, Terminated, run
from equimodal.studies.setup import RunConfig


def end_workers(pool: ProcessPoolExecutor, running: Mapping[Future[None], str]) -> None:
    """Ask the workers to save and end, and wait until they have."""
    for future in running:
        future.cancel()
    for process in list((pool._processes or {}).values()):
        process.terminate()
    wait(running)


def prepare_worker() -> None:
    """One thread; Ctrl-C is the parent's to handle; and no worker outlives its parent, however that ended."""
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore", STOPPED)  # the parent says so, once and for the whole comparison
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # a run listens to it, and there is nothing to save between runs
    parent = multiprocessing.parent_process()

    def follow() -> None:
        if parent is not None:
            connection.wait([parent.sentinel])
            os._exit(1)

    threading.Thread(target=follow, daemon=True).start()


_ended: list[Terminated] = []  # in a worker: it was asked to end, and takes no further cell


def run_cell(config: dict[str, Any], folder: str, loggers: bool) -> None:
    try:
        if not _ended:
            run(RunConfig.from_dict(config), folder, resume=True, loggers=loggers)
    except Terminated as stop:
        _ended.append(stop)
    if _ended:
        raise _ended[0]
