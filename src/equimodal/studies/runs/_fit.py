"""Training under the Trainer: callbacks, loggers, loaders, and the epoch that is kept."""

from __future__ import annotations

import dataclasses
import logging
import signal
import threading
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from equimodal.data import TrainSplit, ValidationSplit, loader, require
from equimodal.errors import StorageError, missing_extra
from equimodal.methods import Method
from equimodal.studies.runs._loggers import made_loggers
from equimodal.studies.runs._processes import Share, own_share
from equimodal.studies.runs._records import write_text
from equimodal.studies.runs._select import load_selected
from equimodal.studies.runs._signals import Terminated, Termination
from equimodal.studies.setup import RunConfig, TrainingConfig, fixed_rate, optimizer_factory, scheduler_factory

Progress = Callable[[Mapping[str, Any]], None]
"""Called with {"epoch", "epochs", "score"} after every epoch."""


def fit(
    method: Method,
    train: TrainSplit,
    validation: ValidationSplit,
    config: RunConfig,
    folder: Path,
    *,
    resume: bool = False,
    progress: Progress | None = None,
    bar: bool = False,
    loggers: bool = True,
    termination: Termination | None = None,
    until: int | None = None,
    average: bool = False,
) -> dict[str, Any]:
    """Train ``method`` and load the epoch that scored best on validation data into it.

    Only training and validation splits are accepted; anything else is a type error.

    Args:
        method: as it is before its first epoch.
        train: the samples to fit on.
        validation: the samples to choose on.
        config: of the run; ``config.training.epochs`` decides the schedule.
        folder: for history and checkpoints.
        resume: continue from the newest checkpoint there.
        progress: called after every epoch.
        bar: show Lightning's progress bar.
        loggers: use the loggers that ``config`` names; else none.
        termination: says whether the process was asked to end.
        until: stop after so many of the epochs, and load the last one; a call with ``resume`` goes on from there.
        average: keep the mean of the last weights beside the chosen ones, as ``selection="average"`` does.

    Returns:
        {"epoch": ..., "score": ...} of the selected epoch.
    """
    train, validation = require(train, TrainSplit, "train"), require(validation, ValidationSplit, "validation")
    try:
        from lightning.pytorch import Trainer
        from lightning.pytorch.callbacks import EarlyStopping
    except ImportError as error:
        raise missing_extra("lightning", "cli", "Training with the Trainer") from error
    from equimodal.lightning import MethodModule
    from equimodal.studies.runs._average import Pause, WeightAverage
    from equimodal.studies.runs._checkpoint import LAST, Keeper, epoch_of, newest, restoring
    from equimodal.studies.runs._history import Checkpoints, History

    settings = config.training
    if until is not None and until < settings.epochs:  # nothing is chosen yet
        settings = dataclasses.replace(settings, selection="last")
    module = MethodModule(
        method,
        optimizer_factory(settings),
        lr=fixed_rate(settings),
        scheduler=scheduler_factory(settings),
        clip_norm=settings.clip_norm,
        accumulate=settings.accumulate,
        compile=settings.compile,
    )
    checkpoints = folder / "checkpoints"
    every: dict[str, Any] = {"save_on_train_epoch_end": True, "enable_version_counter": False}
    share = own_share()
    history = History(folder / "history.jsonl", progress, writes=share.first)
    callbacks: list[Any] = [
        history,
        Checkpoints(dirpath=checkpoints, filename="best", monitor="validation/score", mode="max", **every),
        Checkpoints(dirpath=checkpoints, filename="last", **every),  # after the best one, whose state it holds
        Keeper(checkpoints / LAST, settings.checkpoint_every, termination or Termination()),
    ]
    if average or config.training.selection == "average":
        callbacks.append(WeightAverage(settings.epochs))
    if until is not None:
        callbacks.append(Pause(until))
    if settings.patience is not None:
        callbacks.append(EarlyStopping("validation/score", mode="max", patience=settings.patience))
    logger = made_loggers(config.logger, folder) if loggers and share.first else []
    resumed = newest(checkpoints) if resume else None
    if resumed is not None:
        content = resumed[1]
        history.keep_until(epoch_of(content))
        if until is not None and epoch_of(content) + 1 >= until and not content.get("inside_epoch"):
            return _select(method, folder, settings)
        states = content.get("callbacks", {})
        if any(state.get("stopped_epoch") for name, state in states.items() if name.startswith("EarlyStopping")):
            return _select(method, folder, settings)
    elif share.first and (folder / "history.jsonl").exists():
        write_text(folder / "history.jsonl", "")
    quiet = logging.getLogger("lightning.pytorch.utilities.rank_zero")
    level = quiet.level
    quiet.setLevel(logging.WARNING)
    on_interrupt = signal.getsignal(signal.SIGINT)
    with restoring(resumed, history), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*does not have many workers.*")
        warnings.filterwarnings("ignore", message=".*Checkpoint directory.*exists and is not empty.*")
        warnings.filterwarnings("ignore", message=".*number of training batches.*smaller than the logging interval.*")
        warnings.filterwarnings("ignore", message=".*sync_dist=True.*")  # what is logged is of the first process
        warnings.filterwarnings("ignore", message=".*LeafSpec.*is deprecated.*")
        try:
            trainer = Trainer(
                max_epochs=settings.epochs,
                accelerator=settings.device,
                **_devices(share),
                callbacks=callbacks,
                **_precision(settings),
                logger=logger or False,
                enable_progress_bar=bar,
                enable_model_summary=False,
                num_sanity_val_steps=0,
                log_every_n_steps=1_000_000_000,
            )
            trainer.fit(
                module,
                *_loaders(train, validation, config, share),
                ckpt_path=str(resumed[0]) if resumed is not None else None,
                weights_only=True,
            )
        except (StorageError, Terminated):
            raise
        except OSError as error:
            raise StorageError(
                f"`{folder}`: a file could not be written ({error}). What was written before still is; free space and "
                "call again (train: with --resume)."
            ) from error
        except SystemExit as error:  # what the Trainer makes of Ctrl-C, after it has switched further ones off
            if threading.current_thread() is threading.main_thread():
                signal.signal(signal.SIGINT, on_interrupt)
            raise KeyboardInterrupt from error
        finally:
            quiet.setLevel(level)
    return _select(method, folder, settings)


