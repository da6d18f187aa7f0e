"""Methods x seeds on one dataset: matched budgets, controls included, restartable, cells in a pool of processes."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import replace
from functools import partial
from os.path import normpath
from pathlib import Path
from typing import Any

from equimodal._utils.outside import check_folder
from equimodal._utils.schema import check
from equimodal.data import Dataset
from equimodal.errors import DataError, EquimodalError, EquimodalWarning, MethodError
from equimodal.studies.comparisons._cost import measure_cost
from equimodal.studies.comparisons._known import Known
from equimodal.studies.comparisons._schedule import Schedule
from equimodal.studies.comparisons._summary import summarise
from equimodal.studies.comparisons._workers import WorkerPool, run_cell, worker_pool
from equimodal.studies.runs import (
    Terminated,
    Termination,
    check_config,
    epochs_done,
    is_finished,
    located,
    locked,
    own_randomness,
    plain,
    read_json,
    read_yaml,
    run,
    verify,
    versions_of,
    warn_versions,
    write_sealed,
    write_yaml,
)
from equimodal.studies.setup import (
    DataConfig,
    ModelConfig,
    RunConfig,
    StudyConfig,
    TrainingConfig,
    build_data,
    cell_folder,
    check_device,
    check_labels,
    fixed_rate,
    renamed,
    seeded,
    sources,
    trusted_modules,
)
from equimodal.tasks import named_metrics

STUDY = "study.json"


class StudyError(EquimodalError):
    """Some cells failed, the others are finished; ``study`` is the content of ``study.json``."""

    def __init__(self, message: str, study: dict[str, Any]) -> None:
        super().__init__(message)
        self.study = study


def compare(
    config: StudyConfig,
    folder: Path | str,
    *,
    workers: int = 1,
    progress: Callable[[int, int, str], None] | None = None,
    cost: bool = True,
    loggers: bool = False,
) -> dict[str, Any]:
    """Run every cell that is not finished yet, and summarise; returns the content of ``study.json``.

    Args:
        config: what to compare.
        folder: one sub-folder per cell; calling again with the same folder continues, and runs no finished cell twice.
        workers: processes, each with one thread; 1 runs the cells here.
        progress: called with (epochs done, epochs in all, what is running).
        cost: measure the cost of each entry in joint steps, interleaved, before the cells start; of an entry that uses
            others, once they are finished.
        loggers: write a TensorBoard log for every cell.

    Raises:
        DataError: the folder holds another study, or another process works in it.
        SystemExit: with the code 75, after SIGTERM: running cells are saved, the same call continues.
        StudyError: cells failed; the others are finished, and the failures are in ``study.json``.
    """
    folder = Path(folder)
    if workers < 1:
        raise MethodError(f"`workers`: expected a whole number >= 1. Found {workers}.")
    if not config.seeds or len(set(config.seeds)) != len(config.seeds):
        raise MethodError(f"`seeds`: expected at least one, each once. Found {config.seeds}.")
    check_device(config.training.device)
    fixed_rate(config.training)  # complains now
    places = _located(config.data, folder)
    data = build_data(places)
    named_metrics(data.task, config.metrics)  # complains now
    check_labels(config.rows(data))
    _check_companions(config, data)
    cells = config.cells(data)
    again = f"equimodal compare --out {folder}"
    again += (f" --workers {workers}" if workers > 1 else "") + ("" if cost else " --cost false")
    with locked(folder), Termination(again) as termination:
        _claim(config, folder, data)
        alone, dependent = _by_use(config, folder, data)
        costs = _costs(alone, folder, data) if cost else {}
        if termination.requested:
            raise Terminated(folder)
        known = Known(config, folder, data, cells)
        schedule = _run_cells(
            cells, config.requirements(data), folder, workers, progress, loggers, data, places, termination, known
        )
        failures = schedule.failures
        costs |= _costs(dependent, folder, data) if cost else {}
        why = {cell: _reason(error) for cell, error in failures.items()}
        if (folder / STUDY).exists() and known.has_summary(costs, cells):
            return load_study(folder)
        study = summarise(config, folder, data, costs, why)
        write_sealed(folder, STUDY, study)
        known.write(costs)
    if failures:
        shown = "; ".join(f"{cell}: {reason}" for cell, reason in why.items())
        unexpected = next((e for e in failures.values() if not isinstance(e, EquimodalError)), None)
        raise StudyError(
            f"{len(failures)} of {len(cells)} cells failed, the others are finished. {shown}", study
        ) from unexpected
    return study


def load_study(folder: Path | str) -> dict[str, Any]:
    """The content of ``study.json`` as :func:`compare` wrote it, for reports.

    Args:
        folder: of the comparison.

    Raises:
        DataError: no such file, or it was changed since.
    """
    folder = Path(folder)
    check_folder(folder)
    verify(folder, [STUDY])
    found = read_json(folder / STUDY)
    if not isinstance(found, dict):
        raise DataError(f"`{folder / STUDY}`: expected a mapping. Found {type(found).__name__}.")
    return found


def _reason(error: BaseException) -> str:
    return str(error) if isinstance(error, EquimodalError) else f"{type(error).__name__}: {error}"


def _claim(config: StudyConfig, folder: Path, data: Dataset) -> None:
    path = folder / "study.yaml"
    described = plain(
        {
            "data": vars(config.data), "model": vars(config.model), "training": vars(config.training),
            "fingerprint": data.fingerprint,
        }
    )  # fmt: skip
    started: Any = str(Path.cwd())
    if path.exists():
        stored = read_yaml(path)
        check(stored, StudyConfig, file=f"`{path}`", step="Restore it, or choose another folder.")
        parts = {"data": DataConfig, "model": ModelConfig, "training": TrainingConfig}
        for name, kind in parts.items():  # written before a field existed: it has its default
            stored[name] = plain(vars(kind())) | dict(stored.get(name) or {})
        differing = [k for k in described if stored.get(k) != described[k]]
        if differing:
            raise DataError(
                f"`{folder}`: expected the study that it holds. Found other {', '.join(differing)}; entries and "
                "seeds may "
                f"change, these may not. Compare with {path}, or choose another folder."
            )
        started = stored.get("directory")
    entries = {label: vars(entry) for label, entry in config.rows(data).items()}
    chosen = {"entries": entries, "seeds": config.seeds, "controls": config.controls, "metrics": config.metrics}
    write_yaml(path, {**described, **chosen, "directory": started})


def _located(config: DataConfig, folder: Path) -> DataConfig:
    """The data of a comparison that is continued, which may have been started in another directory."""
    path = folder / "study.yaml"
    if not path.exists():
        return config
    stored = read_yaml(path)
    started = stored.get("directory") if isinstance(stored, Mapping) else None
    return located(config, folder, started if isinstance(started, str) else None)


def _check_companions(config: StudyConfig, data: Dataset) -> None:
    """Refuse companions that their method does not take, before what they need is trained."""
    for label, entry in config.rows(data).items():
        if entry.uses:
            one = RunConfig(entry.method, dict(entry.options), config.data, config.model, uses=entry.uses)
            try:
                with own_randomness():
                    seeded(one, data)
            except EquimodalError as error:
                raise type(error)(f"Entry {label!r}: {error}") from error


def _by_use(config: StudyConfig, folder: Path, data: Dataset) -> tuple[dict[str, RunConfig], dict[str, RunConfig]]:
    """Label -> configuration of an entry's first run: the entries that use no other, and those that do."""
    seed, cells = config.seeds[0], config.cells(data)
    alone, dependent = {}, {}
    for label in config.rows(data):
        one = cells[f"{label}/seed{seed}"]
        if one.uses:
            here = partial(_from, cell_folder(folder, label, seed))
            dependent[label] = replace(one, uses=renamed(one.uses, here))
        else:
            alone[label] = one
    return alone, dependent


