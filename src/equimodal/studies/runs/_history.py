"""One line per epoch, written as training goes: losses, scores, coefficients."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor

from equimodal.lightning import MethodModule
from equimodal.methods import StepReport
from equimodal.studies.runs._records import append_line, write_text
from equimodal.studies.runs._stored import read_history


class History(Callback):
    """Writes ``history.jsonl``: means over the epoch of what each step reported, and the validation scores.

    Step values are summed on the device and read once per epoch.

    Args:
        path: the file.
        progress: called after every epoch.
    """

    def __init__(self, path: Path, progress: Callable[[Mapping[str, Any]], None] | None = None) -> None:
        self.path = path
        self._progress = progress
        self._sums: dict[str, Tensor] = {}
        self._counts: dict[str, int] = {}
        self._phases: dict[str, None] = {}
        self._started = time.perf_counter()
        self._earlier = 0.0
        self.begun = False
        """Whether training has begun, and so all of a checkpoint was restored."""

    def state_dict(self) -> dict[str, Any]:
        """Sums of an epoch that is not over, for a checkpoint inside it."""
        elapsed = self._earlier + time.perf_counter() - self._started
        return {"sums": dict(self._sums), "counts": dict(self._counts), "phases": [*self._phases], "seconds": elapsed}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore what :meth:`state_dict` gave."""
        self._sums, self._counts = dict(state_dict["sums"]), dict(state_dict["counts"])
        self._phases = dict.fromkeys(state_dict.get("phases", ()))  # checkpoints of 0.1 lack them
        self._earlier, self._started = float(state_dict["seconds"]), time.perf_counter()

    def keep_until(self, epoch: int) -> None:
        """Forget lines after ``epoch``, which a resumed run writes again."""
        kept = [r for r in read_history(self.path) if r.get("epoch", 0) <= epoch]
        write_text(self.path, "".join(json.dumps(r, sort_keys=True) + "\n" for r in kept))

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the sums."""
        self._sums, self._counts, self._phases = {}, {}, {}
        self._started, self._earlier = time.perf_counter(), 0.0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Everything is restored."""
        self.begun = True

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Add what the step reported; no synchronisation."""
        report = pl_module.last_report if isinstance(pl_module, MethodModule) else None
        if report is None:
            return
        self._phases.update(dict.fromkeys(report.phases))
        values = flatten(report)
        if report.phases:
            values["loss"] = report.loss
        for name, value in values.items():
            value = value.detach()
            if name.startswith("score/"):  # NaN where a batch shows nothing that could be scored: it does not count
                some = ~value.isnan()
                self._add(f"count/{name}", some.to(value.dtype))
                value = torch.where(some, value, 0)
            self._add(name, value)
            self._counts[name] = self._counts.get(name, 0) + 1

    def _add(self, name: str, value: Tensor) -> None:
        known = self._sums.get(name)
        self._sums[name] = value if known is None else known.to(value.device) + value

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the line."""
        means = {name: float(total) / self._counts[name] for name, total in self._sums.items() if name in self._counts}
        for name in [n for n in means if n.startswith("score/")]:
            counted = float(self._sums[f"count/{name}"])
            if counted:
                means[name] = float(self._sums[name]) / counted
            else:
                del means[name]
        measured = {k: float(v) for k, v in trainer.callback_metrics.items()}
        record = {
            "event": "epoch",
            "epoch": trainer.current_epoch,
            "seconds": self._earlier + time.perf_counter() - self._started,
            "lr": float(trainer.optimizers[0].param_groups[0]["lr"]),
            "loss": means.get("loss"),
            "phases": [*self._phases],
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


def flatten(report: StepReport) -> dict[str, Tensor]:
    """Flat names for everything that a step reports."""
    flat = {f"loss/{k}": v for k, v in report.losses.items()}
    flat |= {f"score/{k}": v for k, v in report.scores.items()}
    flat |= {f"coefficient/{k}/{m}": v for k, by in report.coefficients.items() for m, v in by.items()}
    flat |= {f"extra/{k}": v for k, v in report.extras.items()}
    return flat


def _part(values: Mapping[str, float], prefix: str) -> dict[str, float]:
    return {k.removeprefix(prefix): v for k, v in values.items() if k.startswith(prefix)}
