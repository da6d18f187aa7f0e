"""Cost of a method in joint steps: interleaved steps in one process, medians, ratios to the reference."""

from __future__ import annotations

import copy
import re
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from equimodal.batch import Batch
from equimodal.data import Dataset, loader
from equimodal.engine import Descent, Phase, PlainEngine, Sharpness
from equimodal.methods import EpochContext, Method, get
from equimodal.report import required_controls
from equimodal.studies.runs import load_companions
from equimodal.studies.setup import RunConfig, fixed_rate, optimizer_factory, seeded


def interleaved(steps: Mapping[str, Callable[[], Any]], rounds: int, warmup: int = 2) -> dict[str, list[float]]:
    """Seconds of each call, round by round in turn, so that a busy machine slows all of them alike.

    Args:
        steps: name -> what to time.
        rounds: timed rounds.
        warmup: rounds before them.
    """
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for number in range(warmup + rounds):
        for name, step in steps.items():
            _wait()
            start = time.perf_counter()
            step()
            _wait()
            if number >= warmup:
                seconds[name].append(time.perf_counter() - start)
    return seconds


def _wait() -> None:
    if torch.accelerator.is_available():
        torch.accelerator.synchronize()


def ratios(seconds: Mapping[str, list[float]], reference: str) -> dict[str, float]:
    """Median over the rounds of each step's time divided by the reference's time in the same round."""
    base = seconds[reference]
    return {n: statistics.median(t / b for t, b in zip(own, base, strict=True)) for n, own in seconds.items()}


def measure_cost(data: Dataset, configs: Mapping[str, RunConfig], rounds: int = 15) -> dict[str, float]:
    """Cost of each configuration's training step in joint steps, measured here and now on one batch of ``data``.

    A method in stages is measured in each, and the cost is the mean over the planned epochs.

    Args:
        data: gives the batch.
        configs: label -> configuration; the unit is a step of the control with the role ``"reference"``, with data,
            model and training of the first one.
        rounds: timed rounds.

    Returns:
        label -> cost in joint steps.
    """
    first = next(iter(configs.values()))
    unit = RunConfig(required_controls()["reference"], {}, first.data, first.model, first.training)
    steps: dict[str, Callable[[], Any]] = {}
    shares: dict[int, dict[str, float]] = {}
    with torch.random.fork_rng():
        for row, config in enumerate((unit, *configs.values())):
            for number, (share, step) in enumerate(_stages(config, data, first.training.batch_size)):
                name = f"{row}/{number}"
                steps[name] = step
                shares.setdefault(row, {})[name] = share
        costs = ratios(interleaved(steps, rounds), "0/0")
    return {
        label: sum(share * costs[name] for name, share in shares[row].items())
        for row, label in enumerate(configs, start=1)
    }


def declared_cost(config: RunConfig, modalities: int) -> float | None:
    """The first number in what the method says of its cost, twice that with a second pass for sharpness.

    Args:
        config: of the run.
        modalities: M, for a cost such as ``1/M joint step``.

    Returns:
        A number of joint steps; ``None`` where the method names no number.

    Example:
        >>> declared_cost(RunConfig("Joint", {"sharpness": {"mode": "full"}}), modalities=2)
        2.0
    """
    found = re.search(r"(\d+(?:\.\d+)?)(/M\b)?", get(config.method).info.cost)
    if found is None:
        return None
    sharpness = config.options.get("sharpness") or {}
    mode = sharpness.get("mode") if isinstance(sharpness, Mapping) else getattr(sharpness, "mode", None)
    return float(found[1]) / (modalities if found[2] else 1) * (2.0 if mode == "full" else 1.0)


def count_operations(data: Dataset, config: RunConfig, steps: int = 2) -> float:
    """Floating-point operations of some training steps, forward and backward; the same number on every machine.

    Matrix products, convolutions and attention are counted. Of a method in stages it is the mean over the planned
    epochs.

    Args:
        data: gives the batch.
        config: of the run.
        steps: that are counted, for what does not happen in every step.
    """
    from torch.utils.flop_counter import FlopCounterMode

    total = 0.0
    with torch.random.fork_rng():
        for share, step in _stages(config, data, config.training.batch_size):
            with FlopCounterMode(display=False) as counter:
                for _ in range(steps):
                    step()
            total += share * counter.get_total_flops()
    return total


def _stages(config: RunConfig, data: Dataset, size: int) -> list[tuple[float, Callable[[], Any]]]:
    """The kinds of steps in a training, told apart by phases and modalities: how many for each planned step, and one.

    What a method does between epochs it does with loaders over a single batch of ``size`` samples. An epoch that the
    method plans itself may so have more batches than one, or batches without some modality.
    """
    method = seeded(config, data, load_companions(config, data)).train()
    plan = Plan(_optimizer(method, config))
    shares: dict[tuple[Any, ...], float] = {}
    steps: dict[tuple[Any, ...], tuple[int, Callable[[], Any]]] = {}
    samples = len(data.train)
    batches = loader(data.train, size, seed=0, indices=_some(samples, size))
    validation = loader(data.validation, size, indices=_some(len(data.validation), size))
    updates = -(-max(1, samples // size) // config.training.accumulate)
    epochs = config.training.epochs
    for epoch in range(epochs):
        method.on_train_epoch_start(
            EpochContext(epoch, epochs=epochs, steps=updates, loader=batches, engine=plan, validation=validation)
        )
        for batch in batches:
            kind = (*plan.kind_of(method, batch), *(m for m in batch.inputs if batch.count(m)))
            if kind not in steps:
                steps[kind] = len(batch), _step(copy.deepcopy(method), config, batch)
            shares[kind] = shares.get(kind, 0.0) + len(batch) / steps[kind][0] / epochs
    return [(share, steps[kind][1]) for kind, share in shares.items()]


def _some(count: int, size: int) -> Tensor:
    return torch.randperm(count, generator=torch.Generator().manual_seed(0))[:size]


def _step(method: Method, config: RunConfig, batch: Batch) -> Callable[[], Any]:
    engine = PlainEngine(_optimizer(method, config), clip_norm=config.training.clip_norm)
    return lambda: method.training_step(batch, engine)


def _optimizer(method: Method, config: RunConfig) -> Optimizer:
    return optimizer_factory(config.training)(method.parameter_groups(fixed_rate(config.training)))


class Plan(PlainEngine):
    """Notes the phases of a step and computes none of them."""

    def kind_of(self, method: Method, batch: Batch) -> tuple[tuple[str, int], ...]:
        """Name and number of trained parameters of each phase of a step, in no order of time."""
        self._phases: list[tuple[str, int]] = []
        method.training_step(batch, self)
        return tuple(sorted(self._phases))

    def descend(self, phase: Phase, batches: Sequence[Batch], sharpness: Sharpness | None = None) -> Descent:
        """Nothing, so that the phase is skipped."""
        self._phases.append((phase.name, sum(p.numel() for p in phase.trained)))
        return Descent.nothing()
