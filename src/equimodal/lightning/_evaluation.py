"""Validation, test and prediction in the Trainer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, cast

import torch
from lightning.pytorch import LightningModule
from torch import Tensor

from equimodal.batch import Batch, Tree
from equimodal.data import first_samples, real_samples
from equimodal.engine import average_statistics, is_distributed, is_schedule_free
from equimodal.lightning._batches import one_loader
from equimodal.methods import Method, Validation, ValidationSums

if TYPE_CHECKING:
    from equimodal.lightning._engine import LightningEngine


_STATE = frozenset({"_current_fx_name", "_pending", "last_report"})


class Evaluation(LightningModule):
    """What the Trainer asks of a method outside of training steps; see :class:`MethodModule`."""

    def __init__(self, method: Method) -> None:
        super().__init__()
        self.method = method
        self._engine: LightningEngine | None = None
        self._sums: ValidationSums | None = None
        self._real: int | None = None
        self._inside = False
        self._measured: dict[str, float] = {}

    def __setattr__(self, name: str, value: Any) -> None:
        """As of every module, which looks at each value whether it is a part; of these names it never is one.

        The Trainer notes the hook that it is in, some thirty times in a step.
        """
        if name in _STATE:
            object.__setattr__(self, name, value)
        else:
            super().__setattr__(name, value)

    def forward(self, inputs: Mapping[str, Tree], present: Mapping[str, Tensor] | None = None) -> Tensor:
        """The output of the prediction, as the method gives it."""
        output: Tensor = self.method(inputs, present)
        return output

    def _switch(self, training: bool) -> None:
        """Schedule-free optimizers: to the training point or to the averaged one."""
        for optimizer in self._engine.optimizers if self._engine is not None else ():
            if is_schedule_free(optimizer):
                switch: Any = optimizer
                switch.train() if training else switch.eval()

    def on_validation_epoch_start(self) -> None:
        """Start the sums, the same ones on every process; batch statistics are averaged over processes."""
        self._begin(self.trainer.val_dataloaders, "val_dataloaders")

    def validation_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> None:
        """Add up terms of scores and losses, which are exact whatever the batch sizes."""
        self._add(batch)

    def on_validation_epoch_end(self) -> None:
        """Log the scores and losses and hand them to the method."""
        sums = self._show("validation")
        if not self.trainer.sanity_checking:
            self.method.on_validation_end(sums)
        if self._inside:
            self._switch(training=True)

    def on_test_epoch_start(self) -> None:
        """As before validation."""
        self._begin(self.trainer.test_dataloaders, "test_dataloaders")

    def test_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> None:
        """As in validation."""
        self._add(batch)

    def on_test_epoch_end(self) -> None:
        """Log the scores and losses; the method is not told."""
        self._show("test")

    def predict_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> dict[str, Any]:
        """The fields of the prediction for a batch, which needs no target."""
        return dict(vars(self.method.predict(batch.inputs, batch.present)))  # the Trainer takes no frozen dataclass

    def _begin(self, loaders: Any, name: str) -> None:
        loader = one_loader(loaders, name)
        self._sums = ValidationSums(self.method)
        self._real = real_samples(loader)
        if self._engine is not None:
            average_statistics(self.method)
        self._switch(training=False)

    def _add(self, batch: Batch) -> None:
        if self._real is not None:  # the rest is padding, which repeats samples of other processes
            kept, self._real = min(self._real, len(batch)), max(0, self._real - len(batch))
            if kept == 0:
                return
            batch = batch if kept == len(batch) else first_samples(batch, kept)
        cast(ValidationSums, self._sums).add(batch)

    def _show(self, part: str) -> Validation:
        found, self._sums = cast(ValidationSums, self._sums).total(), None
        values = {f"{part}/score": found.score, f"{part}/loss": found.loss}
        for name, alone in (("score", found.scores), ("loss", found.losses)):
            # a method may have no output of its own for a modality
            values |= {f"{part}/{name}/{m}": value for m, value in alone.items()}
        for name, value in values.items():
            # equal on all processes already; the largest of equals is itself, bit for bit
            shown = torch.tensor(value, dtype=torch.float32, device=self.device)
            bar = name == "validation/score"
            self.log(name, shown, sync_dist=is_distributed(), reduce_fx=torch.max, prog_bar=bar)
        self._measured = values
        return found
