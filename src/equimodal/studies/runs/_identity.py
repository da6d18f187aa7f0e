"""Which run a folder holds, and where its data are."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from equimodal.data import Dataset, available
from equimodal.errors import DataError
from equimodal.studies.runs._content import content_of
from equimodal.studies.runs._records import plain
from equimodal.studies.runs._stored import read_environment, stored_config
from equimodal.studies.setup import DataConfig, RunConfig, place_here, resolved_options

_ANY = ("logger", "loader")
"""Fields of a configuration that change no number: a run may go on with others."""


def check_config(config: RunConfig, folder: Path) -> None:
    """Refuse to take the run that ``folder`` holds for another one."""
    known = folder / "config.yaml"
    stored = stored_config(folder)
    if config.training.lr == "auto":  # what was found then
        config = dataclasses.replace(config, training=dataclasses.replace(config.training, lr=stored.training.lr))
    differing = list(_differences(_resolved(stored), _resolved(config)))
    if differing:
        raise DataError(
            f"`{folder}`: expected the configuration of the run that it holds. Found other values of "
            f"{'; '.join(differing)}. Compare with {known}, or choose another folder."
        )


def _resolved(config: RunConfig) -> Any:
    found = {k: v for k, v in config.to_dict().items() if k not in _ANY}
    return plain({**found, "options": resolved_options(config.method, config.options)})


def _differences(stored: Any, own: Any, name: str = "") -> Iterator[str]:
    """Each field that differs, with both values."""
    if isinstance(stored, Mapping) and isinstance(own, Mapping):
        for key in dict.fromkeys([*stored, *own]):
            yield from _differences(stored.get(key), own.get(key), f"{name}.{key}" if name else str(key))
    elif stored != own:
        yield f"{name} (expected {stored!r}, found {own!r})"


def check_fingerprint(folder: Path, data: Dataset) -> None:
    """Refuse data that are not those of the run in ``folder``."""
    stored = read_environment(folder).get("data", {}).get("fingerprint")
    if stored != data.fingerprint:
        raise DataError(
            f"`{folder}`: the data have changed since this run was started (config.yaml; fingerprint "
            f"{str(stored)[:12]} then, "
            f"{data.fingerprint[:12]} now). Restore them, or start anew in another folder."
        )


def check_finished(folder: Path) -> None:
    """Refuse a folder without the weights of a finished run, and say what it is instead."""
    if (folder / "weights.safetensors").exists():
        return
    found, step = content_of(folder)
    raise DataError(f"`{folder}`: expected the folder of a finished run. Found {found}. {step}.")


def located(config: DataConfig, folder: Path, started: str | None = None) -> DataConfig:
    """``config`` with the paths that hold from here, for a run that may have been started in another directory.

    A relative path that leads nowhere from here is tried from the directory where the run was started, from the folders
    above the run, and last below the folder that the environment variable ``EQUIMODAL_DATA`` names. ``started`` is that
    directory where the run does not say it, of a comparison.

    Raises:
        DataError: the data are at none of these places.
    """
    started = started or read_environment(folder).get("directory")
    places = [*([Path(started)] if started else []), *folder.resolve().parents]
    found: dict[str, Any] = {}
    for name in ("name", "card", "missing_file"):
        path = getattr(config, name)
        if path is None or Path(path).exists() or (name == "name" and path in available()):
            continue
        near = next((place / path for place in places if (place / path).exists()), None) or place_here(path)
        if near is None:
            tried = f"here ({Path.cwd()}), in {started or 'the directory where the run was started'} or above the run"
            raise DataError(
                f"`{path}`: expected the data of the run `{folder}` (config.yaml: data.{name}). Found nothing {tried}. "
                "Restore it, call from the directory that the path starts in, or name the folder of the data: "
                "EQUIMODAL_DATA=FOLDER."
            )
        found[name] = str(near)
    return dataclasses.replace(config, **found)
