"""Decoding one item, in this process or in a worker."""

from __future__ import annotations

import os
import signal
import threading
from multiprocessing.process import BaseProcess
from typing import Any

import numpy as np
import numpy.typing as npt

from equimodal._utils.files import content_hash
from equimodal._utils.foreign import no_data
from equimodal.data.prepare._interface import ArraySpec, Item, Preparation, UnreadableError, dtype_of
from equimodal.data.prepare._journal import Entry, FileState
from equimodal.data.prepare._store import Store
from equimodal.errors import DataError, StorageError

Array = npt.NDArray[Any]


class Worker:
    """Decodes items and writes their rows.

    Args:
        preparation: the dataset.
        store: where rows go.
    """

    def __init__(self, preparation: Preparation[Any], store: Store) -> None:
        self.preparation = preparation
        self.store = store
        self._states: dict[str, FileState] = {}

    def __call__(self, item: Item, start: int) -> Entry:
        """Decode ``item`` into the rows from ``start`` on.

        Raises:
            DataError: the decoder failed in a way that is no property of the file.
            StorageError: a row could not be written.
        """
        entry = Entry(item.key, start, item.samples)
        for name, spec in self.store.specs.items():
            relative = item.files[name][0]
            try:
                for relative in item.files[name]:
                    entry.files[relative] = None
                    entry.files[relative] = self._state(relative)
                values = self._decode(item, name, spec)
            except (UnreadableError, OSError) as error:
                reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
                reason = reason.replace(str(self.preparation.raw), "")  # the same on every machine
                entry.lacking[name] = (relative, " ".join(reason.split()))
                values = np.zeros((item.samples, *spec.shape), dtype_of(spec))
            try:
                self.store.write(name, start, values)
            except OSError as error:
                raise StorageError(
                    f"{self.store.path(name)}: could not be written ({error}). What was decoded is kept; free some "
                    "space and run the same command again."
                ) from error
        return entry

    def _decode(self, item: Item, name: str, spec: ArraySpec) -> Array:
        try:
            values = np.asarray(self.preparation.decode(item, name))
        except (UnreadableError, OSError, MemoryError):
            raise
        except Exception as error:
            # a defect of the decoder, and no property of the file: it must not be counted as a missing sample
            raise DataError(
                f"{self.preparation.name}: array `{name}` of {item.key!r}: expected it to be decoded or refused with a "
                f"reason. Found {type(error).__name__}: {error}. What was decoded before is kept."
            ) from error
        shape = spec.shape if item.count is None else (item.count, *spec.shape)
        if values.shape != tuple(shape) or values.dtype != np.dtype(spec.dtype):
            raise DataError(
                f"{self.preparation.name}: array `{name}` of {item.key!r}: expected {spec.dtype} {tuple(shape)} from "
                f"the decoder. Found {values.dtype} {values.shape}."
            )
        if values.dtype.kind == "f" and not np.isfinite(values).all():
            raise UnreadableError("decoded to NaN or infinity")
        return values.reshape(item.samples, *spec.shape)

    def _state(self, relative: str) -> FileState:
        path = self.preparation.path(relative)
        if not path.is_file():
            raise UnreadableError("no such file")
        status = path.stat()
        if status.st_size == 0:
            raise UnreadableError("an empty file")
        known = self._states.get(relative)
        if known is None or known[:2] != (status.st_size, status.st_mtime_ns):
            with path.open("rb") as file:
                found = no_data(file.read(4096))
            if found:
                raise UnreadableError(found)
            # many items of one large file: it is hashed once per process
            known = self._states[relative] = (status.st_size, status.st_mtime_ns, content_hash(path))
        return known


_WORKER: list[Worker] = []


def start_worker(worker: Worker) -> None:
    """Set up a worker process: one thread, deaf to the keyboard, gone when its parent is."""
    import multiprocessing

    import torch

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent finishes what is in progress
    torch.set_num_threads(1)
    os.environ["OMP_NUM_THREADS"] = "1"  # of libraries that a decoder imports later
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_follow, args=(parent,), daemon=True).start()
    _WORKER[:] = [worker]


def _follow(parent: BaseProcess) -> None:
    """End this process when ``parent`` has ended, however it did."""
    parent.join()
    os._exit(1)


def run_in_worker(item: Item, start: int) -> Entry:
    """Decode in the worker process that :func:`start_worker` set up."""
    return _WORKER[0](item, start)
