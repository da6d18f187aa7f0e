"""Loggers of the Trainer by name."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from equimodal.errors import missing_extra

_PACKAGES = {"csv": ("lightning", "cli"), "tensorboard": ("tensorboard", "cli"), "wandb": ("wandb", "loggers"),
             "mlflow": ("mlflow", "loggers")}  # fmt: skip


def check_loggers(names: Sequence[str]) -> None:
    """Refuse, before anything is built, a logger whose package is not installed.

    Raises:
        MissingExtraError: with the line that installs it.
    """
    for name in names:
        package, extra = _PACKAGES[name]
        try:
            found = importlib.util.find_spec(package) is not None
        except ValueError:  # a module without a specification
            found = False
        if not found:
            raise missing_extra(package, extra, f"The logger {name!r}")


def made_loggers(names: Sequence[str], folder: Path) -> list[Any]:
    """The loggers of a run, which write to ``logs/`` of its folder; wandb and mlflow to where they are told to.

    Args:
        names: of csv, tensorboard, wandb and mlflow.
        folder: of the run.
    """
    check_loggers(names)
    logs = folder / "logs"
    made: list[Any] = []
    for name in dict.fromkeys(names):
        if name == "csv":
            from lightning.pytorch.loggers.csv_logs import CSVLogger

            # a folder per start of the run: the logger of Lightning deletes what it finds in its own
            made.append(CSVLogger(logs, name="csv", flush_logs_every_n_steps=1))
        elif name == "tensorboard":
            from lightning.pytorch.loggers.tensorboard import TensorBoardLogger

            made.append(TensorBoardLogger(logs, name="tensorboard", version=""))
        elif name == "wandb":
            from lightning.pytorch.loggers.wandb import WandbLogger

            logs.mkdir(parents=True, exist_ok=True)
            made.append(
                WandbLogger(name=folder.name, save_dir=logs, project=os.environ.get("WANDB_PROJECT", "equimodal"))
            )
        else:
            from lightning.pytorch.loggers.mlflow import MLFlowLogger

            place = os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{(logs / 'mlflow.db').resolve()}"
            logs.mkdir(parents=True, exist_ok=True)
            made.append(MLFlowLogger("equimodal", run_name=folder.name, tracking_uri=place))
    return made
