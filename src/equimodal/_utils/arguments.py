"""Checks of hyperparameters, with one wording."""

from __future__ import annotations

import math
from collections.abc import Sequence
from numbers import Integral, Real

from equimodal.errors import MethodError, did_you_mean


def one_of(name: str, value: object, allowed: Sequence[object]) -> None:
    """Raise unless ``value`` is among ``allowed``.

    Raises:
        MethodError: it is not.
    """
    if not any(value is a or (type(value) is type(a) and value == a) for a in allowed):
        raise MethodError(
            f"`{name}`: expected one of {', '.join(map(repr, allowed))}. Found {value!r}.{did_you_mean(value, allowed)}"
        )


def check_number(
    name: str,
    value: object,
    *,
    above: float | None = None,
    at_least: float | None = None,
    below: float | None = None,
    at_most: float | None = None,
    whole: bool = False,
) -> None:
    """Raise unless ``value`` is a finite number within its bounds.

    Args:
        name: of the parameter.
        value: what was given.
        above: it must be greater; or
        at_least: it must not be smaller.
        below: it must be smaller; or
        at_most: it must not be greater.
        whole: it must be an integer, of at most 64 bits.

    Raises:
        MethodError: it is none, or out of bounds.

    Example:
        >>> check_number("rho", -1, above=0)
        Traceback (most recent call last):
        ...
        equimodal.errors.MethodError: `rho`: expected a number > 0. Found -1.
    """
    right_type = isinstance(value, Integral if whole else Real) and not isinstance(value, bool)
    too_long = whole and isinstance(value, Integral) and not -(2**63) <= int(value) < 2**63
    if right_type and not too_long:
        try:
            found = float(value)  # type: ignore[arg-type]
        except OverflowError:  # a whole number of more than 300 digits
            found = math.inf
        lower = (above is None or found > above) and (at_least is None or found >= at_least)
        upper = (below is None or found < below) and (at_most is None or found <= at_most)
        if math.isfinite(found) and lower and upper:
            return
    low, high = above if at_least is None else at_least, below if at_most is None else at_most
    if low is not None and high is not None:
        bounds = f" in {'(' if at_least is None else '['}{low}, {high}{')' if at_most is None else ']'}"
    elif low is not None:
        bounds = f" {'>' if at_least is None else '>='} {low}"
    else:
        bounds = "" if high is None else f" {'<' if at_most is None else '<='} {high}"
    kind = "an integer of at most 64 bits" if too_long else "an integer" if whole else "a number"
    raise MethodError(f"`{name}`: expected {kind}{bounds}. Found {value!r}.")
