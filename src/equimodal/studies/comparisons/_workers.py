"""The processes that run the cells of a comparison."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
import warnings
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ProcessPoolExecutor, wait
from contextlib import contextmanager
from multiprocessing import connection, resource_tracker
from typing import Any

import torch

from equimodal.studies.comparisons._executor import Cell
from equimodal.studies.runs import STOPPED, Terminated, Termination

PATIENCE = 20.0
"""Seconds that workers have to save and end; then they are killed, which costs what they did since they saved last."""


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
    """Ask the workers to save and end, and wait until they have, or for :data:`PATIENCE` seconds.

    No future is cancelled: a pool that lost a process cannot end those that are.
    """
    processes = list((pool._processes or {}).values())
    for process in processes:
        process.terminate()
    deadline = time.monotonic() + PATIENCE
    waiting = set(running)
    while waiting and time.monotonic() < deadline and any(process.is_alive() for process in processes):
        waiting = wait(waiting, timeout=0.2).not_done


@contextmanager
def signals_waiting() -> Iterator[None]:
    """Hold SIGTERM back, for this thread and for processes that it starts, which take it when they are ready."""
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    resource_tracker.ensure_running()  # starting it would let the signal through
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def prepare_worker() -> None:
    """One thread; Ctrl-C is the parent's to handle; and no worker outlives its parent, however that ended."""
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore", STOPPED)  # the parent says so, once and for the whole comparison
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _termination.install()
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})  # held back while the process started
    parent = multiprocessing.parent_process()

    def follow() -> None:
        if parent is not None:
            connection.wait([parent.sentinel])
            os._exit(1)

    threading.Thread(target=follow, daemon=True).start()


_termination = Termination()
"""In a worker: after it was asked to end it takes no further cell."""


def run_cell(cell: Cell) -> None:
    """One cell, unless this worker was asked to end."""
    if _termination.requested:
        raise Terminated(cell.folder)
    cell.run()
