"""One trial: a run in parts, whose validation outputs are stored and read by every rule."""

from __future__ import annotations

import functools
import json
import warnings
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

from equimodal.data import Dataset, loader
from equimodal.engine import Sharpness
from equimodal.errors import EquimodalError, EquimodalWarning
from equimodal.methods import Method
from equimodal.studies.runs import SELECTIONS, Progress, Termination, load_selected, own_randomness, train_part
from equimodal.studies.setup import DataConfig, RunConfig, build_data, method_options, seeded
from equimodal.studies.tuning._candidates import Bench, Candidate, candidates, simplest
from equimodal.studies.tuning._outputs import collect, folds, groups_of, write_outputs

OUTPUTS = "validation.safetensors"


def advance(
    config: RunConfig,
    folder: Path,
    until: int,
    data: Dataset,
    *,
    progress: Progress | None = None,
    termination: Termination | None = None,
) -> dict[str, Any]:
    """Train a trial up to an epoch and score every prediction that it allows, on validation data.

    Args:
        config: of the run.
        folder: of the run.
        until: epochs, counted from the first.
        data: of the run.
        progress: called after every epoch.
        termination: says whether the process was asked to end.

    Returns:
        ``candidates`` (plain), ``pick``, the position of the simplest one within a standard error of the best, and its
        ``score``.
    """
    method, _ = train_part(config, folder, data, until, progress=progress, termination=termination)
    batches = loader(data.validation, max(256, config.training.batch_size))
    whole = until >= config.training.epochs
    stored = {}
    for selection in dict.fromkeys([config.training.selection, *SELECTIONS]) if whole else ("last",):
        if whole:
            load_selected(method, folder, selection)
        stored[selection] = collect(method, batches)
    if whole:
        write_outputs(folder / OUTPUTS, stored)
    own = Candidate(config.training.selection if whole else "last", *own_rule(method), score=0.0)
    bench = bench_of(data)
    found = candidates(bench, stored, own, rules="inference" in method_options(config.method))
    while found:
        position = simplest(bench, found)
        if found[position][0].default or allowed(config, data, found[position][0]):
            listed = [candidate.plain() for candidate, _ in found]
            return {"candidates": listed, "pick": position, "score": found[position][0].score}
        del found[position]  # the method takes no such rule
    return {"candidates": [], "pick": None, "score": None}


def advance_apart(config: dict[str, Any], folder: str, until: int) -> dict[str, Any]:
    """:func:`advance` in a process of its own, where the data are loaded once."""
    made = RunConfig.from_dict(config)
    warnings.filterwarnings("ignore", category=EquimodalWarning)  # this process does nothing else
    return advance(made, Path(folder), until, _data(json.dumps(config["data"], sort_keys=True)))


@functools.lru_cache(maxsize=1)
def _data(text: str) -> Dataset:
    return build_data(DataConfig(**json.loads(text)))


def own_rule(method: Method) -> tuple[str, bool]:
    """The rule that a method has by itself, and whether it is calibrated."""
    return method.inference.rule, method.inference.calibrated


def bench_of(data: Dataset) -> Bench:
    """The validation samples of a dataset."""
    return Bench(data.task, data.validation.target, folds(data.validation), groups_of(data.validation))


def with_candidate(config: RunConfig, candidate: Candidate) -> RunConfig:
    """The run that trains the same and predicts as the candidate does."""
    chosen: dict[str, Any] = {} if candidate.default else {"inference": candidate.rule}
    if not candidate.default and (candidate.calibrated or config.options.get("calibrated")):
        chosen["calibrated"] = candidate.calibrated
    return replace(
        config,
        options={**config.options, **chosen},
        training=replace(config.training, selection=cast(Any, candidate.selection)),
    )


def allowed(config: RunConfig, data: Dataset, candidate: Candidate) -> bool:
    """Whether the method can be built with what the candidate needs, so that the run can be repeated."""
    try:
        with own_randomness():
            seeded(with_candidate(config, candidate), data)
    except EquimodalError:
        return False
    return True


def config_of(params: Mapping[str, Any], base: RunConfig) -> RunConfig:
    """The run that a point of the search space stands for.

    Args:
        params: ``method`` and ``lr``; ``fusion``, ``sharpness``, ``sharpness.radius`` and ``METHOD.OPTION`` where they
            are searched.
        base: data, model, training and seed.
    """
    name = str(params["method"])
    options = {
        key.partition(".")[2]: value for key, value in params.items() if key.partition(".")[0] == name and "." in key
    }
    if params.get("sharpness", "off") != "off":
        radius = float(params.get("sharpness.radius", _default_radius()))
        options["sharpness"] = {"mode": params["sharpness"], "radius": radius}
    fusion = str(params.get("fusion", base.model.fusion))
    kept = base.model.fusion_options if fusion == base.model.fusion else {}
    return replace(
        base,
        method=name,
        options=options,
        model=replace(base.model, fusion=fusion, fusion_options=dict(kept)),
        training=replace(base.training, lr=float(params["lr"])),
    )


def _default_radius() -> float:
    return Sharpness().radius
