"""Range test of the learning rate: a copy of the method is trained with rates that grow, and thrown away."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch.optim import Optimizer

from equimodal._utils.arguments import check_number
from equimodal.engine import PlainEngine, is_distributed, load_random_state, save_random_state
from equimodal.errors import MethodError, NonFiniteError, UnsupportedError
from equimodal.methods import BatchLike, EpochContext, Method

RATE_RULE = (
    "a tenth of the rate with the lowest smoothed training loss in a range test (Smith, arXiv 1506.01186; the tenth is "
    "Gugger's, 2018)"
)
"""How :func:`find_rate` chooses."""
_SMOOTHING = 0.9
_DIVERGED = 4.0
_LEAST = 10


@dataclass(frozen=True)
class RateTest:
    """What a range test found.

    Args:
        rates: of the steps, growing by a constant factor.
        losses: training loss at each, before the step with that rate.
        smoothed: their exponential mean (0.9), corrected for its start.
        suggestion: the learning rate to take.
        rule: how it was chosen, with its source.
    """

    rates: tuple[float, ...]
    losses: tuple[float, ...]
    smoothed: tuple[float, ...]
    suggestion: float
    rule: str = RATE_RULE


def find_rate(
    method: Method,
    batches: Iterable[BatchLike],
    optimizer: Callable[[list[dict[str, Any]]], Optimizer],
    *,
    lr: float = 1e-3,
    low: float = 1e-6,
    high: float = 10.0,
    steps: int = 100,
    clip_norm: float | None = None,
    accumulate: int = 1,
    validation: Iterable[BatchLike] | None = None,
) -> RateTest:
    r"""A learning rate from a range test on training batches, with the method's own steps.

    A deep copy of the method is trained for ``steps`` updates with rates
    :math:`\eta_k = \mathrm{low}\,(\mathrm{high}/\mathrm{low})^{k/(\mathrm{steps}-1)}`; groups of parameters keep their
    ratios. It ends where the smoothed loss is four times its lowest, or a loss is no number. The suggestion is a tenth
    of the rate with the lowest smoothed loss, the first nine steps aside. Method, its
    statistics, the loader's position and all generators are left as they were.

    Args:
        method: is copied.
        batches: training batches, passed over as often as needed.
        optimizer: makes the optimizer from parameter groups.
        lr: the rate that groups are made for, to which ratios between them refer.
        low: first rate.
        high: last rate.
        steps: updates, at least 20.
        clip_norm: as in the training.
        accumulate: micro-batches per update.
        validation: validation batches, for methods that look at them when an epoch starts.

    Raises:
        MethodError: an argument is out of range, no batch, or no rate lowers the loss.
        UnsupportedError: several processes, an iterator that has one pass only, or a model that cannot be copied.

    Example:
        >>> from torch import nn
        >>> from equimodal import Batch, Classification, MultimodalModel
        >>> from equimodal.fusion import Concat
        >>> from equimodal.methods import Joint
        >>> torch.manual_seed(0)  # doctest: +ELLIPSIS
        <torch._C.Generator object at ...>
        >>> model = MultimodalModel({"a": nn.Linear(4, 4)}, Concat({"a": 4}), nn.Linear(4, 2))
        >>> batch = Batch({"a": torch.eye(4)}, torch.tensor([0, 1, 0, 1]))
        >>> found = find_rate(Joint(model, Classification(2)), [batch], lambda groups: torch.optim.SGD(groups, lr=0.1))
        >>> 1e-2 < found.suggestion < 10
        True
    """
    for name, value in (("low", low), ("high", high), ("lr", lr)):
        check_number(name, value, above=0, at_most=1e9)
    check_number("steps", steps, at_least=2 * _LEAST, at_most=10**6, whole=True)
    check_number("accumulate", accumulate, at_least=1, whole=True)
    if not low < high:
        raise MethodError(f"`low`, `high`: expected low < high. Found {low} and {high}.")
    if is_distributed():
        raise UnsupportedError("`find_rate`: expected one process. Found several. Find the rate before, on one.")
    if isinstance(batches, Iterator):
        raise UnsupportedError("`batches`: expected batches that can be passed over again. Found an iterator.")
    device = next(method.parameters()).device
    state = save_random_state(device)
    try:
        with torch.inference_mode(False), torch.enable_grad():
            copied = _copied(method)
            engine = PlainEngine(optimizer(copied.parameter_groups(lr)), clip_norm=clip_norm)
            engine.prepare(copied)
            loader: Any = copy.copy(batches) if hasattr(batches, "full_pass") else batches
            copied.train()
            sized: Any = loader if hasattr(loader, "__len__") else None
            count = None if sized is None else max(1, len(sized) // accumulate)
            copied.on_train_epoch_start(
                EpochContext(0, 1, count, loader=loader, engine=engine, validation=validation, accumulate=accumulate)
            )
            return _chosen(*_range(copied, engine, loader, lr, (low, high), steps, accumulate))
    finally:
        load_random_state(state, device)


def _copied(method: Method) -> Method:
    try:
        return copy.deepcopy(method)
    except (RuntimeError, TypeError, NotImplementedError, AttributeError) as error:
        raise UnsupportedError(
            f"`method`: the range test trains a copy. Found a model that copy.deepcopy cannot copy ({error})."
        ) from error


def _range(
    method: Method,
    engine: PlainEngine,
    batches: Iterable[BatchLike],
    lr: float,
    limits: tuple[float, float],
    steps: int,
    accumulate: int,
) -> tuple[list[float], list[float], list[float]]:
    """Rates, losses and smoothed losses of the steps that were made."""
    device = next(method.parameters()).device
    groups = [(group, float(group["lr"]) / lr) for o in engine.optimizers for group in o.param_groups]
    low, high = limits
    rates: list[float] = []
    losses: list[float] = []
    smoothed: list[float] = []
    mean, source = 0.0, _endless(batches)
    for step in range(steps):
        rate = low * (high / low) ** (step / (steps - 1))
        for group, ratio in groups:
            group["lr"] = rate * ratio
        taken = [method.check_batch(next(source)).to(device) for _ in range(accumulate)]
        try:
            loss = float(method.training_step(taken, engine).loss)
        except NonFiniteError:
            break
        if not math.isfinite(loss):
            break
        mean = _SMOOTHING * mean + (1 - _SMOOTHING) * loss
        rates.append(rate)
        losses.append(loss)
        smoothed.append(mean / (1 - _SMOOTHING ** (step + 1)))
        lowest = min(smoothed)
        if step >= _LEAST and smoothed[-1] > _DIVERGED * abs(lowest) and smoothed[-1] > losses[0]:
            break
    return rates, losses, smoothed


def _endless(batches: Iterable[BatchLike]) -> Iterator[BatchLike]:
    while True:
        some = False
        for batch in batches:
            some = True
            yield batch
        if not some:
            raise MethodError("`batches`: expected at least one training batch. Found none.")


def _chosen(rates: list[float], losses: list[float], smoothed: list[float]) -> RateTest:
    if len(rates) < _LEAST:
        raise MethodError(
            f"`low`: expected at least {_LEAST} steps before the loss is no number. Found {len(rates)}. Choose a lower "
            "rate to begin with, or check the data."
        )
    before = sum(losses[:_LEAST]) / _LEAST  # steps that are too small to change anything
    place = min(range(_LEAST - 1, len(smoothed)), key=smoothed.__getitem__)
    if not smoothed[place] < before:
        raise MethodError(
            f"`batches`: expected a rate that lowers the training loss, {before:.4g} in the first {_LEAST} steps. "
            f"Found {smoothed[place]:.4g} at best, with a rate of {rates[place]:.3g}. Give a rate by hand, or a wider "
            "range, more steps or larger batches."
        )
    return RateTest(tuple(rates), tuple(losses), tuple(smoothed), rates[place] / 10)
