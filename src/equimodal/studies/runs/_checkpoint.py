"""Checkpoints that are whole or not there: written beside, put in place at once, the one before kept."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO
from lightning.pytorch import Callback, LightningModule, Trainer

from equimodal._utils.files import replace_file
from equimodal.errors import CheckpointError, EquimodalError, EquimodalWarning
from equimodal.lightning import MethodModule
from equimodal.studies.runs._processes import own_share
from equimodal.studies.runs._records import read_checkpoint
from equimodal.studies.runs._signals import PREVIOUS, Terminated, Termination

LAST, UNREADABLE = "last.ckpt", "unreadable.ckpt"


class WholeFiles(TorchCheckpointIO):
    """Lightning's checkpoint files, written in the folder where they belong and renamed when they are complete.

    Lightning writes to the system's temporary folder and moves; between two file systems a move is a copy, which can be
    cut. The newest checkpoint before this one stays as ``previous.ckpt``.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None) -> None:
        """Write ``checkpoint``; a full disk or a kill leaves what was there before."""
        target = Path(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        keep = target.with_name(PREVIOUS) if target.name == LAST else None
        replace_file(target, lambda file: torch.save(checkpoint, file), keep)


def newest(folder: Path) -> tuple[Path, dict[str, Any]] | None:
    """The newest checkpoint that can be read, with its content; ``None`` where there is none.

    Warns:
        EquimodalWarning: the newest file is truncated or corrupt, and the one before it is used. The bad file is kept
            as ``unreadable.ckpt``.

    Raises:
        CheckpointError: there are checkpoints, and none can be read.
    """
    failure: CheckpointError | None = None
    for name in (LAST, PREVIOUS):
        path = folder / name
        if not path.exists():
            continue
        try:
            content = read_checkpoint(path)
        except CheckpointError as error:
            failure = failure or error
            continue
        if failure is not None:
            (folder / LAST).replace(folder / UNREADABLE)  # else the next save would put it where the good one is
            warnings.warn(
                f"{failure} Continuing from the checkpoint before it, {path}; the bad file is kept as {UNREADABLE}.",
                EquimodalWarning,
                stacklevel=2,
            )
        for left in folder.glob(".*.partial"):  # of a process that was killed while it wrote
            left.unlink(missing_ok=True)
        return path, content
    if failure is not None:
        raise failure
    return None


@contextlib.contextmanager
def restoring(found: tuple[Path, Any] | None, history: Any) -> Iterator[None]:
    """Before training has begun, whatever a checkpoint raises while it is restored is a refusal of that checkpoint.

    Args:
        found: the checkpoint with its content, if there is one.
        history: says whether training has begun.

    Raises:
        CheckpointError: the checkpoint is of another model or method, or lacks something.
    """
    try:
        yield
    except OSError:
        raise
    except Exception as error:
        if found is None or history.begun or (isinstance(error, EquimodalError) and found[0].name in str(error)):
            raise
        said = " ".join(str(error).split())[:200]
        raise CheckpointError(
            f"`{found[0]}`: expected a checkpoint of this run. Found one that cannot be continued from "
            f"({type(error).__name__}: {said}). Delete it to begin anew, or restore it."
        ) from error


class Keeper(Callback):
    """Saves inside an epoch: every so many updates, and when the process is asked to end.

    Args:
        path: of the checkpoint.
        every: updates between two checkpoints; ``None`` for none inside an epoch.
        termination: says whether the process was asked to end.
    """

    def __init__(self, path: Path, every: int | None, termination: Termination) -> None:
        self._path, self._every, self._termination = path, every, termination
        self._updates = 0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take the signal back from the Trainer, which would end in the middle of a validation."""
        self._termination.install()

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Between epochs everything is saved already."""
        self._updates = 0
        if own_share().any(self._termination.requested):
            self._leave()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Save where it is due and no micro-batch waits."""
        if not (isinstance(pl_module, MethodModule) and pl_module.at_boundary):
            return
        if batch_idx + 1 == trainer.num_training_batches:
            return  # validation and the checkpoint of the whole epoch follow
        self._updates += 1
        due = self._every is not None and self._updates % self._every == 0
        asked = self._termination.requested and own_share().count == 1  # several processes agree between epochs
        if due or asked:
            trainer.save_checkpoint(self._path, weights_only=False)
        if asked:
            self._leave()

    def _leave(self) -> None:
        raise Terminated(self._path.parent.parent)


def epoch_of(content: Mapping[str, Any]) -> int:
    """Number of the last whole epoch in a checkpoint; -1 before the first."""
    return int(content["epoch"]) - bool(content.get("inside_epoch"))
