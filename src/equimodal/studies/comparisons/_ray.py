"""Cells of a comparison on the machines of a Ray cluster."""

from __future__ import annotations

import os
import pickle
import platform
import re
import signal
import socket
import warnings
from collections.abc import Collection
from concurrent.futures import Future, wait
from contextlib import suppress
from dataclasses import replace
from types import TracebackType
from typing import Any, Self

import torch

from equimodal._utils.arguments import check_number
from equimodal.errors import DataError, EquimodalError, EquimodalWarning, missing_extra
from equimodal.studies.comparisons._executor import Cell, Executor, Postponed
from equimodal.studies.runs import STOPPED, Terminated, Termination, located

PATIENCE = 20.0
"""Seconds that cells have to save and end; then their processes are killed."""


class RayExecutor(Executor):
    """Runs each cell as a task of a Ray cluster, with the resources that it is promised.

    All machines have the same Python packages, and see the folder of the comparison under the same path. A task whose
    machine is lost is run again on another, and goes on from the last whole epoch.

    Args:
        cpus: of a cell, which has as many threads, at least one. With more than one, numbers may differ in the last
            digits from those of a local pool, whose cells have one.
        gpus: of a cell; a fraction where cells share one.
        address: of the cluster, as ``ray start`` prints it; default that of the environment variable ``RAY_ADDRESS``,
            else of the cluster that this machine belongs to. ``local`` starts one on this machine alone. A program that
            has called ``ray.init`` keeps that connection.
        retries: how often a cell is run again whose machine or process was lost.

    Raises:
        MissingExtraError: Ray is not installed.
        EquimodalError: no cluster.

    Warns:
        EquimodalWarning: no machine of the cluster has these resources.

    Example:
        >>> from equimodal.studies import RayExecutor
        >>> RayExecutor(cpus=2, gpus=0.5).gpus
        0.5
    """

    slots = 10_000  # Ray has a queue of its own, by which clusters grow

    def __init__(self, cpus: float = 1, gpus: float = 0, address: str | None = None, retries: int = 3) -> None:
        check_number("cpus", cpus, above=0)
        check_number("gpus", gpus, at_least=0)
        check_number("retries", retries, at_least=0, whole=True)
        self.cpus, self.gpus, self.address, self.retries = cpus, gpus, address, retries
        given = {"cpus": (cpus, 1), "gpus": (gpus, 0), "address": (address, None)}
        self.arguments = "".join(["--executor ray", *(f" --{k} {v}" for k, (v, usual) in given.items() if v != usual)])
        self._owns_connection = self._ending = False
        self._tasks: dict[Future[None], Any] = {}

    def __enter__(self) -> Self:
        before = signal.getsignal(signal.SIGTERM)
        try:
            import ray
        except ImportError as error:
            raise missing_extra("ray", "ray", "Running cells on a cluster") from error
        self._ray = ray
        if not ray.is_initialized():
            address = self.address or os.environ.get("RAY_ADDRESS") or "auto"
            try:
                _reach(address)
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    ray.init(address, log_to_driver=False, logging_level="ERROR")
            except (ConnectionError, ValueError, RuntimeError, OSError) as error:
                raise EquimodalError(
                    f"`address`: expected a Ray cluster. Found none at {address!r} ({_short(error)}). Start one: "
                    "ray start --head; or take this machine alone: --address local"
                ) from error
            self._owns_connection = True
        with suppress(ValueError):  # not in the main thread
            signal.signal(signal.SIGTERM, before)  # Ray has taken it
        self._check_resources()
        options = {"num_cpus": self.cpus, "num_gpus": self.gpus, "max_retries": self.retries, "max_calls": 50}
        self._ending = False
        self._task = ray.remote(**options)(_run)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """Leave the cluster; what still runs is killed, where every file is whole at any moment."""
        self._ending = True
        self._cancel([f for f in self._tasks if not f.done()], force=True)
        self._tasks.clear()
        if self._owns_connection:
            self._ray.shutdown()
            self._owns_connection = False

    def submit(self, cell: Cell) -> Future[None]:
        """Queue the cell as a task."""
        sent = replace(cell, folder=cell.folder.absolute())
        task = self._task.remote(sent, os.environ.get("EQUIMODAL_DATA"), max(1, int(self.cpus)))
        future: Future[None] = Future()
        self._tasks[future] = task

        def hand_on(done: Future[Any]) -> None:
            error = done.exception()
            found = done.result() if error is None else _lost(cell, error)
            if isinstance(found, Terminated) and not self._ending:  # by whoever takes the machine away
                found = Postponed(f"{cell.name!r} was asked to end")
            if found is None:
                future.set_result(None)
            else:
                future.set_exception(found)

        task.future().add_done_callback(hand_on)
        return future

    def end(self, running: Collection[Future[None]]) -> None:
        """Ask the cells to save and end, and wait until they have, or for a while."""
        self._ending = True
        self._cancel(running, force=False)
        wait(running, PATIENCE)

    def _cancel(self, running: Collection[Future[None]], *, force: bool) -> None:
        for future in running:
            self._ray.cancel(self._tasks[future], force=force)
        if force and running:
            wait(running, PATIENCE)

    def _check_resources(self) -> None:
        """Say that no machine has what a cell asks for, unless one is added."""
        nodes = [n.get("Resources", {}) for n in self._ray.nodes() if n.get("Alive")]
        if not any(n.get("CPU", 0) >= self.cpus and n.get("GPU", 0) >= self.gpus for n in nodes):
            there = "; ".join(f"{n.get('CPU', 0):g} CPU, {n.get('GPU', 0):g} GPU" for n in nodes)
            warnings.warn(
                f"`cpus`, `gpus`: no machine of the cluster ({there}) has {self.cpus:g} CPU and {self.gpus:g} GPU for "
                "a cell. The cells wait until one is added.",
                EquimodalWarning,
                stacklevel=3,
            )