def _loaders(train: TrainSplit, validation: ValidationSplit, config: RunConfig, share: Share) -> tuple[Any, Any]:
    """Of training samples and of validation samples, of which each process has its part."""
    settings = config.training
    ahead: dict[str, Any] = {
        "num_workers": config.loader.workers,
        "pin_memory": settings.device != "cpu" and torch.cuda.is_available(),
    }
    return loader(
        train,
        share.part(settings.batch_size),
        shuffle=True,
        seed=config.seed,
        # a few left-over samples would make batch statistics of their own, the last ones of every epoch
        drop_last=len(train) > settings.batch_size,
        augment=settings.augment,
        shared=True,
        **ahead,
    ), loader(
        validation, max(256, settings.batch_size), indices=range(share.rank, len(validation), share.count), **ahead
    )


def _devices(share: Share) -> dict[str, Any]:
    """Arguments of the Trainer."""
    if share.count == 1:
        return {"devices": 1}
    return {
        "devices": share.local, "num_nodes": share.count // share.local, "strategy": "ddp",
        "use_distributed_sampler": False,
    }  # fmt: skip


def _precision(settings: TrainingConfig) -> dict[str, Any]:
    """Arguments of the Trainer. On a CPU it would run bfloat16 where float16 was asked for, hence the plug-in."""
    from lightning.pytorch.plugins import MixedPrecision

    from equimodal.studies.runs._checkpoint import WholeFiles

    on_cpu = settings.device == "cpu" or (settings.device == "auto" and not torch.accelerator.is_available())
    if settings.precision == "16-mixed" and on_cpu:
        half = MixedPrecision("16-mixed", "cpu", torch.amp.GradScaler("cpu"))
        return {"plugins": [WholeFiles(), half]}
    return {"plugins": [WholeFiles()], "precision": settings.precision}


def _select(method: Method, folder: Path, settings: TrainingConfig) -> dict[str, Any]:
    """Load the selected weights; which they are, and their validation score."""
    found = load_selected(method, folder, settings.selection)
    if settings.device == "cpu":
        method.to("cpu")
    return found
