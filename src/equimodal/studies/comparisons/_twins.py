"""Cells of a comparison that are one run under several labels: it is made once."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path

from equimodal._utils.files import sync_folder
from equimodal.studies.runs import plain
from equimodal.studies.setup import RunConfig, resolved_options


def twins_of(cells: Mapping[str, RunConfig]) -> dict[str, str]:
    """Cell -> an earlier cell of equal configuration, options that were left out counting as their defaults.

    Args:
        cells: name -> configuration.
    """
    first: dict[str, str] = {}
    found = {}
    for name, config in cells.items():
        options = resolved_options(config.method, config.options)
        known = first.setdefault(repr(plain({**config.to_dict(), "options": options})), name)
        if known != name:
            found[name] = known
    return found


def take_over(run: Path, folder: Path) -> bool:
    """Copy the records of a finished run into a folder of its own, at once or not at all.

    Args:
        run: folder of the finished run.
        folder: of its twin.

    Returns:
        Whether they are there; not if something was begun there before, which then goes on, or nothing can be copied.
    """
    if folder.exists():
        return False
    folder.parent.mkdir(parents=True, exist_ok=True)
    aside = folder.parent / f".twin-{folder.name}"  # the same name each time: a copy that was cut off is not left there
    try:
        shutil.rmtree(aside, ignore_errors=True)
        shutil.copytree(run, aside / "run", ignore=shutil.ignore_patterns(".lock"))
        (aside / "run").rename(folder)
        sync_folder(folder.parent)
    except OSError:  # another process was faster, or there is no room: it is run, which says so
        return False
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return True
