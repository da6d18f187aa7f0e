"""Callbacks that end a training early and that average the weights of its last epochs."""

from __future__ import annotations

from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from equimodal.lightning import MethodModule

_SHARE = 0.25  # of the epochs, the last ones


class WeightAverage(Callback):
    """Mean of the weights after each epoch of the last quarter, kept in the checkpoints; the training does not see it.

    Args:
        epochs: that are planned.
    """

    def __init__(self, epochs: int) -> None:
        self._start = epochs - max(1, int(_SHARE * epochs))
        self._mean: dict[str, Tensor] = {}
        self._count = 0

    @property
    def state_key(self) -> str:
        """The same whatever the arguments."""
        return type(self).__name__

    def state_dict(self) -> dict[str, Any]:
        """Means so far and their number."""
        return {"mean": dict(self._mean), "count": self._count}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore what :meth:`state_dict` gave."""
        self._mean, self._count = dict(state_dict["mean"]), int(state_dict["count"])

    @torch.no_grad()
    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Add the weights of this epoch, if it is one of the last."""
        if trainer.current_epoch < self._start or not isinstance(pl_module, MethodModule):
            return
        self._count += 1
        for name, value in pl_module.method.state_dict().items():
            if not isinstance(value, Tensor) or not value.is_floating_point():
                continue
            known = self._mean.get(name)
            if known is None:
                self._mean[name] = value.detach().clone()
            else:
                self._mean[name] = known.to(value.device) + (value - known.to(value.device)) / self._count


class Pause(Callback):
    """Ends the training after a number of epochs; its checkpoint is that of any whole epoch, and continues.

    Args:
        until: epochs, counted from the first one of the run.
    """

    def __init__(self, until: int) -> None:
        self._until = until

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stop where enough epochs are done."""
        if trainer.current_epoch + 1 >= self._until:
            trainer.should_stop = True
