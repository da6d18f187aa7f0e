"""A run on several devices: a process for each, which share every batch."""

from __future__ import annotations

import multiprocessing
import os
import shlex
import signal
import tempfile
import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from multiprocessing import connection
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from equimodal.engine import FEATURES, all_sum, departures, is_distributed
from equimodal.errors import EquimodalError, EquimodalWarning, MethodError, UnsupportedError
from equimodal.methods import get
from equimodal.studies.runs._signals import STOPPED, Terminated, Termination
from equimodal.studies.setup import RunConfig, trusted_modules, trusting

PATIENCE = 20.0
"""Seconds that the processes have to end after they were asked to; then they are killed."""
_LAUNCHED = "TORCHELASTIC_RUN_ID"


@dataclass(frozen=True)
class Share:
    """This process among those of a run.

    Args:
        rank: its number.
        count: of all.
        local: of those on this machine.
    """

    rank: int = 0
    count: int = 1
    local: int = 1

    @property
    def first(self) -> bool:
        """Whether it is the one that writes."""
        return self.rank == 0

    def part(self, batch_size: int) -> int:
        """Samples of a batch for this process."""
        return batch_size // self.count

    def wait(self) -> None:
        """For the others."""
        if self.count > 1:
            dist.barrier()

    def any(self, flag: bool) -> bool:
        """Whether it is so on any process."""
        if self.count == 1:
            return flag
        device = torch.accelerator.current_accelerator() if dist.get_backend() != "gloo" else None
        return bool(all_sum({"flag": torch.tensor(float(flag), device=device)})["flag"] > 0)

    def part_ways(self) -> None:
        """Go on without the others, when all have come to this point."""
        if self.count > 1:
            dist.barrier()
            dist.destroy_process_group()


def own_share() -> Share:
    """This process among those that a launcher has started, which it joins; else the only one."""
    if not is_distributed():
        count = int(os.environ.get("WORLD_SIZE", "1")) if _LAUNCHED in os.environ else 1
        if count == 1 or not dist.is_available():
            return Share()
        if torch.accelerator.is_available():
            torch.accelerator.set_device_index(int(os.environ.get("LOCAL_RANK", "0")))
        dist.init_process_group()
    local = int(os.environ.get("LOCAL_WORLD_SIZE", dist.get_world_size()))
    return Share(dist.get_rank(), dist.get_world_size(), local)


def check_processes(config: RunConfig) -> None:
    """Refuse what several processes cannot do, before any is started.

    Raises:
        MethodError: more devices than there are, or a batch that cannot be shared equally.
        UnsupportedError: the method refuses several processes, with its sentence; another number of processes was
            launched.

    Warns:
        EquimodalWarning: what the method does otherwise.
    """
    settings, count = config.training, config.training.devices
    launched = int(os.environ.get("WORLD_SIZE", "1")) if _LAUNCHED in os.environ else 1
    if launched > 1 and launched != count:
        raise UnsupportedError(
            f"`training.devices`: expected {launched}, the processes that torchrun has started. Found {count}. Give "
            f"--devices {launched}."
        )
    if count == 1:
        return
    on_cpu = settings.device == "cpu" or not torch.accelerator.is_available()
    there = (os.cpu_count() or 1) if on_cpu else torch.accelerator.device_count()
    if launched == 1 and count > there:
        kind = "processors" if on_cpu else "devices"
        raise MethodError(f"`training.devices`: expected at most {there}, the {kind} of this machine. Found {count}.")
    if settings.batch_size % count or settings.batch_size // count < 2:
        raise MethodError(
            f"`training.batch_size`: expected a multiple of the {count} devices, at least two samples for each. Found "
            f"{settings.batch_size}. Give --training.batch_size {count * max(2, settings.batch_size // count)}."
        )
    method = get(config.method)
    told = set()
    for feature in ("processes", "trainer"):
        for text in departures(method, feature, config.options):
            kind, _, sentence = text.partition(": ")
            said = f"{method.__name__} under {FEATURES[feature].title}: {sentence}"
            if kind == "refused":
                raise UnsupportedError(f"{said.rstrip('.')}. Use --devices 1.")
            if sentence not in told and launched == 1:
                warnings.warn(said, EquimodalWarning, stacklevel=3)
            told.add(sentence)


