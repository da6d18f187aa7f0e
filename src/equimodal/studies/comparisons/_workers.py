"""The processes that run the cells of a comparison."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import warnings
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ProcessPoolExecutor, wait
from contextlib import contextmanager
from multiprocessing import connection
from typing import Any

import torch

from equimodal.studies.runs import STOPPED, Terminated, run
from equimodal.studies.setup import RunConfig


@contextmanager
def worker_pool(count: int) -> Iterator[ProcessPoolExecutor]:
    """Processes with one thread each, which are killed where the block does not end well."""
    # spawned processes start clean: no threads or generators are inherited half-way
    context = multiprocessing.get_context("spawn")
    threads = os.environ.get("OMP_NUM_THREADS")
    os.environ["OMP_NUM_THREADS"] = "1"
    pool = ProcessPoolExecutor(count, mp_context=context, initializer=prepare_worker)
    try:
        yield pool
    except BaseException:
        for process in list((pool._processes or {}).values()):
            process.kill()  # every file is whole at any moment; a polite end would wait for the epoch
        pool.shutdown(wait=False, cancel_futures=True)
        raise
    finally:
        if threads is None:
            del os.environ["OMP_NUM_THREADS"]
        else:
            os.environ["OMP_NUM_THREADS"] = threads
    pool.shutdown()


def end_workers(pool: ProcessPoolExecutor, running: Mapping[Future[Any], Any]) -> None:
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
