"""Cost of a method in joint steps: interleaved steps in one process, medians, ratios to ``Joint``."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

import torch

from equimodal.batch import Batch
from equimodal.data import Dataset, loader
from equimodal.engine import PlainEngine
from equimodal.methods import EpochContext
from equimodal.studies.setup import RunConfig, optimizer_factory, seeded


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

    Args:
        data: gives the batch.
        configs: label -> configuration; ``Joint`` of the first one is the reference.
        rounds: timed rounds.

    Returns:
        label -> ratio to ``Joint``.
    """
    first = next(iter(configs.values()))
    batch = next(iter(loader(data.train, first.training.batch_size, seed=0)))
    everything = {"__joint__": RunConfig("Joint", {}, first.data, first.model, first.training), **configs}
    with torch.random.fork_rng():
        steps = {label: _step(config, data, batch) for label, config in everything.items()}
        found = ratios(interleaved(steps, rounds), "__joint__")
    del found["__joint__"]
    return found


def _step(config: RunConfig, data: Dataset, batch: Batch) -> Callable[[], Any]:
    method = seeded(config, data)
    optimizer = optimizer_factory(config.training)(method.parameter_groups(config.training.lr))
    engine = PlainEngine(optimizer, clip_norm=config.training.clip_norm)
    method.train()
    # a late epoch: staged methods are measured in their last, joint part
    method.on_train_epoch_start(EpochContext(epoch=0, epochs=2, steps=100, loader=[batch], engine=engine))
    if type(method).__name__ == "PretrainFinetune":
        method.on_train_epoch_start(EpochContext(epoch=1, epochs=2, steps=100, loader=[batch], engine=engine))
    return lambda: method.training_step(batch, engine)
