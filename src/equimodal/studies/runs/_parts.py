"""A run in parts: trained up to an epoch, looked at, and continued or not; the test split is read at the end only."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from equimodal.data import Dataset
from equimodal.methods import Method, refuse_incomplete
from equimodal.studies.runs._fit import Progress, fit
from equimodal.studies.runs._randomness import own_randomness
from equimodal.studies.runs._run import prepare_folder
from equimodal.studies.runs._signals import Termination, locked
from equimodal.studies.setup import RunConfig, seeded


def train_part(
    config: RunConfig,
    folder: Path,
    data: Dataset,
    until: int,
    *,
    progress: Progress | None = None,
    termination: Termination | None = None,
) -> tuple[Method, dict[str, Any]]:
    """Train a run up to an epoch, from where its folder has come to; no test sample is read.

    Args:
        config: of the run; its epochs decide the schedule.
        folder: of the run, new or begun.
        data: of the run.
        until: epochs, counted from the first one of the run.
        progress: called after every epoch.
        termination: says whether the process was asked to end.

    Returns:
        The method with the selected weights (those of the last epoch, unless ``until`` is the whole training), and what
        :func:`fit` says of them.

    Raises:
        EquimodalError: as :func:`run`.
    """
    with own_randomness():
        method = seeded(config, data)
        refuse_incomplete(method, data.train.present)
        with locked(folder):
            prepare_folder(config, folder, data, resume=True)
            found = fit(method, data.train, data.validation, config, folder, resume=True, progress=progress,
                        loggers=False, termination=termination, until=until, average=True)  # fmt: skip
    return method, found
