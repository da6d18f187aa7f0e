"""Methods x seeds on one dataset: matched budgets, controls included, restartable, cells in a pool of processes."""

from __future__ import annotations

import multiprocessing
import os
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from equimodal.data import Dataset
from equimodal.errors import DataError, EquimodalError, MethodError
from equimodal.methods import get
from equimodal.studies._build import build_data
from equimodal.studies._config import DataConfig, ModelConfig, RunConfig, TrainingConfig
from equimodal.studies._cost import measure_cost
from equimodal.studies._records import environment, plain, read_json, read_lines, read_yaml, write_json, write_yaml
from equimodal.studies._run import check_config, run
from equimodal.studies._signals import Terminated, Termination, locked
from equimodal.studies._workers import end_workers, prepare_worker, run_cell


class StudyError(EquimodalError):
    """Some cells failed, the others are finished; ``study`` is the content of ``study.json``."""

    def __init__(self, message: str, study: dict[str, Any]) -> None:
        super().__init__(message)
        self.study = study


@dataclass
class Entry:
    """One row of a comparison.

    Args:
        method: name of a registered method.
        options: its hyperparameters.
    """

    method: str
    options: dict[str, Any] = field(default_factory=dict)


@dataclass
class StudyConfig:
    """A comparison.

    Args:
        entries: label -> method and options.
        seeds: one run per entry and seed.
        data: the data.
        model: the encoders, equal for all.
        training: the budget, equal for all.
        controls: add the controls that ``entries`` lacks (Joint, MultiLoss, every modality alone, Ensemble).
    """

    entries: dict[str, Entry]
    seeds: list[int] = field(default_factory=lambda: [0, 1, 2, 3, 4])
    data: DataConfig = field(default_factory=DataConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    controls: bool = True

    def cells(self, data: Dataset) -> dict[str, RunConfig]:
        """Label and seed -> configuration of one run."""
        made = {}
        for label, entry in self.rows(data).items():
            for seed in self.seeds:
                made[f"{label}/seed{seed}"] = RunConfig(
                    get(entry.method).__name__, dict(entry.options), self.data, self.model, self.training, seed
                )
        return made

    def rows(self, data: Dataset) -> dict[str, Entry]:
        """Label -> entry, with the controls."""
        rows: dict[str, Entry] = {}
        if self.controls:
            rows |= {"Joint": Entry("Joint"), "MultiLoss": Entry("MultiLoss"), "Ensemble": Entry("Ensemble")}
            rows |= {f"Unimodal[{m}]": Entry("Unimodal", {"modality": m}) for m in data.modalities}
        for label, entry in self.entries.items():
            get(entry.method)  # an unknown name is refused before anything is trained
            rows[label] = entry
        return rows


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
        cost: measure the cost of each entry in joint steps, interleaved, before the cells start.
        loggers: write TensorBoard and CSV logs for every cell.

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
    data = build_data(config.data)
    cells = config.cells(data)
    with locked(folder), Termination() as termination:
        _claim(config, folder, data)
        costs = _costs(config, folder, data) if cost else {}
        failures = _run_cells(cells, folder, workers, progress, loggers, data, termination)
        study = summarise(config, folder, data, costs, failures)
        write_json(folder / "study.json", study)
    if failures:
        shown = "; ".join(f"{cell}: {why}" for cell, why in failures.items())
        raise StudyError(f"{len(failures)} of {len(cells)} cells failed, the others are finished. {shown}", study)
    return study


def _claim(config: StudyConfig, folder: Path, data: Dataset) -> None:
    path = folder / "study.yaml"
    described = plain(
        {
            "data": vars(config.data), "model": vars(config.model), "training": vars(config.training),
            "fingerprint": data.fingerprint,
        }
    )  # fmt: skip
    if path.exists():
        stored = read_yaml(path)
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
    entries = {label: vars(entry) for label, entry in config.rows(data).items()}
    write_yaml(path, {**described, "entries": entries, "seeds": config.seeds, "controls": config.controls})


def _costs(config: StudyConfig, folder: Path, data: Dataset) -> dict[str, float]:
    path = folder / "cost.json"
    known: dict[str, float] = read_json(path) if path.exists() else {}
    rows = config.rows(data)
    missing = {
        label: RunConfig(get(e.method).__name__, dict(e.options), config.data, config.model, config.training)
        for label, e in rows.items()
        if label not in known
    }
    if missing:
        known |= measure_cost(data, missing)
        write_json(path, known)
    return known


def _cell_folder(folder: Path, cell: str) -> Path:
    safe = "".join(c if c.isalnum() or c in "-_./[]=+," else "_" for c in cell)
    return folder / "cells" / safe


def _run_cells(
    cells: Mapping[str, RunConfig],
    folder: Path,
    workers: int,
    progress: Callable[[int, int, str], None] | None,
    loggers: bool,
    data: Dataset,
    termination: Termination,
) -> dict[str, str]:
    folders = {cell: _cell_folder(folder, cell) for cell in cells}
    open_cells = [cell for cell in cells if not (folders[cell] / "metrics.json").exists()]
    for cell in cells:
        if cell not in open_cells:  # its numbers must not appear under other options
            check_config(cells[cell], folders[cell])
    total = sum(c.training.epochs for c in cells.values())
    done = {cell: c.training.epochs for cell, c in cells.items() if cell not in open_cells}
    failures: dict[str, str] = {}

    def tell(what: str) -> None:
        if progress is not None:
            progress(sum(done.values()), total, what)

    tell("")
    if workers == 1 or len(open_cells) <= 1:
        for cell in open_cells:

            def advance(event: Mapping[str, Any], cell: str = cell) -> None:
                done[cell] = event["epoch"]
                tell(cell)

            try:
                run(cells[cell], folders[cell], resume=True, progress=advance, loggers=loggers, data=data)
            except EquimodalError as error:
                failures[cell] = str(error)
            if termination.requested:  # between two cells
                raise Terminated(folder)
            done[cell] = cells[cell].training.epochs
            tell(cell)
        return failures
    # spawned processes start clean: no threads or generators are inherited half-way
    context = multiprocessing.get_context("spawn")
    threads = os.environ.get("OMP_NUM_THREADS")
    os.environ["OMP_NUM_THREADS"] = "1"
    pool = ProcessPoolExecutor(min(workers, len(open_cells)), mp_context=context, initializer=prepare_worker)
    unexpected: list[BaseException] = []
    try:
        running: dict[Future[None], str] = {
            pool.submit(run_cell, cells[cell].to_dict(), str(folders[cell]), loggers): cell for cell in open_cells
        }
        while running:
            if termination.requested:
                end_workers(pool, running)
                raise Terminated(folder)
            finished, _ = wait(running, timeout=0.5, return_when=FIRST_COMPLETED)
            for future in finished:
                cell = running.pop(future)
                failure = future.exception()
                if isinstance(failure, EquimodalError):
                    failures[cell] = str(failure)
                elif isinstance(failure, BrokenProcessPool):
                    raise EquimodalError(
                        f"A worker process died while {cell!r} ran: out of memory, or a script without "
                        "`if __name__ == '__main__':` around its calls. Finished cells are kept: call again with the "
                        "same folder, and with fewer workers."
                    ) from failure
                elif failure is not None:
                    unexpected.append(failure)  # the other cells go on; it is raised when they are done
                done[cell] = cells[cell].training.epochs
            for cell in running.values():
                done[cell] = len(read_lines(folders[cell] / "history.jsonl"))
            tell(next(iter(running.values()), ""))
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
    if unexpected:
        raise unexpected[0]
    return failures


def summarise(
    config: StudyConfig, folder: Path, data: Dataset, costs: Mapping[str, float], failures: Mapping[str, str]
) -> dict[str, Any]:
    """The study as plain data: rows with mean and spread over seeds, histories, what is missing."""
    rows, histories, incomplete = [], [], [f"failed: {c}: {why}" for c, why in failures.items()]
    entries = config.rows(data)
    found: dict[str, list[dict[str, Any]]] = {}
    for label in entries:
        for seed in config.seeds:
            cell = _cell_folder(folder, f"{label}/seed{seed}")
            if not (cell / "metrics.json").exists():
                continue
            found.setdefault(label, []).append(read_json(cell / "metrics.json"))
            histories.append({"method": label, "seed": seed, "epochs": _epochs(cell / "history.jsonl")})
    alone = {m["seed"]: m["probe"] for m in found.get("Ensemble", []) if "probe" in m}
    for label, metrics in found.items():
        modality = entries[label].options.get("modality") if entries[label].method == "Unimodal" else None
        probes = [{k: v for k, v in m.get("probe", {}).items() if modality in (None, k)} for m in metrics]
        gaps = [
            {k: alone[m["seed"]][k] - v for k, v in p.items()}
            for m, p in zip(metrics, probes, strict=True)
            if m["seed"] in alone
        ]
        mean, std = _spread([m["test"]["score"] for m in metrics])
        rows.append({
            "method": label,
            "class": entries[label].method,
            "options": entries[label].options,
            "control": get(entries[label].method).info.control,
            "seeds": len(metrics),
            "score_mean": mean,
            "score_std": std,
            "scores": [m["test"]["score"] for m in metrics],
            "validation_mean": _spread([m["validation"]["score"] for m in metrics])[0],
            "per_modality": _by_modality(probes),
            "own_outputs": _by_modality([m["test"]["unimodal"] for m in metrics]),
            "under_trained": _by_modality(gaps),
            "rules": _rules(metrics),
            "cost": costs.get(label),
            "seconds": statistics.fmean(m["seconds"] for m in metrics),
        })  # fmt: skip
    study: dict[str, Any] = plain({
        "title": f"{data.name}: {len(rows)} entries, {len(config.seeds)} seed(s)",
        "created": time.strftime("%Y-%m-%d %H:%M"),
        "metric": {"name": data.task.main_metric, "higher_is_better": data.task.higher_is_better},
        "dataset": {"name": data.name, "target": data.target, "fingerprint": data.fingerprint, "samples": data.parts,
                    "modalities": list(data.modalities), "classes": len(data.classes)},
        "protocol": {"name": data.protocol.name, "description": data.protocol.description,
                     "validation": getattr(data.protocol, "validation", None)},
        "selection": ("epoch with the best validation score" if config.training.selection == "best" else "last epoch")
        + "; inference rules and temperatures fitted on "
        "validation data; "
                     "the test split is read once, after that",
        "budget": {"training": vars(config.training), "model": vars(config.model), "seeds": config.seeds},
        "rows": rows,
        "histories": histories,
        "incomplete": incomplete,
        "environment": environment(),
    })  # fmt: skip
    return study


def _epochs(path: Path) -> list[dict[str, Any]]:
    epochs = []
    for record in read_lines(path):
        coefficients: dict[str, dict[str, float]] = {}
        for name, value in record["coefficients"].items():
            kind, _, modality = name.partition("/")
            coefficients.setdefault(kind, {})[modality] = value
        epochs.append({
            "epoch": record["epoch"],
            "train_loss": sum(v for k, v in record["losses"].items() if "/" not in k and k not in ("task", "fused",
                                                                                                 "direction")),
            "validation_score": record["validation"]["score"],
            "unimodal": record["validation"]["unimodal"],
            "coefficients": coefficients,
            "extras": record["extras"],
        })  # fmt: skip
    return epochs


def _spread(values: Sequence[float]) -> tuple[float, float]:
    return statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else 0.0


def _by_modality(values: Sequence[Mapping[str, float]]) -> dict[str, list[float]]:
    names = list(dict.fromkeys(name for v in values for name in v))
    return {name: list(_spread([v[name] for v in values if name in v])) for name in names}


def _rules(metrics: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, float]]:
    names = list(dict.fromkeys(rule for m in metrics for rule in m["rules"]))
    return {
        rule: {
            part: statistics.fmean(m["rules"][rule][part] for m in metrics if rule in m["rules"])
            for part in ("validation", "test")
        }
        for rule in names
    }