def launch(
    function: Callable[..., dict[str, Any]],
    config: RunConfig,
    folder: Path,
    progress: Callable[[Mapping[str, Any]], None] | None,
    **options: Any,
) -> dict[str, Any]:
    """Call ``function(config, folder, progress=..., **options)`` in a process per device; what the first one returns.

    Raises:
        EquimodalError: as the function does in any of them; or a process died.
        Terminated: after SIGTERM, which is handed on; the run goes on from its last whole epoch.
    """
    spawn = process_context()
    count = config.training.devices
    threads = max(1, torch.get_num_threads() // count)
    with (
        tempfile.TemporaryDirectory() as place,
        Termination(f"equimodal train --resume --out {shlex.quote(str(folder))}") as termination,
    ):
        pipes = [spawn.Pipe(duplex=False) for _ in range(count)]
        processes = [
            spawn.Process(
                target=_work, name=f"device {rank}",
                args=(rank, count, place, threads, sender, function, config, folder, progress is not None, options,
                      trusted_modules()),
            )
            for rank, (_, sender) in enumerate(pipes)
        ]  # fmt: skip
        for process in processes:
            process.start()
        for _, sender in pipes:
            sender.close()  # only the process holds it now, so that its end is seen
        try:
            return _followed(processes, [receiver for receiver, _ in pipes], progress, termination, folder)
        finally:
            deadline = time.monotonic() + PATIENCE
            for process in processes:
                process.join(max(0.0, deadline - time.monotonic()) if termination.requested else 1.0)
                if process.is_alive():
                    process.kill()
                    process.join()


def process_context() -> Any:
    """Processes from a server that has imported what they need, once for all of them, and has no threads."""
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    found = multiprocessing.get_context("forkserver")
    found.set_forkserver_preload(["__main__", "equimodal.studies.runs._warm"])
    return found


def _followed(
    processes: list[Any],
    receivers: list[Any],
    progress: Callable[[Mapping[str, Any]], None] | None,
    termination: Termination,
    folder: Path,
) -> dict[str, Any]:
    """Hand on progress until every process is done; returns what the first one found."""
    found: dict[str, Any] = {}
    waiting = dict(zip(receivers, range(len(receivers)), strict=True))
    told = False
    while waiting:
        for receiver in connection.wait(list(waiting), timeout=0.2):
            pipe: Any = receiver
            try:
                kind, content = pipe.recv()
            except EOFError:
                rank = waiting.pop(pipe)
                if termination.requested:
                    raise Terminated(folder) from None
                raise EquimodalError(
                    f"Process {rank} of {len(processes)} died: out of memory, or a script without "
                    f"`if __name__ == '__main__':` around its calls. Go on from the last whole epoch with: equimodal "
                    f"train --resume --out {shlex.quote(str(folder))}"
                ) from None
            if kind == "progress" and progress is not None:
                progress(content)
            elif kind == "warning":
                warnings.warn(content, stacklevel=2)
            elif kind == "error":
                raise content
            elif kind == "done":
                found = content or found
                del waiting[pipe]
        if termination.requested and not told:
            told = True
            for process in processes:
                process.terminate()
    return found


def _work(
    rank: int, count: int, place: str, threads: int, sender: Any, function: Callable[..., dict[str, Any]],
    config: RunConfig, folder: Path, tells: bool, options: dict[str, Any],
    modules: list[str],
) -> None:  # fmt: skip
    """What one of the processes does."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    warnings.filterwarnings("ignore", STOPPED)  # the parent says so

    def show(message: Warning | str, *_: Any, **__: Any) -> None:
        if rank == 0 and isinstance(message, EquimodalWarning):
            sender.send(("warning", message))  # said once, in the parent's way

    warnings.showwarning = show
    torch.set_num_threads(threads)
    os.environ |= {
        "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(count), "LOCAL_WORLD_SIZE": str(count),
        "GROUP_RANK": "0", _LAUNCHED: "equimodal", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0",
    }  # fmt: skip
    try:
        if torch.accelerator.is_available() and config.training.device != "cpu":
            torch.accelerator.set_device_index(rank)
        dist.init_process_group(
            "gloo" if config.training.device == "cpu" else None, init_method=f"file://{place}/store", rank=rank,
            world_size=count,
        )  # fmt: skip
        tell = (lambda event: sender.send(("progress", dict(event)))) if tells else None
        with trusting(modules):
            sender.send(("done", function(config, folder, progress=tell, **options)))
    except (Exception, SystemExit) as error:  # noqa: BLE001 (raised in the parent)
        sender.send(("error", error))
    finally:
        sender.close()
        if is_distributed():
            os._exit(1)  # it has failed while others wait
