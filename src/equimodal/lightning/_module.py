"""A method as a LightningModule."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextlib import nullcontext
from typing import Any, cast

import torch
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer

from equimodal.batch import Batch
from equimodal.engine import (
    is_distributed,
    is_sharded,
    load_random_state,
    save_random_state,
)
from equimodal.errors import CheckpointError, MethodError, UnsupportedError
from equimodal.lightning._batches import in_double, validation_batches
from equimodal.lightning._engine import LightningEngine
from equimodal.lightning._evaluation import Evaluation
from equimodal.lightning._means import EpochMeans, flatten
from equimodal.lightning._schedule import Schedule, SchedulerFactory
from equimodal.methods import EpochContext, Method, StepReport

OptimizerFactory = Callable[[list[dict[str, Any]]], Optimizer]

_SHARDING = ("FSDPStrategy", "ModelParallelStrategy", "DeepSpeedStrategy", "XLAFSDPStrategy")


class MethodModule(Evaluation):
    """A method as a ``LightningModule``.

    Args:
        method: any registered or own method.
        optimizer: makes the optimizer from parameter groups, for example
            ``lambda groups: torch.optim.AdamW(groups, lr=1e-3)``.
        lr: rate given to ``method.parameter_groups``; ``None`` leaves it to ``optimizer``.
        scheduler: makes a learning-rate scheduler, stepped once per epoch; or a mapping as Lightning knows it, with
            the keys ``scheduler``, ``interval`` (``"epoch"``, or ``"step"`` for every update), ``frequency`` and, for
            ``ReduceLROnPlateau``, ``monitor`` (default ``validation/loss``, ``validation/score`` in the mode
            ``"max"``).
        clip_norm: largest global norm of a phase's gradients, after the method's modification.
        accumulate: micro-batches per update; the last update of an epoch may have fewer.
        check_finite: see :class:`~equimodal.PlainEngine`.
        compile: of each phase's loss, as :class:`~equimodal.PlainEngine` takes it.
        log: log what the steps report. ``None``: where the Trainer has a logger; otherwise it costs nothing.

    Raises:
        MethodError: ``accumulate`` below 1.
        UnsupportedError: before anything is trained: float16 weights, a strategy that shards parameters, a method that
            refuses an engine feature in use, a loader of this library that gives every process every sample, or several
            validation loaders.
        CheckpointError: a checkpoint of another method or model.

    The batches may be :class:`~equimodal.Batch` or what ``Batch.of`` takes; those of ``Trainer.predict`` need no
    target, and it returns the fields of a :class:`~equimodal.inference.Prediction` for each, as a mapping.

    ``Trainer.fit`` and ``validate`` log ``validation/score`` and ``validation/loss``, and the same per modality;
    monitor ``validation/score`` (higher is better). ``Trainer.test`` logs ``test/...``. With several processes they are
    exact: samples that a distributed sampler repeats as padding are not counted. The method is given the validation
    scores and losses, and, between epochs, the validation batches.

    Of the training, ``training/loss`` (the sum over the phases), ``training/loss/PHASE``, ``training/score/MODALITY``,
    ``training/coefficient/NAME/MODALITY`` and ``training/extra/NAME`` are logged, means over the steps of an epoch, and
    the rates ``training/lr``; the same of single steps as ``step/...``, every ``log_every_n_steps``. With several
    processes they are those of the first one.

    A step of the Trainer (``max_steps``, ``global_step``) is one update, that is ``accumulate`` batches, for every
    method, however many phases it has.

    ``MethodModule.load_from_checkpoint(path, method=..., optimizer=...)`` needs both again: a checkpoint holds their
    states.

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
        compile: bool | str | Mapping[str, Any] = False,  # noqa: A002 (torch's own name for it)
        log: bool | None = None,
    ) -> None:
        super().__init__(method)
        if accumulate < 1:
            raise MethodError(f"`accumulate`: expected an integer >= 1. Found {accumulate}.")
        self.automatic_optimization = False
        self.accumulate = accumulate
        self._make_optimizer, self._make_scheduler, self._lr = optimizer, scheduler, lr
        self._of_engine: dict[str, Any] = {"clip_norm": clip_norm, "check_finite": check_finite, "compile": compile}
        self._schedule: Schedule | None = None
        self._asked_to_log, self._means = log, EpochMeans()
        self._pending: list[Batch] = []
        self._late_state: dict[str, Any] | None = None
        self.last_report: StepReport | None = None

    # ---- set-up -----------------------------------------------------------------------------------------------------

    def configure_optimizers(self) -> Any:
        """The optimizer and scheduler that were asked for."""
        optimizer = self._make_optimizer(self.method.parameter_groups(self._lr))
        if self._make_scheduler is None:
            return optimizer
        self._schedule = Schedule.of(self._make_scheduler(optimizer))
        return {"optimizer": optimizer, "lr_scheduler": self._schedule.config()}

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
            plugin.convert_input = in_double  # the plug-in's own does not take dataclasses that are frozen
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
        self._engine = LightningEngine(self, **self._of_engine)
        self._engine.prepare(self.method)
        strategy = self.trainer.strategy
        if isinstance(strategy.model, DistributedDataParallel):
            self._engine.use(self.method, "trainer")
            strategy.model = self
        self._engine.broadcast(self.method)
        self._logs = bool(self.trainer.loggers) if self._asked_to_log is None else self._asked_to_log

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
            validation=validation_batches(self.trainer.val_dataloaders),
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
        every = positions is not None and split is not None and len(positions) == len(split)
        if is_distributed() and every and not getattr(loader, "shared", False):
            raise UnsupportedError(
                "`train_dataloaders`: expected a part of the samples per process. Found a loader over all of them on "
                "every process. Give it the process's own: loader(split, ..., indices=range(rank, n, processes))."
            )
        monitor = "" if self._schedule is None else self._schedule.monitor
        if monitor.startswith("validation/") and self.trainer.val_dataloaders is None:
            raise MethodError(
                f"`scheduler`: expected validation data, as ReduceLROnPlateau looks at {monitor!r}. Found none. Pass "
                "them to Trainer.fit, or use another scheduler."
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
        if not self._inside:  # else an epoch goes on from a checkpoint
            self._means.clear()
        self._pending, self._inside, self._measured = [], True, {}
        self._switch(training=True)
        self.method.on_train_epoch_start(self._context())
        self._count_batches()

    @property
    def at_boundary(self) -> bool:
        """Whether every batch so far has been stepped on, so that a checkpoint can be written."""
        return not self._pending

    def training_step(self, batch: Batch, batch_idx: int) -> None:
        """One update per ``accumulate`` batches."""
        self._pending.append(batch)
        if len(self._pending) < self.accumulate and not self._is_last(batch_idx):
            self.last_report = None  # nothing happened, so nothing is to be reported
            return
        self._update(shown=self._logs and self._is_shown())

    def _is_last(self, batch_idx: int) -> bool:
        return self.trainer.is_last_batch or batch_idx + 1 == self.trainer.num_training_batches

    def _is_shown(self) -> bool:
        """Whether loggers are given what this step logs."""
        connector: Any = self.trainer._logger_connector
        return bool(connector.should_update_logs)

    def _update(self, *, shown: bool) -> None:
        """Train on what waits, as one step of the Trainer."""
        pending, self._pending = self._pending, []
        # only forward passes are in lower precision (the engine sees to it), not what a method computes from them
        lower = torch.is_autocast_enabled(self.device.type)
        with torch.autocast(self.device.type, enabled=False) if lower else nullcontext():
            report = self.method.training_step(pending if len(pending) > 1 else pending[0], self.engine)
        self.last_report = report
        steps = self.trainer.fit_loop.epoch_loop.manual_optimization.optim_step_progress
        steps.increment_ready()
        steps.increment_completed()
        if self._logs:
            self._means.add(report)
        if shown:
            values: dict[str, Any] = {f"step/{name}": value.float() for name, value in flatten(report).items()}
            self.log_dict({**values, **self._rates("step/lr")}, on_step=True, on_epoch=False)
        if self._schedule is not None:
            self._schedule.after("step", self.trainer.global_step, {})

    def _rates(self, name: str) -> dict[str, float]:
        groups = [group for optimizer in self.trainer.optimizers for group in optimizer.param_groups]
        if len(groups) == 1:
            return {name: float(groups[0]["lr"])}
        return {f"{name}/{number}": float(group["lr"]) for number, group in enumerate(groups)}

    def on_train_epoch_end(self) -> None:
        """Look at losses that were not looked at yet, then the method's moment and the scheduler."""
        if self._pending:  # the epoch was cut
            self._update(shown=False)
        self.engine.raise_if_not_finite()
        self._inside = False
        self.method.on_train_epoch_end(self._context())
        means: dict[str, float] = {}
        if self._logs:
            means = {f"training/{name}": value for name, value in self._means.read().items()}
            self.log_dict(means | self._rates("training/lr"))
        if self._schedule is not None and not (self._schedule.monitor.startswith("validation/") and self._is_skipped()):
            known = {**self.trainer.callback_metrics, **means, **self._measured}
            self._schedule.after("epoch", self.current_epoch + 1, known)

    def _is_skipped(self) -> bool:
        """Whether this epoch has no validation, although there are data for it."""
        return not self._measured and self.trainer.val_dataloaders is not None

    def teardown(self, stage: str) -> None:
        """After a training in float64 the method takes the types of its data again."""
        if str(self.trainer.precision) == "64-true":
            self.method.to(self._weight_dtype)

    def on_train_end(self) -> None:
        """Leave the averaged point of a schedule-free optimizer in the method."""
        self._switch(training=False)

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
        checkpoint["method"] = type(self.method).__name__
        if self._inside and self._logs:
            checkpoint["training_log"] = self._means.state_dict()

    def on_load_checkpoint(self, checkpoint: Mapping[str, Any]) -> None:
        """Restore the random state.

        Raises:
            CheckpointError: it is of another method.
        """
        own, found = type(self.method).__name__, checkpoint.get("method")
        if found not in (None, own):
            raise CheckpointError(
                f"`ckpt_path`: expected a checkpoint of {own}. Found one of {found}. Make the module with that method, "
                "or start anew."
            )
        state = checkpoint.get("random_state", {})
        self._inside = bool(checkpoint.get("inside_epoch"))
        self._late_state = state if self._inside else None
        if "training_log" in checkpoint:
            self._means.load_state_dict(checkpoint["training_log"])
        if not self._inside:
            load_random_state(state, self.device)

    def load_state_dict(self, state_dict: Mapping[str, Any], *arguments: Any, **options: Any) -> Any:
        """As of every module.

        Raises:
            CheckpointError: the state of another method or model.
        """
        try:
            return super().load_state_dict(state_dict, *arguments, **options)
        except (RuntimeError, KeyError, TypeError, AttributeError) as error:
            lines = [line.strip() for line in str(error).splitlines()]
            raise CheckpointError(
                f"`state_dict`: expected the state of {type(self.method).__name__} with this model. Found another: "
                f"{' '.join(lines)[:300]}. Make method and model as they were when it was written."
            ) from error
