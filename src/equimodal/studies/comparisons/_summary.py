"""What the finished cells of a comparison say together."""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from equimodal.data import Dataset
from equimodal.diagnostics import Outcomes, score_interval
from equimodal.errors import DataError
from equimodal.methods import get
from equimodal.studies.comparisons._details import run_record
from equimodal.studies.comparisons._differences import differences
from equimodal.studies.comparisons._rules import rule_advice
from equimodal.studies.runs import (
    OUTCOMES,
    SELECTIONS,
    check_config,
    environment,
    is_finished,
    plain,
    read_history,
    read_metrics,
    read_samples,
)
from equimodal.studies.setup import Entry, StudyConfig, cell_folder, resolved_options


def summarise(
    config: StudyConfig, folder: Path, data: Dataset, costs: Mapping[str, float], failures: Mapping[str, str]
) -> dict[str, Any]:
    """The study as plain data: rows with mean and spread over seeds, histories, what is missing."""
    rows, histories, runs, incomplete = [], [], [], [f"failed: {c}: {why}" for c, why in failures.items()]
    entries, cells = config.rows(data), config.cells(data)
    parts = list(getattr(data.task, "regions", ()))
    found: dict[str, list[dict[str, Any]]] = {}
    outcomes: dict[str, dict[int, dict[str, Outcomes]]] = {}
    for label in entries:
        for seed in config.seeds:
            name, cell = f"{label}/seed{seed}", cell_folder(folder, label, seed)
            if name in failures:
                continue
            if not is_finished(cell):
                incomplete.append(f"not finished: {name}")
                continue
            try:
                check_config(cells[name], cell)
                read = read_metrics(cell, cells[name])
            except DataError as error:  # another run's numbers must not stand in this row
                incomplete.append(f"left out: {name}: {error}")
                continue
            found.setdefault(label, []).append(read)
            own, predictions = read_samples(cell / OUTCOMES)
            outcomes.setdefault(label, {})[seed] = own
            runs.append(run_record(label, read, cell.relative_to(folder).as_posix(), cell, own, parts, predictions))
            histories.append({"method": label, "seed": seed, "epochs": epochs_of(cell / "history.jsonl")})
    independent = next((label for label, e in entries.items() if get(e.method).info.role == "independent"), "")
    alone = {m["seed"]: m["probe"] for m in found.get(independent, []) if "probe" in m}
    for label, metrics in found.items():
        probes = [_trained_probes(m, entries[label]) for m in metrics]
        gaps = [
            {k: alone[m["seed"]][k] - v for k, v in p.items()}
            for m, p in zip(metrics, probes, strict=True)
            if m["seed"] in alone
        ]
        rows.append(row_of(label, entries[label], metrics, outcomes[label], gaps, costs.get(label), config.metrics))
    rivals = [label for label in found if get(entries[label].method).info.control]
    study: dict[str, Any] = plain({
        "title": f"{data.name}: {_counted(rows, 'entry', 'entries')}, {_counted(config.seeds, 'seed', 'seeds')}",
        "created": time.strftime("%Y-%m-%d %H:%M"),
        "metric": {"name": data.task.main_metric, "higher_is_better": data.task.higher_is_better},
        "dataset": {"name": data.name, "target": data.target, "fingerprint": data.fingerprint, "samples": data.parts,
                    "modalities": list(data.modalities), "classes": len(data.classes),
                    "class_names": list(map(str, data.classes))},
        "protocol": {"name": data.protocol.name, "description": data.protocol.description,
                     "validation": getattr(data.protocol, "validation", None)},
        "selection": SELECTIONS[config.training.selection] + "; inference rules and temperatures fitted on "
        "validation data; "
                     "the test split is read once, after that",
        "budget": {"training": vars(config.training), "model": vars(config.model), "seeds": config.seeds},
        "rows": rows,
        "differences": differences(outcomes, rivals, independent),
        "histories": histories,
        "runs": runs,
        "incomplete": incomplete,
        "environment": environment(),
    })  # fmt: skip
    return study


