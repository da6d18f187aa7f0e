"""Methods x seeds on one dataset: matched budgets, controls included, restartable, cells in a pool of processes."""

from __future__ import annotations

import shlex
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from os.path import normpath
from pathlib import Path
from typing import Any

from equimodal._utils.outside import check_folder
from equimodal._utils.schema import check
from equimodal.data import Dataset
from equimodal.errors import DataError, EquimodalError, EquimodalWarning, MethodError, unknown_name
from equimodal.studies.comparisons._cost import measure_cost
from equimodal.studies.comparisons._execution import Tally, run_cells
from equimodal.studies.comparisons._executor import Cell, Executor, InProcess
from equimodal.studies.comparisons._known import Known
from equimodal.studies.comparisons._local import LocalPool
from equimodal.studies.comparisons._ray import RayExecutor
from equimodal.studies.comparisons._schedule import Schedule
from equimodal.studies.comparisons._summary import summarise
from equimodal.studies.comparisons._twins import twins_of
from equimodal.studies.runs import (
    COMPARISON,
    Terminated,
    Termination,
    check_config,
    check_content,
    is_finished,
    located,
    locked,
    own_randomness,
    plain,
    read_json,
    read_yaml,
    verify,
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
EXECUTORS = ("local", "ray")
PATIENCE = 600.0
"""Seconds to wait for another process that summarises the same comparison."""


class StudyError(EquimodalError):
    """Some cells failed, or all; any others are finished. ``study`` is the content of ``study.json``."""

    def __init__(self, message: str, study: dict[str, Any]) -> None:
        super().__init__(message)
        self.study = study


def compare(
    config: StudyConfig,
    folder: Path | str,
    *,
    workers: int = 1,
    executor: Executor | str = "local",
    cells: Sequence[str] | None = None,
    progress: Callable[[int, int, str], None] | None = None,
    cost: bool = True,
    loggers: bool = False,
) -> dict[str, Any]:
    """Run every cell that is not finished yet, and summarise; returns the content of ``study.json``.

    Args:
        config: what to compare.
        folder: one sub-folder per cell; calling again with the same folder continues, and runs no finished cell twice.
            Entries of equal configuration are one run, whose records each of them has.
        workers: processes, each with one thread; 1 runs the cells here.
        executor: where the cells run: ``local``, in processes of this machine; ``ray``, see :class:`RayExecutor`; or an
            :class:`Executor` of yours.
        cells: names of those that this call runs, and what they use, while other processes may run others in the same
            folder, each once. ``study.json`` then holds what is finished so far. By default all, and no other process
            may work there.
        progress: called with (epochs done, epochs in all, what is running).
        cost: measure the cost of each entry in joint steps, interleaved, before the cells start; of an entry that uses
            others, once they are finished.
        loggers: write a TensorBoard log for every cell.

    Raises:
        DataError: the folder holds another study, or another process works in it.
        UnknownNameError: an executor or a cell that does not exist.
        SystemExit: with the code 75, after SIGTERM: running cells are saved, the same call continues.
        StudyError: cells failed; the others are finished, and the failures are in ``study.json``.
    """
    folder = Path(folder)
    if workers < 1:
        raise MethodError(f"`workers`: expected a whole number >= 1. Found {workers}.")
    if isinstance(executor, str) and executor not in EXECUTORS:
        raise unknown_name("executor", executor, EXECUTORS)
    if not config.seeds or len(set(config.seeds)) != len(config.seeds):
        raise MethodError(f"`seeds`: expected at least one, each once. Found {config.seeds}.")
    if executor == "local":  # other machines have others
        check_device(config.training.device)
    fixed_rate(config.training)  # complains now
    places = _located(config.data, folder)
    data = build_data(places)
    named_metrics(data.task, config.metrics)  # complains now
    check_labels(config.rows(data))
    _check_companions(config, data)
    mine = _chosen(config, data, cells)
    if executor == "ray":
        executor = RayExecutor()
    again = [f"equimodal compare --out {shlex.quote(str(folder))}", *([f"--workers {workers}"] if workers > 1 else [])]
    again += [] if cost else ["--cost false"]
    again += [executor.arguments] if isinstance(executor, Executor) and executor.arguments else []
    again += [] if cells is None else [f"--cells {shlex.quote(','.join(cells))}"]
    with Termination(" ".join(again)) as termination, ExitStack() as held:
        held.enter_context(locked(folder, 0.2 if cells is None else PATIENCE))
        _claim(config, folder, data)
        alone, dependent = _by_use(config, folder, data)
        costs = _costs(alone, folder, data) if cost and cells is None else {}
        if termination.requested:
            raise Terminated(folder)
        if cells is not None:
            held.close()  # others work here, too
        tally = Tally({name: c.training.epochs for name, c in mine.items()}, progress)
        modules = tuple(trusted_modules())
        work = {
            name: Cell(name, c, cell_folder(folder, name.rpartition("/")[0], c.seed), places, data.fingerprint,
                       loggers, modules)
            for name, c in mine.items()
        }  # fmt: skip
        known = Known(config, folder, data, config.cells(data))
        twins = {} if loggers else twins_of(config.cells(data))  # each run writes its own log
        schedule = _schedule(work, config.requirements(data), tally, known, twins)
        where = _executor(executor, workers, schedule.count, data, tally, termination, folder)
        places_of_twins = {cell: _folder_of(folder, twin) for cell, twin in twins.items()}
        run_cells(work, schedule, where, tally, termination, folder, places_of_twins)
        failures = schedule.failures
        why = {cell: _reason(error) for cell, error in failures.items()}
        if cells is not None:
            held.enter_context(locked(folder, PATIENCE))
            why = _failed_elsewhere(config, folder, data) | why
        if cost and (cells is None or all(_is_finished(folder, cell) for cell in config.cells(data))):
            costs |= _costs(dependent if cells is None else {**alone, **dependent}, folder, data)
        known.add({cell.name: cell.folder for cell in work.values() if cell.name not in why})
        if (folder / STUDY).exists() and not why and known.has_summary(costs, config.cells(data)):
            return load_study(folder)
        study = summarise(config, folder, data, costs, why)
        write_sealed(folder, STUDY, study)
        known.write(costs)
    if failures:
        alike: dict[str, list[str]] = {}
        for cell, error in failures.items():
            alike.setdefault(_reason(error), []).append(cell)
        shown = "; ".join(f"{', '.join(names)}: {reason}" for reason, names in alike.items())
        unexpected = next((e for e in failures.values() if not isinstance(e, EquimodalError)), None)
        raise StudyError(f"{_failed(len(failures), len(mine))}. {shown}", study) from unexpected
    return study


def _failed(failed: int, cells: int) -> str:
    """How many cells failed, in words."""
    if failed == cells:
        return {1: "the only cell failed", 2: "both cells failed"}.get(cells, f"all {cells} cells failed")
    rest = "the other one is" if cells - failed == 1 else "the others are"
    return f"{failed} of {cells} cells failed, {rest} finished"


def _chosen(config: StudyConfig, data: Dataset, names: Sequence[str] | None) -> dict[str, RunConfig]:
    """The cells of these names and those that they use; all by default."""
    every = config.cells(data)
    if names is None:
        return every
    needs, found = config.requirements(data), set[str]()
    waiting = list(names)
    while waiting:
        name = waiting.pop()
        if name not in every:
            raise unknown_name("cell", name, every)
        if name not in found:
            found.add(name)
            waiting += needs[name]
    return {name: every[name] for name in config.order(data) if name in found}


def _folder_of(folder: Path, cell: str) -> Path:
    label, _, seed = cell.rpartition("/seed")
    return cell_folder(folder, label, int(seed))


def _is_finished(folder: Path, cell: str) -> bool:
    return is_finished(_folder_of(folder, cell))


def _failed_elsewhere(config: StudyConfig, folder: Path, data: Dataset) -> dict[str, str]:
    """Cells that failed in other processes, and why, as these have written it down."""
    known = load_study(folder).get("incomplete") or [] if (folder / STUDY).exists() else []
    found = {}
    for cell in config.cells(data):
        begin = f"failed: {cell}: "
        for text in known:
            if isinstance(text, str) and text.startswith(begin) and not _is_finished(folder, cell):
                found[cell] = text.removeprefix(begin)
    return found


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
    check_content(folder, COMPARISON)
    path = folder / COMPARISON
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


def _schedule(
    cells: Mapping[str, Cell],
    requirements: Mapping[str, list[str]],
    tally: Tally,
    known: Known,
    twins: Mapping[str, str],
) -> Schedule:
    """What is not finished; what is must be what is asked for."""
    finished = {cell.name: cell for cell in cells.values() if is_finished(cell.folder)}
    versions: dict[Path, dict[str, str]] = {}
    for name, cell in finished.items():  # its numbers must not appear under other options, nor changed ones at all
        verify(cell.folder)
        made = known.versions(name, cell.folder)
        if made is None:
            check_config(cell.config, cell.folder)
            made = known.note(name, cell.folder)
        versions[cell.folder] = made
        tally.end(name)
    warn_versions(versions, versions)
    return Schedule([name for name in cells if name not in finished], requirements, twins)


def _executor(
    chosen: Executor | str,
    workers: int,
    count: int,
    data: Dataset,
    tally: Tally,
    termination: Termination,
    folder: Path,
) -> Executor:
    """Where the cells run: ``count`` of them are not finished."""
    if isinstance(chosen, Executor):
        return chosen
    if workers == 1 or count <= 1:
        return InProcess(data, tally.advance)
    return LocalPool(min(workers, count), termination, folder)
