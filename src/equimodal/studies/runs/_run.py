"""One run: train on the training split, choose on the validation split, report on the test split, leave a folder."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import signal
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from equimodal._utils.outside import check_folder
from equimodal.data import Dataset, TestSplit, TrainSplit, ValidationSplit, loader, require
from equimodal.diagnostics import Evaluation, Outcomes, evaluate, probe_scores, rule_outcomes, sample_outcomes
from equimodal.engine import load_random_state, save_random_state
from equimodal.errors import DataError, StorageError, missing_extra
from equimodal.methods import Method, refuse_incomplete
from equimodal.studies.runs._companions import WEIGHTS, load_companions
from equimodal.studies.runs._identity import check_config, check_fingerprint, located
from equimodal.studies.runs._metrics import METRICS, is_finished, read_metrics
from equimodal.studies.runs._outcomes import OUTCOMES, write_outcomes
from equimodal.studies.runs._records import (
    environment,
    plain,
    write_json,
    write_text,
    write_yaml,
)
from equimodal.studies.runs._seal import SEAL, SEALED_SINCE, hashes_of, seal, verify, warn_versions
from equimodal.studies.runs._select import load_selected
from equimodal.studies.runs._signals import PREVIOUS, Terminated, Termination, locked
from equimodal.studies.runs._stored import read_history
from equimodal.studies.runs._weights import save_weights
from equimodal.studies.setup import (
    RunConfig,
    TrainingConfig,
    build_data,
    check_device,
    optimizer_factory,
    resolved_options,
    scheduler_factory,
    seeded,
)

Progress = Callable[[Mapping[str, Any]], None]
"""Called with {"epoch", "epochs", "score"} after every epoch."""


def run(
    config: RunConfig,
    folder: Path | str,
    *,
    resume: bool = False,
    progress: Progress | None = None,
    bar: bool = False,
    loggers: bool = True,
    data: Dataset | None = None,
) -> dict[str, Any]:
    """Train, select and evaluate; returns the content of ``metrics.json``.

    The trained methods of other runs that it uses are read first, see :class:`RunConfig`.

    The folder then holds ``config.yaml`` (resolved), ``environment.json``, ``history.jsonl`` (one line per epoch),
    ``metrics.json``, ``weights.safetensors`` (of the selected epoch), ``checkpoints/``, and ``content.json``, the
    hashes of these files, by which changes are noticed.

    Args:
        config: what to run.
        folder: where to leave it; must not hold another run, unless ``resume``.
        resume: continue the run that the folder holds from its last whole epoch. A finished run is not run again.
        progress: called after every epoch.
        bar: show Lightning's progress bar.
        loggers: write a TensorBoard log too.
        data: the dataset, if it is loaded already.

    Raises:
        DataError: the folder holds another run, another process works in it, the data are not those of the run that is
            resumed, or a run that is used is not there.
        CheckpointError: a run that is used has changed since.
        SystemExit: with the code 75, after SIGTERM: everything is saved, ``resume`` continues.
        NonFiniteError: NaN or infinity in the data or a loss; the last good checkpoint stays.
    """
    folder = Path(folder)
    config = dataclasses.replace(config, options=resolved_options(config.method, config.options))
    check_folder(folder)
    if resume and is_finished(folder):
        verify(folder)
        check_config(config, folder)
        return read_metrics(folder, config)
    check_device(config.training.device)
    if data is None:
        known = resume and (folder / "config.yaml").exists()
        data = build_data(located(config.data, folder) if known else config.data)
    if "test" not in data.parts:
        require(data.test, TestSplit, "test")  # refused now, not after the training
    with contextlib.ExitStack() as stack, Termination(f"equimodal train --resume --out {folder}") as termination:
        with own_randomness():
            method = seeded(config, data, load_companions(config, data, folder))
            refuse_incomplete(method, data.train.present)
            stack.enter_context(locked(folder))
            prepare_folder(config, folder, data, resume)
            best = fit(method, data.train, data.validation, config, folder, resume=resume, progress=progress, bar=bar,
                       loggers=loggers, termination=termination)  # fmt: skip
        return conclude(method, data, config, folder, best)


def prepare_folder(config: RunConfig, folder: Path, data: Dataset, resume: bool) -> None:
    """Write what the run is; refuse a folder that holds another one."""
    known = folder / "config.yaml"
    if known.exists():
        if not resume:
            raise DataError(
                f"`{folder}`: expected an empty folder. Found the run of {known}. Continue it with --resume, or choose "
                "another folder."
            )
        verify(folder, ("config.yaml", "environment.json"))
        warn_versions([folder])
        check_config(config, folder)
        check_fingerprint(folder, data)
        return
    write_json(
        folder / "environment.json",
        {
            **environment(),
            "format": SEALED_SINCE,
            "directory": str(Path.cwd()),
            "data": {
                "name": data.name,
                "protocol": data.protocol.name,
                "validation": getattr(data.protocol, "validation", None),
                "fingerprint": data.fingerprint,
                "samples": data.parts,
                "present": data.presence,
            },
        },
    )
    partial = write_yaml(folder / ".config.yaml.new", config.to_dict())
    written = {"config.yaml": partial, "environment.json": folder / "environment.json"}
    write_json(folder / SEAL, {"sha256": hashes_of(written)})
    partial.replace(known)  # last: a folder with a configuration is a folder that can be resumed


@contextlib.contextmanager
def own_randomness() -> Iterator[None]:
    """Leave the generators of the caller as they were."""
    devices = list(range(torch.cuda.device_count())) if torch.cuda.is_available() else []
    state = save_random_state()
    try:
        with torch.random.fork_rng(devices=devices):
            yield
    finally:
        load_random_state(state)


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
        loggers: write a TensorBoard log too.
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
        from lightning.pytorch.loggers import TensorBoardLogger
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
        lr=settings.lr,
        scheduler=scheduler_factory(settings),
        clip_norm=settings.clip_norm,
        accumulate=settings.accumulate,
    )
    checkpoints = folder / "checkpoints"
    every: dict[str, Any] = {"save_on_train_epoch_end": True, "enable_version_counter": False}
    history = History(folder / "history.jsonl", progress)
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
    logger = TensorBoardLogger(folder / "logs", name="tensorboard", version="") if loggers else False
    resumed = newest(checkpoints) if resume else None
    if resumed is not None:
        content = resumed[1]
        history.keep_until(epoch_of(content))
        if until is not None and epoch_of(content) + 1 >= until and not content.get("inside_epoch"):
            return _select(method, folder, settings)
        states = content.get("callbacks", {})
        if any(state.get("stopped_epoch") for name, state in states.items() if name.startswith("EarlyStopping")):
            return _select(method, folder, settings)
    elif (folder / "history.jsonl").exists():
        write_text(folder / "history.jsonl", "")
    quiet = logging.getLogger("lightning.pytorch.utilities.rank_zero")
    level = quiet.level
    quiet.setLevel(logging.WARNING)
    on_interrupt = signal.getsignal(signal.SIGINT)
    with restoring(resumed, history), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*does not have many workers.*")
        warnings.filterwarnings("ignore", message=".*Checkpoint directory.*exists and is not empty.*")
        warnings.filterwarnings("ignore", message=".*number of training batches.*smaller than the logging interval.*")
        warnings.filterwarnings("ignore", message=".*LeafSpec.*is deprecated.*")
        try:
            trainer = Trainer(
                max_epochs=settings.epochs,
                accelerator=settings.device,
                devices=1,
                callbacks=callbacks,
                **_precision(settings),
                logger=logger,
                enable_progress_bar=bar,
                enable_model_summary=False,
                num_sanity_val_steps=0,
                log_every_n_steps=1_000_000_000,
            )
            trainer.fit(
                module,
                loader(
                    train,
                    settings.batch_size,
                    shuffle=True,
                    seed=config.seed,
                    # a few left-over samples would make batch statistics of their own, the last ones of every epoch
                    drop_last=len(train) > settings.batch_size,
                    augment=settings.augment,
                ),
                loader(validation, max(256, settings.batch_size)),
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


def conclude(method: Method, data: Dataset, config: RunConfig, folder: Path, best: Mapping[str, Any]) -> dict[str, Any]:
    """Fit the inference rule, read the test split, and leave weights and metrics; returns the metrics.

    Args:
        method: trained, with the selected weights.
        data: of the run.
        config: of the run.
        folder: of the run, with its history.
        best: what :func:`fit` returned.
    """
    metrics, outcomes = _finish(method, data, config, best)
    metrics["seconds"] = sum(record["seconds"] for record in read_history(folder / "history.jsonl"))
    save_weights(method, folder / WEIGHTS, {"config": plain(config.to_dict())})
    write_outcomes(folder / OUTCOMES, outcomes)
    write_json(folder / METRICS, metrics)
    seal(folder, ("history.jsonl", METRICS, WEIGHTS, OUTCOMES))  # last: what has it is finished
    (folder / "checkpoints" / PREVIOUS).unlink(missing_ok=True)
    return metrics


def _scores(found: Evaluation) -> dict[str, Any]:
    """Scores, and how many samples each of them is over."""
    return {
        "score": found.score, "loss": found.loss, "unimodal": found.unimodal,
        "samples": found.samples, "unimodal_samples": found.counts,
    }  # fmt: skip


def _finish(
    method: Method, data: Dataset, config: RunConfig, best: Mapping[str, Any]
) -> tuple[dict[str, Any], dict[str, Outcomes]]:
    """Fit the inference rule on validation data, then look at the test split, once."""
    size = max(256, config.training.batch_size)
    validation = loader(data.validation, size)
    test = loader(require(data.test, TestSplit, "test"), size)
    rule = method.fit_inference(validation)
    on_validation, on_test = evaluate(method, validation), evaluate(method, test, metrics=True)
    rules = rule_outcomes(method, validation, test)
    metrics: dict[str, Any] = {
        "method": type(method).__name__,
        "options": config.options,
        "seed": config.seed,
        "data": data.name,
        "protocol": data.protocol.name,
        "target": data.target,
        "metric": {"name": method.task.main_metric, "higher_is_better": method.task.higher_is_better},
        "selection": dict(best),
        "rule": rule,
        "test": {**_scores(on_test), **on_test.metrics},
        "validation": _scores(on_validation),
        "rules": {r: {"validation": chosen, "test": float(o.score())} for r, (chosen, o) in rules.items()},
        "inference": method.inference.record(),
        "parameters": sum(p.numel() for p in method.parameters()),
        "trained_modalities": method.trained_modalities(),
    }
    if config.probe:
        train = loader(data.train, size, shuffle=False)
        metrics["probe"] = probe_scores(method, train, validation, test)
    return plain(metrics), sample_outcomes(method, test) | {f"rule/{r}": o for r, (_, o) in rules.items()}
