"""One line per epoch, written as training goes: losses, scores, coefficients."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint

from equimodal.lightning import EpochMeans, MethodModule
from equimodal.studies.runs._records import append_line, write_text
from equimodal.studies.runs._stored import read_history


class History(Callback):
    """Writes ``history.jsonl``: means over the epoch of what each step reported, and the validation scores.

    Step values are summed on the device and read once per epoch.

    Args:
        path: the file.
        progress: called after every epoch.
        writes: whether this process writes; of several the first one does.
    """

    def __init__(
        self, path: Path, progress: Callable[[Mapping[str, Any]], None] | None = None, *, writes: bool = True
    ) -> None:
        self.path = path
        self._writes = writes
        self._progress = progress
        self._means = EpochMeans()
        self._started = time.perf_counter()
        self._earlier = 0.0
        self.begun = False
        """Whether training has begun, and so all of a checkpoint was restored."""

    def state_dict(self) -> dict[str, Any]:
        """Sums of an epoch that is not over, for a checkpoint inside it."""
        elapsed = self._earlier + time.perf_counter() - self._started
        return {**self._means.state_dict(), "seconds": elapsed}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore what :meth:`state_dict` gave."""
        self._means.load_state_dict(state_dict)
        self._earlier, self._started = float(state_dict["seconds"]), time.perf_counter()

    def keep_until(self, epoch: int) -> None:
        """Forget lines after ``epoch``, which a resumed run writes again."""
        if not self._writes:
            return
        kept = [r for r in read_history(self.path) if r.get("epoch", 0) <= epoch]
        write_text(self.path, "".join(json.dumps(r, sort_keys=True) + "\n" for r in kept))

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the sums."""
        self._means.clear()
        self._started, self._earlier = time.perf_counter(), 0.0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Everything is restored."""
        self.begun = True

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Add what the step reported; no synchronisation."""
        report = pl_module.last_report if isinstance(pl_module, MethodModule) else None
        if report is not None:
            self._means.add(report)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the line."""
        if not self._writes:
            return
        means = self._means.read()
        measured = {k: float(v) for k, v in trainer.callback_metrics.items()}
        record = {
            "event": "epoch",
            "epoch": trainer.current_epoch,
            "seconds": self._earlier + time.perf_counter() - self._started,
            "lr": float(trainer.optimizers[0].param_groups[0]["lr"]),
            "loss": means.get("loss"),
            "phases": self._means.phases,
            "losses": _part(means, "loss/"),
            "training_scores": _part(means, "score/"),
            "coefficients": _part(means, "coefficient/"),
            "extras": _part(means, "extra/"),
            "validation": {
                "score": measured.get("validation/score"),
                "loss": measured.get("validation/loss"),
                "unimodal": _part(measured, "validation/score/"),
            },
        }
        append_line(self.path, record)
        if self._progress is not None:
            self._progress({
                "epoch": trainer.current_epoch + 1,
                "epochs": trainer.max_epochs,
                "score": measured.get("validation/score"),
            })  # fmt: skip


class Checkpoints(ModelCheckpoint):
    """Lightning's checkpoints, for a folder that may have been moved since they were written."""

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the best score and the paths, in the folder where the files are now."""

        def here(path: str) -> str:
            return str(Path(str(self.dirpath)) / Path(path).name) if path else path

        moved = {k: here(state_dict[k]) for k in ("best_model_path", "kth_best_model_path", "last_model_path")}
        best = {here(path): score for path, score in state_dict["best_k_models"].items()}
        super().load_state_dict({**state_dict, **moved, "best_k_models": best, "dirpath": self.dirpath})


def _part(values: Mapping[str, float], prefix: str) -> dict[str, float]:
    return {k.removeprefix(prefix): v for k, v in values.items() if k.startswith(prefix)}