def row_of(
    label: str,
    entry: Entry,
    metrics: Sequence[Mapping[str, Any]],
    outcomes: Mapping[int, Mapping[str, Outcomes]],
    gaps: Sequence[Mapping[str, float]] = (),
    cost: float | None = None,
    shown: Sequence[str] = (),
) -> dict[str, Any]:
    """One row: mean and spread over the runs of an entry.

    Args:
        label: of the entry.
        entry: what was run.
        metrics: ``metrics.json`` of each run.
        outcomes: seed -> outcomes on test data.
        gaps: modality -> how far its probe lies below that of the same encoder trained alone, run by run.
        cost: of a step, in joint steps.
        shown: names of further metrics that the row has.
    """
    info = get(entry.method).info
    mean, std = _spread([m["test"]["score"] for m in metrics])
    return {
        "method": label,
        "class": entry.method,
        "options": resolved_options(entry.method, entry.options),
        "control": info.control,
        "role": info.role,
        "uses": entry.uses,
        "seeds": len(metrics),
        "score_interval": _interval(outcomes),
        "score_mean": mean,
        "score_std": std,
        "scores": [m["test"]["score"] for m in metrics],
        "validation_mean": _spread([m["validation"]["score"] for m in metrics])[0],
        "per_modality": _by_modality([_trained_probes(m, entry) for m in metrics]),
        "own_outputs": _by_modality([m["test"]["unimodal"] for m in metrics]),
        "own_output_samples": metrics[0]["test"].get("unimodal_samples"),
        "under_trained": _by_modality(gaps),
        "rules": _rules(metrics),
        "rule_advice": rule_advice(metrics, outcomes),
        "metrics": _by_modality([{n: v for n in shown if (v := m["test"].get(n)) is not None} for m in metrics]),
        "cost": cost,
        "seconds": statistics.fmean(m["seconds"] for m in metrics),
    }


def epochs_of(path: Path) -> list[dict[str, Any]]:
    """The epochs in a history file, as a report reads them."""
    epochs = []
    for record in read_history(path):
        coefficients: dict[str, dict[str, float]] = {}
        for name, value in record["coefficients"].items():
            kind, _, modality = name.partition("/")
            coefficients.setdefault(kind, {})[modality] = value
        epochs.append({
            "epoch": record["epoch"],
            "train_loss": record["loss"] if "loss" in record else _sum_of_phases(record["losses"]),
            "validation_score": record["validation"]["score"],
            "unimodal": record["validation"]["unimodal"],
            "coefficients": coefficients,
            "extras": record["extras"],
        })  # fmt: skip
    return epochs


def _sum_of_phases(losses: Mapping[str, float]) -> float:
    """The loss of an epoch on record by a version that did not say which of its losses are phases."""
    parts = ("task", "fused", "direction")  # what the methods of that version reported beside their phases
    return sum(value for name, value in losses.items() if "/" not in name and name not in parts)


def _counted(items: Sequence[Any], one: str, many: str) -> str:
    return f"{len(items)} {one if len(items) == 1 else many}"


def _interval(by_seed: Mapping[int, Mapping[str, Outcomes]]) -> list[float] | None:
    """Of the mean score over seeds and samples, 95 %; ``None`` where the runs recorded no outcomes."""
    own = [o["prediction"] for o in by_seed.values() if "prediction" in o]
    return list(score_interval(own)) if own and len({o.numerator.shape for o in own}) == 1 else None


def _trained_probes(metrics: Mapping[str, Any], entry: Entry) -> dict[str, float]:
    """The probes of the encoders that the method trained."""
    probes: dict[str, float] = metrics.get("probe", {})
    trained = metrics.get("trained_modalities")
    if trained is None:  # on record by a version that did not say so
        single = entry.options.get("modality") if get(entry.method).info.role == "single" else None
        trained = list(probes) if single is None else [single]
    return {m: score for m, score in probes.items() if m in trained}


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