def _from(folder: Path, path: str) -> str:
    return normpath(folder / path)


def _costs(entries: Mapping[str, RunConfig], folder: Path, data: Dataset) -> dict[str, float]:
    """Label -> cost; what is on record is not measured again, and what is used must be there."""
    path = folder / "cost.json"
    verify(folder, ["cost.json"])
    known: dict[str, float] = read_json(path) if path.exists() else {}
    check(known, dict[str, float | None], file=f"`{path}`", step="Delete it to measure again.")
    missing = {
        label: config
        for label, config in entries.items()
        if label not in known and all(is_finished(Path(run)) for _, run in sources(config.uses))
    }
    if missing:
        known |= _measured(data, missing)
        write_sealed(folder, path.name, known)
    return known


def _measured(data: Dataset, configs: Mapping[str, RunConfig]) -> dict[str, float]:
    """Costs of the entries that can be measured; what is wrong with the others, their cells say."""
    try:
        return measure_cost(data, configs)
    except Exception as error:  # noqa: BLE001 (told, and met again by the cells of the entry)
        if len(configs) > 1:
            return {k: v for label, one in configs.items() for k, v in _measured(data, {label: one}).items()}
        warnings.warn(
            f"Cost of {next(iter(configs))!r}: not measured. {_reason(error)}", EquimodalWarning, stacklevel=2
        )
        return {}


