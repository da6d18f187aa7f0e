"""Adapter to Lightning's Trainer: any method, with Lightning's checkpoints, loggers, progress bar and devices.

Needs the ``cli`` extra. The Trainer runs the loop; the method's own steps run in manual optimization.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Any, cast

import torch
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from equimodal.batch import Batch, tree_map
from equimodal.data import WithoutPadding, first_samples, real_samples
from equimodal.engine import (
    PlainEngine,
    average_statistics,
    is_distributed,
    is_schedule_free,
    is_sharded,
    load_random_state,
    save_random_state,
)
from equimodal.errors import MethodError, UnsupportedError, missing_extra
from equimodal.methods import BatchLike, EpochContext, Method, StepReport, ValidationSums, part_of

try:
    from lightning.pytorch import LightningModule
except ImportError as error:
    raise missing_extra("lightning", "cli", "`equimodal.lightning`") from error

OptimizerFactory = Callable[[list[dict[str, Any]]], Optimizer]
SchedulerFactory = Callable[[Optimizer], LRScheduler]


_SHARDING = ("FSDPStrategy", "ModelParallelStrategy", "DeepSpeedStrategy", "XLAFSDPStrategy")


class LightningEngine(PlainEngine):
    """Engine inside a Trainer: Lightning's optimizers, autocast and loss scaler.

    Gradients are averaged over processes by the engine itself, phase by phase, so alternating methods work under the
    DDP strategy, whose own reduction is switched off.
    """

    def __init__(self, module: MethodModule, *, clip_norm: float | None, check_finite: bool | None) -> None:
        precision = module.trainer.precision_plugin
        half = {"16-mixed": torch.float16, "bf16-mixed": torch.bfloat16}
        super().__init__(
            module.optimizers(use_pl_optimizer=False),
            clip_norm=clip_norm,
            autocast=half.get(str(precision.precision)),
            scaler=getattr(precision, "scaler", None),
            check_finite=check_finite,
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
                optimizer.step()
        finally:
            if scaler is not None:
                plugin.scaler = scaler


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
        UnsupportedError: before anything is trained: float16 weights, a strategy that shards parameters, a method that
            refuses an engine feature in use, or a loader of this library that gives every process every sample.

    The batches may be :class:`~equimodal.Batch` or what ``Batch.of`` takes. After each validation epoch
    ``validation/score`` and ``validation/loss`` are logged, and the same per modality: monitor ``validation/score``
    (higher is better). With several processes they are exact: samples that a distributed sampler repeats as padding
    are not counted. The method is given the scores and losses, and, between epochs, the validation batches.

    A method may plan what an epoch consists of where the training loader takes plans (ours does). The plan may have
    more or fewer batches than the loader: the Trainer is told.

    A checkpoint may be written after any update, also inside an epoch; with a loader that stores its position (ours
    does) the continued run is equal bit for bit on the CPU. Schedule-free optimizers are switched between training and
    evaluation; checkpoints hold the training point, the fitted method the averaged one.

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
        self._sums: ValidationSums | None = None
        self._real: int | None = None
        self._inside = False
        self._late_state: dict[str, Any] | None = None
        self.last_report: StepReport | None = None

    # ---- set-up -----------------------------------------------------------------------------------------------------

    def configure_optimizers(self) -> Any:
        """The optimizer and scheduler that were asked for."""
        optimizer = self._make_optimizer(self.method.parameter_groups(self._lr))
        if self._make_scheduler is None:
            return optimizer
        return {"optimizer": optimizer, "lr_scheduler": self._make_scheduler(optimizer)}

    def setup(self, stage: str) -> None:
        """Refuse what would silently go wrong, before the Trainer converts or wraps any weight."""
        if "16" in str(self.trainer.precision) and "mixed" not in str(self.trainer.precision):
            raise UnsupportedError(
                f"`precision`: expected '32-true', '64-true', 'bf16-mixed' or '16-mixed'. Found "
                f"{self.trainer.precision!r}: weights in half precision lose the small updates. Use a mixed one."
            )
        self._weight_dtype = next(p.dtype for p in self.method.parameters())
        if str(self.trainer.precision) == "64-true":
            plugin: Any = self.trainer.precision_plugin
            plugin.convert_input = _in_double  # the plug-in's own does not take dataclasses that are frozen
        strategy = type(self.trainer.strategy).__name__
        if strategy in _SHARDING or any(is_sharded(p) for p in self.parameters()):
            found = strategy if strategy in _SHARDING else "encoders sharded by fully_shard"
            raise UnsupportedError(
                f"`strategy`: expected one that keeps whole parameters. Found {found}: the Trainer's checkpoints would "
                "hold one process's part. Use strategy='ddp', or shard the encoders in a loop of your own, with "
                "PlainEngine."
            )

    def on_fit_start(self) -> None:
        """Make the engine; the DDP wrapper is taken off, because the engine does its work."""
        self._engine = LightningEngine(self, clip_norm=self._clip_norm, check_finite=self._check_finite)
        self._engine.prepare(self.method)
        strategy = self.trainer.strategy
        if isinstance(strategy.model, DistributedDataParallel):
            self._engine.use(self.method, "trainer")
            strategy.model = self
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
            validation=_validation_batches(self.trainer.val_dataloaders),
            accumulate=self.accumulate,
        )

    def _count_batches(self) -> None:
        """Tell the Trainer how many batches the plan of the epoch has; it counted them when it began."""
        trainer, loader = self.trainer, cast(Any, self.trainer.train_dataloader)
        if not callable(getattr(loader, "plan", None)):
            return
        limit = trainer.limit_train_batches
        batches = min(len(loader), limit) if isinstance(limit, int) else max(1, int(len(loader) * (limit or 1.0)))
        if batches == trainer.num_training_batches:
            return
        loop: Any = trainer.fit_loop
        if not hasattr(loop, "_combined_loader") or not hasattr(loop, "_data_fetcher"):
            raise UnsupportedError(
                f"`train_dataloaders`: expected {trainer.num_training_batches} batches in every epoch, as this version "
                f"of Lightning cannot be told otherwise. Found a plan of {batches}. Use lightning 2.6, or give the "
                "plan as many rows as there are samples."
            )
        loop.max_batches = batches
        loop._combined_loader.limits = [batches]
        iter(loop._data_fetcher)  # before its first batch: its iterator and length are found anew
        if isinstance(trainer.val_check_interval, float) and trainer.val_check_batch is not None:
            trainer.val_check_batch = max(1, int(batches * trainer.val_check_interval))

    # ---- training ---------------------------------------------------------------------------------------------------

    def on_train_start(self) -> None:
        """Random state of a checkpoint from inside an epoch: only now, as making an iterator may have drawn from it."""
        loader: Any = self.trainer.train_dataloader
        positions, split = getattr(loader, "_positions", None), getattr(loader, "split", None)
        if is_distributed() and positions is not None and split is not None and len(positions) == len(split):
            raise UnsupportedError(
                "`train_dataloaders`: expected a part of the samples per process. Found a loader over all of them on "
                "every process. Give it the process's own: loader(split, ..., indices=range(rank, n, processes))."
            )
        if self._late_state is not None:
            load_random_state(self._late_state, self.device)
            self._late_state = None
        self._count_batches()

    def on_train_epoch_start(self) -> None:
        """The method's moment; loaders that shuffle by epoch are told which one it is."""
        set_epoch = getattr(self.trainer.train_dataloader, "set_epoch", None)
        if callable(set_epoch):
            set_epoch(self.current_epoch)
        self._pending, self._inside = [], True
        self._switch(training=True)
        self.method.on_train_epoch_start(self._context())
        self._count_batches()

    @property
    def at_boundary(self) -> bool:
        """Whether every batch so far has been stepped on, so that a checkpoint can be written."""
        return not self._pending

    def _switch(self, training: bool) -> None:
        """Schedule-free optimizers: to the training point or to the averaged one."""
        for optimizer in self._engine.optimizers if self._engine is not None else ():
            if is_schedule_free(optimizer):
                switch: Any = optimizer
                switch.train() if training else switch.eval()

    def training_step(self, batch: Batch, batch_idx: int) -> None:
        """One update per ``accumulate`` batches."""
        self._pending.append(batch)
        last = batch_idx + 1 == self.trainer.num_training_batches
        if len(self._pending) < self.accumulate and not last:
            self.last_report = None  # nothing happened, so nothing is to be reported
            return
        pending, self._pending = self._pending, []
        # only forward passes are in lower precision (the engine sees to it), not what a method computes from them
        with torch.autocast(self.device.type, enabled=False):
            self.last_report = self.method.training_step(pending if len(pending) > 1 else pending[0], self.engine)

    def on_train_epoch_end(self) -> None:
        """Look at losses that were not looked at yet, then the method's moment and the scheduler."""
        self.engine.raise_if_not_finite()
        self._inside = False
        self.method.on_train_epoch_end(self._context())
        scheduler = self.lr_schedulers()
        if isinstance(scheduler, LRScheduler):
            scheduler.step()

    def teardown(self, stage: str) -> None:
        """After a training in float64 the method takes the types of its data again."""
        if str(self.trainer.precision) == "64-true":
            self.method.to(self._weight_dtype)

    def on_train_end(self) -> None:
        """Leave the averaged point of a schedule-free optimizer in the method."""
        self._switch(training=False)

    # ---- validation -------------------------------------------------------------------------------------------------

    def on_validation_epoch_start(self) -> None:
        """Start the sums, the same ones on every process; batch statistics are averaged over processes."""
        self._sums = ValidationSums(self.method)
        self._real = real_samples(self.trainer.val_dataloaders)
        if self._engine is not None:
            average_statistics(self.method)
        self._switch(training=False)

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Add up terms of scores and losses, which are exact whatever the batch sizes."""
        if self._real is not None:  # the rest is padding, which repeats samples of other processes
            kept, self._real = min(self._real, len(batch)), max(0, self._real - len(batch))
            if kept == 0:
                return
            batch = batch if kept == len(batch) else first_samples(batch, kept)
        if self._sums is not None:
            self._sums.add(batch)

    def on_validation_epoch_end(self) -> None:
        """Log the scores and losses and hand them to the method."""
        if self._sums is None:
            return
        validation, self._sums = self._sums.total(), None
        self._log("validation/score", validation.score, prog_bar=True)
        self._log("validation/loss", validation.loss)
        for name, values in (("score", validation.scores), ("loss", validation.losses)):
            for m, value in values.items():  # a method may have no output of its own for a modality
                self._log(f"validation/{name}/{m}", value)
        if not self.trainer.sanity_checking:
            self.method.on_validation_end(validation)
        if self._inside:
            self._switch(training=True)

    def _log(self, name: str, value: float, **options: Any) -> None:
        # equal on all processes already; the largest of equals is itself, bit for bit
        shown = torch.tensor(value, dtype=torch.float32, device=self.device)
        self.log(name, shown, sync_dist=is_distributed(), reduce_fx=torch.max, **options)

    # ---- checkpoints ------------------------------------------------------------------------------------------------

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Random state travels with the checkpoint, so that a continued run draws the same numbers.

        Raises:
            MethodError: micro-batches wait for their update; :attr:`at_boundary` says when they do not.
        """
        if self._pending:
            raise MethodError(
                f"A checkpoint between micro-batches would lose {len(self._pending)} of them. Save when "
                "`at_boundary` is True."
            )
        checkpoint["random_state"] = save_random_state(self.device)
        checkpoint["inside_epoch"] = self._inside

    def on_load_checkpoint(self, checkpoint: Mapping[str, Any]) -> None:
        """Restore the random state."""
        state = checkpoint.get("random_state", {})
        self._inside = bool(checkpoint.get("inside_epoch"))
        self._late_state = state if self._inside else None
        if not self._inside:
            load_random_state(state, self.device)


def _in_double(batch: Any) -> Batch:
    """The batch with its floating-point numbers in float64."""

    def double(t: Tensor) -> Tensor:
        return t.double() if t.is_floating_point() else t

    checked = Batch.of(batch)
    return replace(
        checked,
        inputs={m: tree_map(double, x) for m, x in checked.inputs.items()},
        target=None if checked.target is None else double(checked.target),
        extras={name: double(t) for name, t in checked.extras.items()},
    )


def _validation_batches(loaders: Any) -> Iterable[BatchLike] | None:
    """What a method may choose on between epochs: one loader, of anything but training samples."""
    if loaders is None or isinstance(loaders, (list, tuple, Mapping)) or part_of(loaders) == "train":
        return None
    return cast("Iterable[BatchLike]", loaders) if real_samples(loaders) is None else WithoutPadding(loaders)