def _reach(address: str) -> None:
    """Complain now where nobody listens at ``HOST:PORT``; Ray would try for minutes."""
    found = re.fullmatch(r"\[?([^/\]]+)\]?:(\d{1,5})", address)
    if found is not None:
        socket.create_connection((found[1], int(found[2])), timeout=5.0).close()


def _run(cell: Cell, places: str | None, threads: int) -> BaseException | None:
    """A cell in a process of the cluster; returns why it failed, since Ray wraps what is raised.

    Ray cancels a task by what Ctrl-C does, which is taken here as a request to save and end.
    """
    if places is not None:
        os.environ.setdefault("EQUIMODAL_DATA", places)
    torch.set_num_threads(threads)
    warnings.filterwarnings("ignore", STOPPED)  # the driver says so
    before = signal.getsignal(signal.SIGINT)
    termination = Termination()
    try:
        with termination:
            signal.signal(signal.SIGINT, lambda *_: signal.raise_signal(signal.SIGTERM))
            _shared(cell)
            data = located(cell.data, cell.folder)
            replace(cell, data=data).run()
    except (Exception, Terminated) as error:  # noqa: BLE001 (the future of the driver raises it)
        return _sendable(error)
    finally:
        signal.signal(signal.SIGINT, before)
    return None


def _shared(cell: Cell) -> None:
    """Refuse a machine that does not see the folder of the comparison: its results would be lost."""
    study = cell.folder.parents[2]
    if not (study / "study.yaml").is_file():
        raise DataError(
            f"`{study}`: expected the folder of the comparison on the machine {platform.node()}. Found none. Name a "
            "folder that all machines share, under the same path."
        )


def _sendable(error: BaseException) -> BaseException:
    """The error, or one that says the same where it does not survive the journey."""
    try:
        pickle.loads(pickle.dumps(error))  # noqa: S301 (what was just made here)
    except Exception:  # noqa: BLE001 (whatever a class of somebody's does)
        return EquimodalError(f"{type(error).__name__}: {error}")
    return error


def _lost(cell: Cell, error: BaseException) -> BaseException:
    """What to say of a task that did not return: cancelled, or its process or machine was lost too often."""
    if type(error).__name__ == "TaskCancelledError":
        return Terminated(cell.folder)
    return EquimodalError(
        f"{cell.name!r} was lost with its process or machine ({type(error).__name__}: {_short(error)}). What it has "
        "done is kept: call again with the same folder."
    )


def _short(error: BaseException) -> str:
    return " ".join(str(error).split())[:200]