def _run_cells(
    cells: Mapping[str, RunConfig],
    requirements: Mapping[str, list[str]],
    folder: Path,
    workers: int,
    progress: Callable[[int, int, str], None] | None,
    loggers: bool,
    data: Dataset,
    places: DataConfig,
    termination: Termination,
    known: Known,
) -> Schedule:
    """Run what is not finished, the cells that others use first; the schedule knows what failed."""
    folders = {cell: cell_folder(folder, cell.rpartition("/")[0], c.seed) for cell, c in cells.items()}
    finished = [cell for cell in cells if is_finished(folders[cell])]
    versions: dict[Path, dict[str, str]] = {}
    for cell in finished:  # its numbers must not appear under other options, nor changed ones at all
        verify(folders[cell])
        made = known.versions(cell, folders[cell])
        if made is None:
            check_config(cells[cell], folders[cell])
            made = versions_of(folders[cell])
            known.note(cell, folders[cell], made)
        versions[folders[cell]] = made
    warn_versions(versions, versions)
    total = sum(c.training.epochs for c in cells.values())
    done = {cell: cells[cell].training.epochs for cell in finished}
    unfinished = [cell for cell in cells if cell not in done]
    schedule = Schedule(unfinished, requirements)

    def tell(what: str) -> None:
        if progress is not None:
            progress(sum(done.values()), total, what)

    def end(cell: str, failure: BaseException | None) -> None:
        done.update({c: cells[c].training.epochs for c in schedule.finish(cell, failure)})
        if failure is None:
            known.note(cell, folders[cell], versions_of(folders[cell]))

    tell("")
    if workers == 1 or len(unfinished) <= 1:
        while ready := schedule.take():
            for cell in ready:

                def advance(event: Mapping[str, Any], cell: str = cell) -> None:
                    done[cell] = event["epoch"]
                    tell(cell)

                failure: BaseException | None = None
                try:
                    run(cells[cell], folders[cell], resume=True, progress=advance, loggers=loggers, data=data)
                except Terminated as stop:
                    raise Terminated(folder) from stop
                except Exception as error:  # noqa: BLE001 (recorded; the other cells go on)
                    failure = error
                if termination.requested:  # between two cells
                    raise Terminated(folder)
                end(cell, failure)
                tell(cell)
        return schedule

    def submit(pool: WorkerPool) -> dict[Future[Any], str]:
        return {
            pool.submit(run_cell, cells[c].to_dict(), str(folders[c]), loggers, vars(places), trusted_modules()): c
            for c in schedule.take()
        }

    with worker_pool(min(workers, len(unfinished)), termination, folder) as pool:
        running = submit(pool)
        while running:
            for future in pool.wait():
                end(running.pop(future), future.exception())
            running |= submit(pool)
            active = [running[future] for future in pool.running]
            for cell in active:
                done[cell] = epochs_done(folders[cell])
            tell(next(iter(active), ""))
    return schedule
