"""The ranges that are searched, from the signatures of the methods."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from equimodal.methods import Within, get, options_of
from equimodal.studies.setup import method_options

if TYPE_CHECKING:
    import optuna

_BASE = ("sharpness", "inference", "calibrated", "unimodal")  # searched by themselves, or fitted at no cost
_SPAN = 10.0  # a positive number is searched a factor of this up and down
_MANY = 8  # from here on an integer is searched by its logarithm
_EDGE = 1e-3  # share of a range that keeps numbers off an end that is excluded


@dataclass(frozen=True)
class Choice:
    """One of several values."""

    values: tuple[Any, ...]


@dataclass(frozen=True)
class Range:
    """A number from ``low`` to ``high``, both included.

    Args:
        low: the least.
        high: the greatest.
        log: uniform in its logarithm.
        whole: an integer.
    """

    low: float
    high: float
    log: bool = False
    whole: bool = False


def option_space(name: str) -> dict[str, Choice | Range]:
    """The options of a method that can be searched, in the order of its signature.

    A ``Literal`` or ``bool`` is a choice. A number with a range is searched on a logarithmic scale, ten times up and
    down from its default, if it is positive; over the whole range if that has two ends and the default lies above a
    fifth of it. Numbers without a range, modules, names and companions are left at their defaults; so are inference
    rules, which are compared on stored outputs.

    Args:
        name: of the method.

    Example:
        >>> option_space("PretrainFinetune")["freeze"]
        Choice(values=(True, False))
        >>> option_space("MultiLoss")["weight"]
        Range(low=0.1, high=10.0, log=True, whole=False)
    """
    hints = options_of(get(name).__init__)
    space: dict[str, Choice | Range] = {}
    for option, parameter in method_options(name).items():
        hint = hints.get(option)
        if hint is None or option in _BASE or parameter.default is parameter.empty:
            continue
        if hint.choices and parameter.default in hint.choices:
            space[option] = Choice(hint.choices)
        elif hint.range is not None:
            found = number_range(hint.range, parameter.default)
            if found is not None:
                space[option] = found
    return space


def drawn(trial: optuna.Trial, name: str, entry: Choice | Range) -> Any:
    """A value of a parameter, as the sampler of a trial suggests it."""
    if isinstance(entry, Choice):
        return trial.suggest_categorical(name, entry.values)
    if entry.whole:
        return trial.suggest_int(name, int(entry.low), int(entry.high), log=entry.log)
    return trial.suggest_float(name, entry.low, entry.high, log=entry.log)


def number_range(within: Within, default: Any) -> Range | None:
    """Where a number is searched; ``None`` where its scale is not known, or there is only one value.

    Args:
        within: what is allowed.
        default: of the option.

    Example:
        >>> number_range(Within(above=0), 0.5)
        Range(low=0.05, high=5.0, log=True, whole=False)
        >>> number_range(Within(at_least=0, at_most=1), 0.9)
        Range(low=0.0, high=1.0, log=False, whole=False)
        >>> number_range(Within(at_least=1, whole=True), 4)
        Range(low=1, high=16, log=False, whole=True)
    """
    if isinstance(default, bool) or not isinstance(default, (int, float)) or not math.isfinite(default):
        return None
    low, high = _ends(within)
    if within.whole:
        least, most = max(low, math.ceil(default / 4)), min(high, default * 4)
        if default <= 0:
            least, most = low, min(high, 4.0)
        if not math.isfinite(least) or most <= least:
            return None
        return Range(int(least), int(most), log=default >= _MANY and least >= 1, whole=True)
    bounded = math.isfinite(low) and math.isfinite(high)
    if bounded and (default <= 0 or default > low + 0.2 * (high - low)):
        return Range(low, high)
    if default > 0:
        least, most = max(low, default / _SPAN), min(high, default * _SPAN)
        return Range(least, most, log=True) if most > least else None
    if default == 0:
        least, most = max(low, 0.0), min(high, 1.0)
        return Range(least, most) if most > least else None
    return None


def _ends(within: Within) -> tuple[float, float]:
    """The ends of a range; an excluded one is moved inside."""
    low = within.at_least if within.above is None else within.above
    high = within.at_most if within.below is None else within.below
    least, most = -math.inf if low is None else float(low), math.inf if high is None else float(high)
    edge = (1.0 if within.whole else _EDGE * (most - least)) if math.isfinite(most - least) else float(within.whole)
    if within.above is not None:
        least += edge
    if within.below is not None:
        most -= edge
    return least, most


def plain_space(space: Mapping[str, Choice | Range]) -> dict[str, str]:
    """The ranges in words, for records.

    Example:
        >>> plain_space({"a": Range(0.1, 10, log=True), "b": Choice((True, None))})
        {'a': '0.1 to 10, logarithmic', 'b': 'True, None'}
    """
    words = {}
    for name, entry in space.items():
        if isinstance(entry, Choice):
            words[name] = ", ".join(map(str, entry.values))
        else:
            words[name] = f"{entry.low:g} to {entry.high:g}{', logarithmic' if entry.log else ''}"
    return words
