"""How a budget is spent: length and rungs of a trial, and which trials come first."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from equimodal.errors import MethodError
from equimodal.studies.tuning._config import TuneConfig

SHARE = 2 / 3
"""Largest share of the budget for the controls, where the length of a trial is not given."""


def trial_length(config: TuneConfig, costs: Mapping[str, float]) -> int:
    """Epochs of a trial: all of ``training.epochs``, or as many as let the controls take two thirds of the budget.

    Args:
        config: of the tuning.
        costs: control -> cost in joint steps.

    Raises:
        MethodError: the budget is below one control, or the controls do not fit into it.

    Example:
        >>> from equimodal.studies import TrainingConfig
        >>> trial_length(TuneConfig(60, training=TrainingConfig(epochs=20)), {"a": 1, "b": 1, "c": 1, "d": 1})
        10
    """
    whole, total = config.training.epochs, sum(costs.values())
    if config.length is None and config.budget < whole:
        raise MethodError(
            f"`budget`: expected at least {whole} joint epochs, which one control trained over training.epochs={whole} "
            f"takes. Found {config.budget:g}. Raise it, or lower training.epochs."
        )
    if config.length is not None:
        length = config.length
    else:
        length = min(whole, max(1, math.floor(SHARE * config.budget / total + 1e-9)))
    if length * total > config.budget:
        raise MethodError(
            f"`budget`: expected at least {length * total:.4g} joint epochs, which the controls {', '.join(costs)} "
            f"take over {length} epoch(s) each. Found {config.budget:g}. Raise it, or lower `length`."
        )
    return length


def rungs(length: int, reduction: int) -> list[int]:
    """Epochs at which a trial is looked at, the last one being its end.

    Two rungs before the end, each ``reduction`` times the one before; fewer for short trials.

    Example:
        >>> rungs(10, 3), rungs(60, 3), rungs(2, 3), rungs(1, 3)
        ([2, 6, 10], [7, 21, 60], [1, 2], [1])
    """
    first = least(length, reduction)
    return [r for r in (first, first * reduction) if r < length] + [length]


def least(length: int, reduction: int) -> int:
    """The first rung."""
    return max(1, math.ceil(length / reduction**2))


def remaining(budget: float, spent: float, promised: Sequence[float]) -> float:
    """What can still be given out: the budget without what was spent and what running trials may yet take."""
    return budget - spent - sum(promised)
