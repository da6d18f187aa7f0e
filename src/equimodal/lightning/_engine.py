"""The engine inside a Trainer."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import Any, cast

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.core.optimizer import do_nothing_closure
from torch import Tensor

from equimodal.batch import Batch
from equimodal.engine import PlainEngine


class LightningEngine(PlainEngine):
    """Engine inside a Trainer: Lightning's optimizers, autocast and loss scaler.

    Gradients are averaged over processes by the engine itself, phase by phase, so alternating methods work under the
    DDP strategy, whose own reduction is switched off.
    """

    def __init__(
        self,
        module: LightningModule,
        *,
        clip_norm: float | None,
        check_finite: bool | None,
        compile: bool | str | Mapping[str, Any] = False,  # noqa: A002 (torch's own name for it)
    ) -> None:
        precision = module.trainer.precision_plugin
        half = {"16-mixed": torch.float16, "bf16-mixed": torch.bfloat16}
        super().__init__(
            module.optimizers(use_pl_optimizer=False),
            clip_norm=clip_norm,
            autocast=half.get(str(precision.precision)),
            scaler=getattr(precision, "scaler", None),
            check_finite=check_finite,
            compile=compile,
        )
        self._owner = module

    def _backward(self, loss: Tensor, **options: Any) -> None:
        self._owner.manual_backward(loss, **options)  # the precision plug-in scales it

    def _precision(self, batch: Batch) -> AbstractContextManager[object]:
        plugin = self._owner.trainer.precision_plugin
        return cast("AbstractContextManager[object]", plugin.forward_context())

    def _step_optimizers(self) -> None:
        wrapped = self._owner.optimizers()
        plugin: Any = self._owner.trainer.precision_plugin
        scaler = getattr(plugin, "scaler", None)
        if scaler is not None:
            plugin.scaler = None  # gradients are unscaled and finite; the scale is updated once, after all phases
        try:
            for optimizer in wrapped if isinstance(wrapped, list) else [wrapped]:
                _step(optimizer)
        finally:
            if scaler is not None:
                plugin.scaler = scaler


def _step(optimizer: Any) -> None:
    """One phase's step, which the Trainer does not count: an update is one step, whatever its phases."""
    before, after = optimizer._on_before_step, optimizer._on_after_step
    optimizer._on_before_step = optimizer._on_after_step = do_nothing_closure
    try:
        optimizer.step()
    finally:
        optimizer._on_before_step, optimizer._on_after_step = before, after
