"""Where data lie on this machine, which a configuration that travels cannot say."""

from __future__ import annotations

import dataclasses
import os
import platform
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from equimodal._utils.outside import read_text
from equimodal._utils.plain_yaml import read_yaml
from equimodal._utils.schema import check
from equimodal.data import available
from equimodal.errors import DataError
from equimodal.studies.setup._config import DataConfig

PLACES = "EQUIMODAL_DATA"
"""Environment variable: the folder of the data, or a YAML file with the folder of each machine."""


def place_here(path: str) -> Path | None:
    """Where the data of ``path`` are on this machine: itself, or below the folder that ``EQUIMODAL_DATA`` names.

    There a relative path is looked for as it is, and then, as an absolute one, by its last part.

    Args:
        path: of a bundle, a card or a mask.

    Returns:
        ``None`` where they are at none of these places.

    Raises:
        DataError: ``EQUIMODAL_DATA`` names a file that is no mapping from machines to folders, or lacks this one.
    """
    if Path(path).exists():
        return Path(path)
    folder = _folder()
    if folder is None:
        return None
    tried = [folder / Path(path).name] if Path(path).is_absolute() else [folder / path, folder / Path(path).name]
    return next((place for place in tried if place.exists()), None)


def placed(config: DataConfig) -> DataConfig:
    """``config`` with the paths of this machine in place of those that lead nowhere."""
    found: dict[str, Any] = {}
    for name in ("name", "card", "missing_file"):
        path = getattr(config, name)
        if path is None or Path(path).exists() or (name == "name" and path in available()):
            continue
        place = place_here(path)
        if place is not None:
            found[name] = str(place)
    return dataclasses.replace(config, **found)


def _folder() -> Path | None:
    """Of the data on this machine."""
    said = os.environ.get(PLACES)
    if not said:
        return None
    if not Path(said).is_file():
        return Path(said)
    known = read_yaml(read_text(Path(said)), f"`{said}`", "Finding data")
    step = "Name a folder for each machine, as in: node*: /scratch/data"
    check(known, dict[str, str], file=f"`{said}`", step=step)
    machine = platform.node()
    names = (machine, machine.partition(".")[0])
    for pattern, folder in known.items():
        if any(fnmatch(name, pattern) for name in names):
            return Path(folder)
    raise DataError(
        f"`{said}`: expected the folder of the data on the machine {machine!r}. Found {', '.join(map(repr, known))}. "
        "Add the machine to this file, which EQUIMODAL_DATA names, or a pattern such as '*'."
    )
