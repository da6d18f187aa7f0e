"""Probe runs: a copy of the method trained aside, to see what training would do."""

from __future__ import annotations

import contextlib
import copy
import math
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch

from equimodal._utils.arguments import check_number
from equimodal.engine import (
    PlainEngine,
    engine_beside,
    fresh_optimizer,
    is_schedule_free,
    is_sharded,
    load_random_state,
    recompiles,
    save_random_state,
)
from equimodal.errors import MethodError, UnsupportedError
from equimodal.methods._base import EpochContext, Method
from equimodal.methods._predictor import BatchLike
from equimodal.methods._validation import Validation, measure


@dataclass(frozen=True)
class ProbeRun:
    """What a copy of a method lost and scored before and after it was trained aside.

    Args:
        training_before: over the training samples.
        training_after: over the same samples.
        validation_before: over the validation samples; ``None`` where the context offers none.
        validation_after: over the same samples.
        steps: updates that were made.
        seconds: they and the measurements took.
    """

    training_before: Validation
    training_after: Validation
    validation_before: Validation | None
    validation_after: Validation | None
    steps: int
    seconds: float

    def losses(self, name: str) -> list[float]:
        """Of ``"fused"`` or a modality, in the order of the fields; NaN where no sample has the modality."""
        measured = (self.training_before, self.training_after, self.validation_before, self.validation_after)
        return [v.loss if name == "fused" else v.losses.get(name, math.nan) for v in measured if v is not None]


def probe_run(
    method: Method,
    context: EpochContext,
    *,
    epochs: int | None = None,
    steps: int | None = None,
    adjust: Callable[[Any], object] | None = None,
) -> ProbeRun:
    """Train a deep copy of ``method`` aside, and measure it before and after.

    The copy steps fresh optimizers (same classes and settings, empty state) under the same clipping, precision, loss
    scale, compilation (not that of modules compiled in place, which torch does not copy) and number of micro-batches.
    It is told of no epoch: only its steps are run. Nothing of the original changes: weights, buffers, optimizer,
    generators and the loader's position are as they were.

    Losses and scores are measured in evaluation mode; those over the training samples on each sample once, without
    augmentation or plan, if the loader is one of this library, else in a pass over the loader. With several processes
    all take part, as in training.

    What it cost is part of the next step's report: ``extras["probe_run/steps"]`` updates, and
    ``extras["probe_run/measured"]`` batches of this process that were predicted. Studies record both per epoch.

    Args:
        method: is copied.
        context: with loader, engine and, if there are any, validation batches.
        epochs: passes over the training batches; or
        steps: updates.
        adjust: called with the copy before anything else, to change what it trains (weights of losses, say).

    Raises:
        MethodError: not exactly one of ``epochs`` and ``steps``, or the context lacks loader or engine.
        UnsupportedError: sharded encoders, a method that cannot be copied, another engine than a ``PlainEngine``, or a
            loader in which a second pass leaves a trace.

    Example:
        >>> from torch import nn
        >>> from equimodal import Batch, Classification, MultimodalModel, PlainEngine
        >>> from equimodal.fusion import Concat
        >>> from equimodal.methods import MultiLoss
        >>> encoders = {"audio": nn.Linear(5, 4), "video": nn.Linear(3, 4)}
        >>> model = MultimodalModel(encoders, Concat({"audio": 4, "video": 4}), nn.Linear(8, 2))
        >>> method = MultiLoss(model, Classification(2))
        >>> engine = PlainEngine(torch.optim.SGD(method.parameters(), lr=0.1))
        >>> batch = Batch({"audio": torch.randn(6, 5), "video": torch.randn(6, 3)}, torch.tensor([0, 1] * 3))
        >>> probe = probe_run(method, EpochContext(0, loader=[batch], engine=engine), steps=2)
        >>> sorted(probe.training_after.losses), probe.steps, probe.validation_after
        (['audio', 'video'], 2, None)
    """
    if (epochs is None) == (steps is None):
        raise MethodError(f"`epochs`, `steps`: expected one of the two. Found epochs={epochs}, steps={steps}.")
    check_number("steps" if epochs is None else "epochs", steps if epochs is None else epochs, at_least=1, whole=True)
    name = type(method).__name__
    engine, loader = _engine_of(context, name), _loader_of(context, name)
    device = next(method.parameters()).device
    started, before = time.perf_counter(), save_random_state(device)
    try:
        # compiled encoders are compiled again for each copy
        with torch.inference_mode(False), torch.enable_grad(), recompiles(), _same_position(loader):
            copied = _copied(method, name)
            beside = _engine_for(copied, method, engine)
            if adjust is not None:
                adjust(copied)
            measured = _Counted(context.validation), _Counted(_every_sample(loader))
            validation, training = _both(copied, measured)
            done = _train(copied, beside, loader, context.accumulate, epochs, steps)
            validation_after, training_after = _both(copied, measured)
    finally:
        load_random_state(before, device)
    cost = {"steps": done, "measured": sum(batches.count for batches in measured)}
    for kind, number in cost.items():
        known = method._aside.get(f"probe_run/{kind}", torch.zeros((), device=device))
        method._aside[f"probe_run/{kind}"] = known + number
    return ProbeRun(training, training_after, validation, validation_after, done, time.perf_counter() - started)


