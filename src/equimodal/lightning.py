"""Adapter to Lightning's Trainer: any method, with Lightning's checkpoints, loggers, progress bar and devices.

Needs the ``cli`` extra. The Trainer runs the loop; the method's own steps run in manual optimization.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager
from typing import Any, cast

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from equimodal.batch import Batch
from equimodal.engine import PlainEngine
from equimodal.errors import MethodError, UnsupportedError, missing_extra
from equimodal.methods._base import EpochContext, Method, StepReport

try:
    from lightning.pytorch import LightningModule
except ImportError as error:
    raise missing_extra("lightning", "cli", "`equimodal.lightning`") from error

OptimizerFactory = Callable[[list[dict[str, Any]]], Optimizer]
SchedulerFactory = Callable[[Optimizer], LRScheduler]


class LightningEngine(PlainEngine):
    """Engine inside a Trainer: Lightning's optimizers, backward (precision plug-in) and autocast.

    Gradients are averaged over processes by the engine itself, so alternating methods work without a wrapper.
    """

    def __init__(self, module: MethodModule, *, clip_norm: float | None, check_finite: bool | None) -> None:
        super().__init__(module.optimizers(use_pl_optimizer=False), clip_norm=clip_norm, check_finite=check_finite)
        self._module = module

    def _backward(self, loss: Tensor) -> None:
        self._module.manual_backward(loss)

    def _precision(self, batch: Batch) -> AbstractContextManager[object]:
        plugin = self._module.trainer.precision_plugin
        return cast("AbstractContextManager[object]", plugin.forward_context())

    def _step_optimizers(self) -> None:
        wrapped = self._module.optimizers()
        for optimizer in wrapped if isinstance(wrapped, list) else [wrapped]:
            optimizer.step()


class MethodModule(LightningModule):
    """A method as a ``LightningModule``.

    Args:
        method: any registered or own method.
        optimizer: makes the optimizer from parameter groups, for example
            ``lambda groups: torch.optim.AdamW(groups, lr=1e-3)``.
        lr: rate given to ``method.parameter_groups``; ``None`` leaves it to ``optimizer``.
        scheduler: makes a learning-rate scheduler, stepped once per epoch.
        clip_norm: largest global norm of a phase's gradients, after the method's modification.
        accumulate: micro-batches per update; the last update of an epoch may have fewer.
        check_finite: see :class:`~equimodal.PlainEngine`.

    Raises:
        MethodError: ``accumulate`` below 1.
        UnsupportedError: float16 precision, which needs a loss scaler that methods would have to know.

    The batches may be :class:`~equimodal.Batch` or what ``Batch.of`` takes. After each validation epoch
    ``validation/score`` and ``validation/loss`` are logged: monitor ``validation/score`` (higher is better).

    Example:
        >>> import torch
        >>> from lightning.pytorch import Trainer
        >>> from torch import nn
        >>> from equimodal import Classification, MultimodalModel
        >>> from equimodal.fusion import Concat
        >>> from equimodal.methods import Joint
        >>> model = MultimodalModel({"a": nn.Linear(3, 4)}, Concat({"a": 4}), nn.Linear(4, 2))
        >>> module = MethodModule(Joint(model, Classification(2)), lambda groups: torch.optim.SGD(groups, lr=0.1))
        >>> module.automatic_optimization
        False
    """

    def __init__(
        self,
        method: Method,
        optimizer: OptimizerFactory,
        *,
        lr: float | None = None,
        scheduler: SchedulerFactory | None = None,
        clip_norm: float | None = None,
        accumulate: int = 1,
        check_finite: bool | None = None,
    ) -> None:
        super().__init__()
        if accumulate < 1:
            raise MethodError(f"`accumulate`: expected an integer >= 1. Found {accumulate}.")
        self.automatic_optimization = False
        self.method = method
        self.accumulate = accumulate
        self._make_optimizer, self._make_scheduler, self._lr = optimizer, scheduler, lr
        self._clip_norm, self._check_finite = clip_norm, check_finite
        self._engine: LightningEngine | None = None
        self._pending: list[Batch] = []
        self._sums: dict[str, Tensor] = {}
        self.last_report: StepReport | None = None

    # ---- set-up -----------------------------------------------------------------------------------------------------

    def configure_optimizers(self) -> Any:
        """The optimizer and scheduler that were asked for."""
        optimizer = self._make_optimizer(self.method.parameter_groups(self._lr))
        if self._make_scheduler is None:
            return optimizer
        return {"optimizer": optimizer, "lr_scheduler": self._make_scheduler(optimizer)}

    def setup(self, stage: str) -> None:
        """Refuse what would silently go wrong, before the Trainer converts any weight."""
        if "16" in str(self.trainer.precision) and "bf16" not in str(self.trainer.precision):
            raise UnsupportedError(
                f"`precision`: expected '32-true', '64-true' or 'bf16-mixed'. Found {self.trainer.precision!r}: "
                "float16 "
                "needs a loss scaler between the phases of a step. Use 'bf16-mixed'."
            )

    def on_fit_start(self) -> None:
        """Make the engine."""
        self._engine = LightningEngine(self, clip_norm=self._clip_norm, check_finite=self._check_finite)
        self._engine.broadcast(self.method)

    @property
    def engine(self) -> LightningEngine:
        """The engine; exists while the Trainer fits."""
        if self._engine is None:
            raise MethodError("`engine` exists only while Trainer.fit runs.")
        return self._engine

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Batch:
        """Batches know how to move themselves."""
        return Batch.of(batch).to(device, non_blocking=True)

    def _context(self) -> EpochContext:
        steps = self.trainer.num_training_batches
        planned = self.trainer.max_epochs
        return EpochContext(
            epoch=self.current_epoch,
            epochs=planned if planned is not None and planned > 0 else None,
            steps=-(-int(steps) // self.accumulate) if steps != float("inf") else None,
            loader=cast("Iterable[Any]", self.trainer.train_dataloader),
            engine=self._engine,
        )

    # ---- training ---------------------------------------------------------------------------------------------------

    def on_train_epoch_start(self) -> None:
        """The method's moment; loaders that shuffle by epoch are told which one it is."""
        set_epoch = getattr(self.trainer.train_dataloader, "set_epoch", None)
        if callable(set_epoch):
            set_epoch(self.current_epoch)
        self._pending = []
        self.method.on_train_epoch_start(self._context())

    def training_step(self, batch: Batch, batch_idx: int) -> None:
        """One update per ``accumulate`` batches."""
        self._pending.append(batch)
        last = batch_idx + 1 == self.trainer.num_training_batches
        if len(self._pending) < self.accumulate and not last:
            return
        pending, self._pending = self._pending, []
        # only forward passes are in lower precision (the engine sees to it), not what a method computes from them
        with torch.autocast(self.device.type, enabled=False):
            self.last_report = self.method.training_step(pending if len(pending) > 1 else pending[0], self.engine)

    def on_train_epoch_end(self) -> None:
        """Look at losses that were not looked at yet, then the method's moment and the scheduler."""
        self.engine.raise_if_not_finite()
        self.method.on_train_epoch_end(self._context())
        scheduler = self.lr_schedulers()
        if isinstance(scheduler, LRScheduler):
            scheduler.step()

    # ---- validation -------------------------------------------------------------------------------------------------

    def on_validation_epoch_start(self) -> None:
        """Start the sums."""
        self._sums = {}

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Add up score terms; the score is exact whatever the batch sizes."""
        target = cast(Tensor, batch.target)
        prediction = self.method.predict(batch.inputs, batch.present)
        numerator, denominator = self.method.task.score_terms(prediction.output, target)
        terms = {"numerator": numerator, "denominator": denominator, "count": torch.full_like(denominator, len(batch))}
        terms["loss"] = (self.method.task.loss(prediction.output, target) * len(batch)).float().reshape(1)
        for m, z in prediction.unimodal.items():
            rows = batch.rows(m) if m in batch.inputs else None
            own = z if rows is None else z.index_select(0, rows)
            wanted = target if rows is None else target.index_select(0, rows)
            terms[f"numerator/{m}"], terms[f"denominator/{m}"] = self.method.task.score_terms(own, wanted)
        for name, value in terms.items():
            self._sums[name] = self._sums[name] + value if name in self._sums else value

    def on_validation_epoch_end(self) -> None:
        """Log the scores and hand the fused one to the method."""
        sums = self._engine.all_sum(self._sums) if self._engine is not None else self._sums
        score = (sums["numerator"] / sums["denominator"]).mean()
        self.log("validation/score", score, prog_bar=True)
        self.log("validation/loss", (sums["loss"] / sums["count"]).mean())
        for m in self.method.modalities:
            if f"numerator/{m}" in sums:
                self.log(f"validation/score/{m}", (sums[f"numerator/{m}"] / sums[f"denominator/{m}"]).mean())
        if not self.trainer.sanity_checking:
            self.method.on_validation_end(float(score))

    # ---- checkpoints ------------------------------------------------------------------------------------------------

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Random state travels with the checkpoint, so that a continued run draws the same numbers."""
        state = {"cpu": torch.get_rng_state()}
        if self.device.type != "cpu":
            state[self.device.type] = torch.get_device_module(self.device).get_rng_state(self.device)
        checkpoint["random_state"] = state

    def on_load_checkpoint(self, checkpoint: Mapping[str, Any]) -> None:
        """Restore the random state."""
        state = checkpoint.get("random_state", {})
        if "cpu" in state:
            torch.set_rng_state(state["cpu"])
        if self.device.type in state and self.device.type != "cpu":
            torch.get_device_module(self.device).set_rng_state(state[self.device.type], self.device)
