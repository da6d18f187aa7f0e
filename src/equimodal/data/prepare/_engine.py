"""From a raw download to a bundle: decode in parallel, keep a journal, finish in one step."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import multiprocessing
import os
import shutil
import time
from collections import deque
from collections.abc import Callable, Generator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing
from pathlib import Path
from typing import Any, Literal

from equimodal.data.prepare import _finish as finish
from equimodal.data.prepare import _manifest as manifest
from equimodal.data.prepare._card import check_index
from equimodal.data.prepare._finish import Report
from equimodal.data.prepare._interface import Item, Preparation
from equimodal.data.prepare._journal import Entry, Journal, assign_rows, differences, unchanged
from equimodal.data.prepare._registry import get
from equimodal.data.prepare._store import Store
from equimodal.data.prepare._work import Worker, run_in_worker, start_worker
from equimodal.errors import DataError, StorageError, unknown_name

Incomplete = Literal["drop", "keep"]
Progress = Callable[[int, int, str], None]
_SAVE_ITEMS, _SAVE_SECONDS = 64, 10.0  # after which the arrays, and then the journal, are put on the disk


def prepare(
    name: str | type[Preparation[Any]],
    source: str | Path,
    out: str | Path,
    *,
    workers: int | None = None,
    max_missing: float | None = None,
    incomplete: Incomplete | None = None,
    progress: Progress | None = None,
    **parameters: Any,
) -> Report:
    """Make a bundle from a raw download, in several processes, in the same order and with the same bytes every time.

    ``out`` appears whole or not at all. Until then everything is in ``OUT.partial``; the same call continues there,
    however the last one ended.

    Args:
        name: a dataset of :func:`available`.
        source: folder of the raw download; see the page of the dataset.
        out: folder of the bundle.
        workers: processes that decode; 0 decodes in this one. Default: the processors this process may use. A script
            calls this function below ``if __name__ == "__main__":``, since the processes import it.
        max_missing: largest share of samples that may be missing or unreadable; default of the dataset (0.01 mostly).
        incomplete: ``"drop"`` leaves out a sample of which any file cannot be read; ``"keep"`` keeps it with that
            modality marked absent. Both count for ``max_missing``. Default of the dataset (``"drop"`` mostly).
        progress: called with samples done, samples in all, and what is going on.
        parameters: of the dataset; the page and ``equimodal data prepare NAME --help`` list them.

    Raises:
        DataError: the source is not what was expected, or too much of it is missing; the list is in
            ``OUT.partial/manifest.json``.
        UnknownNameError: unknown dataset or parameter.
        StorageError: not enough space, or a file could not be written.
        MissingExtraError: a decoder is not installed.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     prepare("crema-d", Path(folder) / "nowhere", Path(folder) / "out")
        Traceback (most recent call last):
            ...
        equimodal.errors.DataError: ...: expected the folder of the raw download. Found no folder. ...
    """
    kind = get(name) if isinstance(name, str) else name
    source, out = Path(source), Path(out)
    _check_arguments(kind, source, out, workers, max_missing, incomplete)
    preparation = make(kind, source, parameters)
    versions = manifest.versions(preparation.needs())
    index, specs = preparation.index(), dict(preparation.arrays())
    identity = {
        "format": manifest.FORMAT,
        "dataset": kind.name,
        "parameters": manifest.parameters_of(preparation),
        "versions": versions,
        "arrays": {name: [spec.dtype, *spec.shape] for name, spec in specs.items()},
        "texts": {name: hashlib.sha256(text.encode()).hexdigest() for name, text in sorted(index.files.items())},
    }
    items = check_index(preparation, index, specs)
    partial = out.with_name(out.name + ".partial")
    if out.exists():
        made = _already(out, identity, source, preparation, items)
        if finish.planned(partial):  # the last call was stopped after its very last step
            shutil.rmtree(partial)
        return made
    limit = kind.max_missing if max_missing is None else max_missing
    expected = sum(item.samples for item in items) + len(index.missing)
    first = dataclasses.asdict(index.missing[0]) if index.missing else None
    finish.refuse_too_many(len(index.missing), expected, limit, first, None)
    store = Store(partial, specs)
    _check_space(store, expected, partial)
    try:
        partial.mkdir(parents=True, exist_ok=True)
        journal = Journal(partial / "journal.jsonl", identity)
        with closing(store), closing(journal):
            journal.open()
            resumed = expected
            if not finish.planned(partial):
                resumed = _decode(preparation, items, store, journal, _workers(kind, workers), progress)
                policy = incomplete or kind.incomplete
                finish.plan(preparation, identity, index, items, journal.entries, specs, policy, limit, partial)
            if progress is not None:
                progress(expected, expected, "writing")
            finish.complete(store, partial, out)
        shutil.rmtree(partial)
    except OSError as error:
        if isinstance(error, StorageError):
            raise
        raise StorageError(f"{partial}: could not be written ({error}). What was decoded is kept there.") from error
    made = finish.report(out, resumed)
    if progress is not None:
        progress(expected, expected, "done")
    return made


def make(kind: type[Preparation[Any]], source: Path, parameters: Mapping[str, Any]) -> Preparation[Any]:
    """The preparation with these parameters; an unknown one is refused with the nearest names."""
    known = {field.name for field in dataclasses.fields(kind.Parameters)}
    for option in parameters:
        if option not in known:
            raise unknown_name(f"parameter of {kind.name}:", option, known)
    return kind(source, kind.Parameters(**parameters))


def _check_arguments(
    kind: type[Preparation[Any]], source: Path, out: Path, workers: Any, max_missing: Any, incomplete: Any
) -> None:
    layout = kind.facts.layout  # of a file that PyYAML reads, which the card will need as well
    if not source.is_dir():
        raise DataError(f"{source}: expected the folder of the raw download. Found no folder. Needed:\n{layout}")
    if out.suffix or out.name == "":
        raise DataError(f"`out`: expected a folder without a suffix. Found {out.name!r}.")
    if workers is not None and (isinstance(workers, bool) or not isinstance(workers, int) or workers < 0):
        raise DataError(f"`workers`: expected a whole number of at least 0. Found {workers!r}.")
    if max_missing is not None and not 0 <= max_missing <= 1:
        raise DataError(f"`max_missing`: expected a share between 0 and 1. Found {max_missing!r}.")
    if incomplete not in (None, "drop", "keep"):
        raise DataError(f"`incomplete`: expected 'drop' or 'keep'. Found {incomplete!r}.")


def _workers(kind: type[Preparation[Any]], asked: int | None) -> int:
    if not kind.parallel:
        return 0
    if asked is not None:
        return asked
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity is not None else os.cpu_count() or 1


def _check_space(store: Store, samples: int, partial: Path) -> None:
    """Refuse before anything is written; a copy of the largest array is needed where samples are left out."""
    needed = store.bytes_per_sample() * samples + max(map(store.row_bytes, store.specs)) * samples
    there = sum(p.stat().st_size for p in partial.rglob("*")) if partial.exists() else 0
    place = partial.parent
    while not place.exists():
        place = place.parent
    free = shutil.disk_usage(place).free
    if needed - there > free:
        raise StorageError(
            f"{partial.parent}: expected {(needed - there) / 1e9:.1f} GB of free space for {samples} samples. Found "
            f"{free / 1e9:.1f} GB. Choose another --out, or smaller parameters."
        )


def _already(
    out: Path, identity: Mapping[str, Any], source: Path, preparation: Preparation[Any], items: Sequence[Item]
) -> Report:
    """The report of a bundle that is there, if it is the one asked for."""
    found = manifest.read_manifest(out)
    own = json.loads(json.dumps(identity))
    differing = differences({key: found.get(key) for key in own}, own)
    if not differing:
        listed = {entry["path"]: entry["size"] for entry in found["raw"]}
        asked = {f for item in items for names in item.files.values() for f in names}
        new = sorted(f for f in asked if f not in listed and preparation.path(f).is_file())
        changed = sorted(f for f, n in listed.items() if n is not None and _size(preparation.path(f)) != n)
        differing = f"raw files changed or new, the first {[*changed, *new][0]}" if changed or new else ""
    if differing:
        raise DataError(
            f"{out}: expected a new folder, or a bundle prepared from {source} with the same settings. Found another "
            f"({differing}). Choose another --out, or remove it."
        )
    return finish.report(out, found["counts"]["samples"])


def _size(path: Path) -> int | None:
    return path.stat().st_size if path.is_file() else None


def _decode(
    preparation: Preparation[Any],
    items: Sequence[Item],
    store: Store,
    journal: Journal,
    workers: int,
    progress: Progress | None,
) -> int:
    """Decode what is not done yet; returns the number of samples that were."""
    kept = {i.key: journal.entries[i.key] for i in items if i.key in journal.entries}
    kept = {key: entry for key, entry in kept.items() if unchanged(entry, preparation)}
    kept = {i.key: kept[i.key] for i in items if i.key in kept and kept[i.key].count == i.samples}
    todo = [item for item in items if item.key not in kept]
    # rows of items that are gone or changed are free again; a journal line of theirs is overruled by a later one
    rows = assign_rows(todo, kept)
    resumed = done = sum(entry.count for entry in kept.values())
    total = sum(item.samples for item in items)
    waiting: list[Entry] = []
    saved = time.monotonic()

    def save() -> None:
        store.sync()
        journal.add(waiting)
        waiting.clear()

    if progress is not None:
        progress(done, total, "decoding")
    worker = Worker(preparation, store)
    work = _in_place(worker, todo, rows) if workers == 0 else _in_processes(worker, todo, rows, workers)
    try:
        with closing(work) as entries:
            for entry in entries:
                waiting.append(entry)
                done += entry.count
                if len(waiting) >= _SAVE_ITEMS or time.monotonic() - saved >= _SAVE_SECONDS:
                    save()
                    saved = time.monotonic()
                if progress is not None:
                    progress(done, total, "decoding")
    finally:
        save()
    return resumed


def _in_place(worker: Worker, todo: Sequence[Item], rows: Mapping[str, int]) -> Generator[Entry, None, None]:
    for item in todo:
        yield worker(item, rows[item.key])


def _in_processes(
    worker: Worker, todo: Sequence[Item], rows: Mapping[str, int], workers: int
) -> Generator[Entry, None, None]:
    """Entries in the order in which they are done; only a few items are on their way at a time."""
    methods = multiprocessing.get_all_start_methods()
    context = multiprocessing.get_context("forkserver" if "forkserver" in methods else "spawn")
    # what every worker needs is imported once
    context.set_forkserver_preload([__name__, type(worker.preparation).__module__, "torch"])
    left, running = deque(todo), dict[Future[Entry], Item]()
    pool = ProcessPoolExecutor(min(workers, max(1, len(todo))), context, start_worker, (worker,))
    try:
        while left or running:
            while left and len(running) < 4 * workers:
                item = left.popleft()
                running[pool.submit(run_in_worker, item, rows[item.key])] = item
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                entry = future.result()
                del running[future]
                yield entry
    except BrokenProcessPool as error:
        suspects = ", ".join(repr(item.key) for item in running.values())
        raise DataError(
            f"{worker.preparation.name}: expected the worker processes to live. Found one dead: killed by the system, "
            f"by a file that crashes its decoder (it was at one of {suspects}), or by a script that calls prepare() "
            'outside `if __name__ == "__main__":`. What was decoded is kept; run the same command again, with '
            "--workers 0 to see which file it is."
        ) from error
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
