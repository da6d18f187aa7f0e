"""The companions of a run: the trained methods of other finished runs, found where they are now."""

from __future__ import annotations

import copy
import os
from collections.abc import Mapping
from pathlib import Path

from equimodal._utils.outside import check_folder
from equimodal.data import Dataset
from equimodal.errors import DataError, MethodError
from equimodal.methods import Method
from equimodal.methods.parts import Companions
from equimodal.studies.runs._identity import check_finished
from equimodal.studies.runs._seal import verify
from equimodal.studies.runs._stored import named, read_environment, stored_config
from equimodal.studies.runs._weights import load_weights
from equimodal.studies.setup import RunConfig, seeded, sources

WEIGHTS = "weights.safetensors"


def load_companions(config: RunConfig, data: Dataset, folder: Path | None = None) -> dict[str, Companions]:
    """Option of the method -> the companions that ``config.uses`` names, read from their runs.

    A run that is named without a companion's name stands for every modality whose encoder it trained.

    Args:
        config: of the run that uses them.
        data: of that run; the others must have been trained on the same.
        folder: of that run, where relative paths may start.

    Raises:
        DataError: no finished run there, or one on other data; the message names the folder.
        MethodError: a run that did not train the modality it is named for.
        CheckpointError: its weights do not load.
    """
    places = dict(sources(config.uses))
    methods: dict[Path, Method] = {}
    for place, path in places.items():
        run = _located(path, place, folder)
        if run not in methods:
            methods[run] = _trained(run, data, place)
    companions = {}
    for option, value in config.uses.items():
        if isinstance(value, Mapping):
            modules = {name: methods[_located(path, f"{option}.{name}", folder)] for name, path in value.items()}
            paths = dict(value)
        else:
            method = methods[_located(value, option, folder)]
            modules = dict.fromkeys(method.trained_modalities(), method)
            paths = dict.fromkeys(modules, value)
        for name, method in modules.items():
            if name in method.modalities and name not in method.trained_modalities():
                raise MethodError(
                    f"`uses.{option}.{name}`: expected a run that trained the encoder of {name!r}. Found "
                    f"`{paths[name]}`, which trained {', '.join(map(repr, method.trained_modalities()))}. Name "
                    "another run."
                )
        companions[option] = Companions(modules, {name: f"{path}/{WEIGHTS}" for name, path in paths.items()})
    return companions


def _located(path: str, place: str, folder: Path | None) -> Path:
    """The folder that ``path`` leads to: from the run that uses it, from here, or from where that run was started."""
    starts = [Path()] if folder is None else [folder, Path()]
    if folder is not None:
        starts.append(Path(read_environment(folder).get("directory") or "."))
    starts += [] if folder is None else list(folder.resolve().parents)
    for start in starts:
        run = Path(os.path.normpath(start / path))  # by the letters: the folder that uses it may not exist yet
        if run.exists():
            return run
    raise DataError(
        f"`uses.{place}`: expected the folder of a finished run at `{path}`. Found nothing, here ({Path.cwd()})"
        f"{'' if folder is None else f', in `{folder}` or above it'}. Restore it, or name another one."
    )


def _trained(run: Path, data: Dataset, place: str) -> Method:
    try:
        check_folder(run)
        check_finished(run)
        verify(run)
    except DataError as error:
        raise DataError(f"`uses.{place}`: {error}") from error
    stored = read_environment(run).get("data", {}).get("fingerprint")
    if stored != data.fingerprint:
        raise DataError(
            f"`uses.{place}`: expected a run on the same data (fingerprint {data.fingerprint[:12]}). Found "
            f"{str(stored)[:12]} in `{run}`, whose training may have seen other splits. Train one on these data."
        )
    # a copy, as the task of the data is shared, and companions do not train
    with named(run / "config.yaml"):
        method = copy.deepcopy(seeded(stored_config(run), data))
    load_weights(method, run / WEIGHTS)
    return method
