"""Checks of one finished run."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from equimodal._utils.outside import check_folder
from equimodal.data import Dataset, loader
from equimodal.diagnostics import Outcomes
from equimodal.diagnostics.checks import Check, Records, Report, Subject, run_checks
from equimodal.errors import EquimodalError
from equimodal.methods import Method
from equimodal.studies.runs import (
    OUTCOMES,
    check_finished,
    load_run,
    read_environment,
    read_history,
    read_metrics,
    read_outcomes,
    stored_config,
    verify,
)
from equimodal.studies.setup import RunConfig, optimizer_factory


def check_run(
    folder: Path | str,
    *,
    ignore: Iterable[str] = (),
    fast: bool = False,
    records_only: bool = False,
    using: Iterable[Check] | None = None,
) -> Report:
    """All checks of a finished run: what is on record is not computed again.

    Where the run's data are not to be found, or have changed, the checks that need the model are listed with that
    reason, and the others are made.

    Args:
        folder: of the run.
        ignore: codes of checks that are left out.
        fast: leave out what trains or takes gradients.
        records_only: do not load the model.
        using: checks with thresholds of their own, instead of all registered ones.

    Raises:
        DataError: no finished run there, or a file that was changed.
        UnknownNameError: ``ignore`` holds a code that is none.
    """
    folder = Path(folder)
    check_folder(folder)
    check_finished(folder)
    verify(folder)
    config = stored_config(folder)
    metrics = read_metrics(folder, config)
    method, data, absence = _loaded(folder, records_only)
    subject = Subject(
        str(folder), method, data, records=records_of([folder], [metrics]), fast=fast,
        optimizer=optimizer_factory(config.training), absence=absence,
    )  # fmt: skip
    return run_checks(subject, ignore=ignore, using=using)


def _loaded(folder: Path, records_only: bool) -> tuple[Method | None, dict[str, Any], str]:
    """Method and data of a run, or why they are not there."""
    if records_only:
        return None, {}, f"only records were read: equimodal check {shlex.quote(str(folder))} loads it"
    try:
        config, data, method = load_run(folder)
    except EquimodalError as error:
        return None, {}, f"it could not be loaded: {' '.join(str(error).split())}"
    return method, loaders(data, config), ""


def loaders(data: Dataset, config: RunConfig) -> dict[str, Any]:
    """Part -> its samples, in batches of the size that the run used."""
    size = max(256, config.training.batch_size)
    parts: dict[str, Any] = {
        "train": loader(data.train, config.training.batch_size, shuffle=False),
        "validation": loader(data.validation, size),
    }
    return parts | ({"test": loader(data.test, size)} if "test" in data.parts else {})


def records_of(
    folders: Iterable[Path],
    metrics: list[dict[str, Any]],
    *,
    alone: Iterable[Mapping[str, Outcomes]] = (),
    rivals: Mapping[str, list[Mapping[str, Outcomes]]] | None = None,
    control: bool = False,
) -> Records:
    """What is on record of the runs of one method, one per seed.

    Args:
        folders: of the runs.
        metrics: what :func:`read_metrics` says of each.
        alone: outcomes of an independent model, of the same seeds.
        rivals: control -> its outcomes, of the same seeds.
        control: whether the method is a control.
    """
    folders = list(folders)
    outcomes = [read_outcomes(folder / OUTCOMES) for folder in folders]
    environment = read_environment(folders[0]).get("data", {})
    counts, presence = environment.get("samples") or {}, environment.get("present") or {}
    first = metrics[0]
    metric = first.get("metric")
    names = next((list(shares) for shares in presence.values()), list(first["validation"].get("unimodal") or {}))
    trained = first.get("trained_modalities")
    return Records(
        outcomes=outcomes if all(outcomes) else (),
        history=[read_history(folder / "history.jsonl") for folder in folders],
        selected=[m["selection"]["epoch"] for m in metrics if m.get("selection")],
        rules=[(m["rule"], {r: s["validation"] for r, s in m["rules"].items()}) for m in metrics if m.get("rules")],
        alone=list(alone),
        rivals=rivals or {},
        validation=[
            (m["validation"]["score"], m["validation"].get("samples") or counts["validation"])
            for m in metrics
            if m["validation"].get("samples") or counts.get("validation")
        ],
        presence={p: {m: (s, counts[p]) for m, s in shares.items()} for p, shares in presence.items() if p in counts},
        weights=[((m.get("inference") or {}).get("pool") or {}).get("weights") or {} for m in metrics],
        modalities=tuple(names),
        trained=tuple(names if trained is None else trained),
        share=None if metric is None else bool(metric["higher_is_better"]),
        control=control,
    )
