"""One finished run as the record of a comparison with a single row, so that it has a report too."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from equimodal.studies.comparisons._details import EVALUATION, run_record
from equimodal.studies.comparisons._summary import epochs_of, row_of
from equimodal.studies.runs import (
    OUTCOMES,
    SELECTIONS,
    check_finished,
    plain,
    read_environment,
    read_json,
    read_metrics,
    read_samples,
    stored_config,
    verify,
)
from equimodal.studies.setup import DataConfig, Entry, recipe


def study_of_run(folder: Path | str) -> dict[str, Any]:
    """The record of a run, as :func:`compare` would keep it of a comparison of one entry and one seed.

    Args:
        folder: of a finished run.

    Raises:
        DataError: no finished run, or its files were changed since.
    """
    folder = Path(folder)
    if not (folder / "metrics.json").exists():
        check_finished(folder)
    verify(folder)
    config = stored_config(folder)
    metrics, (outcomes, predictions) = read_metrics(folder, config), read_samples(folder / OUTCOMES)
    environment = read_environment(folder)
    known = environment.pop("data", {})
    entry, label, seed = Entry(config.method, config.options), metrics["method"], metrics["seed"]
    run = run_record(label, metrics, ".", folder, outcomes, (), predictions)
    if (folder / EVALUATION).is_file():
        run["evaluation"] = read_json(folder / EVALUATION)
    usual_parts = dict(zip(("model", "training"), recipe(config.data.name, config.data.target), strict=True))
    study: dict[str, Any] = plain({
        "kind": "run",
        "title": f"{metrics.get('data') or known.get('name')}: {label}, seed {seed}",
        "metric": metrics.get("metric", {}),
        "dataset": {"name": known.get("name"), "target": metrics.get("target"), "fingerprint": known.get("fingerprint"),
                    "samples": known.get("samples"), "class_names": known.get("classes") or [],
                    "modalities": list(metrics.get("probe") or metrics["test"]["unimodal"])},
        "data": {"name": config.data.name, **_changes(config.data, DataConfig())},
        **{name: _changes(getattr(config, name), usual) for name, usual in usual_parts.items()},
        "options": config.options,
        "protocol": {"name": known.get("protocol"), "validation": known.get("validation")},
        "selection": SELECTIONS[config.training.selection],
        "budget": {"training": dataclasses.asdict(config.training), "model": dataclasses.asdict(config.model)},
        "rows": [row_of(label, entry, [metrics], {seed: outcomes})],
        "histories": [{"method": label, "seed": seed, "epochs": epochs_of(folder / "history.jsonl")}],
        "runs": [run],
        "incomplete": [],
        "environment": environment,
    })  # fmt: skip
    return study


def _changes(part: Any, usual: Any) -> dict[str, Any]:
    """Fields of a part of the configuration that are not what a command takes by itself."""
    return {k: v for k, v in vars(part).items() if plain(v) != plain(vars(usual)[k])}