def _both(method: Method, batches: tuple[_Counted, _Counted]) -> tuple[Validation | None, Validation]:
    validation, training = batches
    return None if validation.batches is None else measure(method, validation), measure(method, training)


class _Counted:
    """Batches that are counted as they go by."""

    def __init__(self, batches: Iterable[BatchLike] | None) -> None:
        self.batches = batches
        self.count = 0

    def __iter__(self) -> Iterator[BatchLike]:
        for batch in self.batches or ():
            self.count += 1
            yield batch


def _engine_of(context: EpochContext, name: str) -> PlainEngine:
    if context.engine is None:
        raise MethodError(
            f"`context.engine`: {name} trains a copy aside. Found None. Give EpochContext(engine=engine)."
        )
    if not isinstance(context.engine, PlainEngine):
        raise UnsupportedError(
            f"`context.engine`: {name} trains a copy aside, for which a PlainEngine is made like the one that trains. "
            f"Found {type(context.engine).__name__}. Use PlainEngine or a subclass."
        )
    return context.engine


def _loader_of(context: EpochContext, name: str) -> Any:
    loader: Any = context.loader
    if loader is None:
        raise MethodError(
            f"`context.loader`: {name} trains a copy aside. Found None. Give EpochContext(loader=loader)."
        )
    if isinstance(loader, Iterator):
        raise UnsupportedError(
            f"`context.loader`: {name} passes over the training batches more than once. Found an iterator, which has "
            "one pass. Give the loader itself."
        )
    if getattr(loader, "persistent_workers", False):
        raise UnsupportedError(
            f"`context.loader`: {name} passes over the training batches between epochs. Found a DataLoader with "
            "persistent workers, whose passes share one iterator. Use persistent_workers=False, or "
            "equimodal.data.loader."
        )
    return copy.copy(loader) if hasattr(loader, "full_pass") else loader


def _every_sample(loader: Any) -> Iterable[BatchLike]:
    batches: Iterable[BatchLike] = loader.full_pass() if hasattr(loader, "full_pass") else loader
    return batches


@contextlib.contextmanager
def _same_position(loader: Any) -> Iterator[None]:
    """Position and generators of a loader as they were; one of this library is a copy already."""
    if hasattr(loader, "full_pass"):
        yield
        return
    samplers = [loader, *(getattr(loader, n, None) for n in ("sampler", "batch_sampler"))]
    samplers.append(getattr(samplers[-1], "sampler", None))
    generators = {id(g): g for s in samplers if isinstance(g := getattr(s, "generator", None), torch.Generator)}
    states = [(g, g.get_state()) for g in generators.values()]
    stateful = callable(getattr(loader, "state_dict", None)) and callable(getattr(loader, "load_state_dict", None))
    position = copy.deepcopy(loader.state_dict()) if stateful else None
    try:
        yield
    finally:
        for generator, state in states:
            generator.set_state(state)
        if stateful:
            loader.load_state_dict(position)


def _copied(method: Method, name: str) -> Method:
    sharded = [n for n, p in method.named_parameters() if is_sharded(p)]
    if sharded:
        raise UnsupportedError(
            f"`model`: {name} trains a copy aside, and sharded parameters cannot be copied. Found {sharded[:3]}. Use "
            "whole encoders."
        )
    try:
        copied = copy.deepcopy(method)
    except (RuntimeError, TypeError, NotImplementedError, AttributeError) as error:
        raise UnsupportedError(
            f"`model`: {name} trains a copy aside. Found a model that copy.deepcopy cannot copy ({error})."
        ) from error
    return copied.train()


def _engine_for(copied: Method, method: Method, engine: PlainEngine) -> PlainEngine:
    counterparts = {id(p): q for p, q in zip(method.parameters(), copied.parameters(), strict=True)}
    optimizers = [fresh_optimizer(optimizer, counterparts) for optimizer in engine.optimizers]
    return engine_beside(engine, [optimizer for optimizer in optimizers if optimizer is not None])


def _train(
    method: Method, engine: PlainEngine, loader: Iterable[BatchLike], parts: int, epochs: int | None, steps: int | None
) -> int:
    """Updates until the epochs are over or the steps are made; how many."""
    device = next(method.parameters()).device
    _switch(engine, training=True)
    done = passes = 0
    while passes < (epochs or 1) if steps is None else done < steps:
        at_start = done
        for group in _grouped(loader, parts):
            batches = [method.check_batch(raw).to(device) for raw in group]
            method.training_step(batches, engine)
            done += 1
            if done == steps:
                break
        if done == at_start:
            raise MethodError("`context.loader`: expected at least one training batch. Found none.")
        passes += 1
    engine.raise_if_not_finite()
    _switch(engine, training=False)
    return done


def _grouped(loader: Iterable[BatchLike], size: int) -> Iterator[list[BatchLike]]:
    pending: list[BatchLike] = []
    for raw in loader:
        pending.append(raw)
        if len(pending) == size:
            yield pending
            pending = []
    if pending:
        yield pending


def _switch(engine: PlainEngine, training: bool) -> None:
    for optimizer in engine.optimizers:
        if is_schedule_free(optimizer):
            switch: Any = optimizer
            switch.train() if training else switch.eval()
