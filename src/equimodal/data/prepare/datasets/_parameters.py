"""Checks of the parameters of a dataset, with one wording."""

from __future__ import annotations

import dataclasses
import math
from typing import Any, Literal, get_args, get_origin, get_type_hints

from equimodal.errors import DataError


def check_parameters(parameters: Any, **least: int) -> None:
    """Refuse values that the types of the fields do not allow, and numbers that are too small.

    A ``Literal`` is one of its choices, an ``int`` a whole number, a ``float`` a finite number, a ``bool`` true or
    false.

    Args:
        parameters: a dataclass.
        least: field -> smallest whole number; a ``float`` has to be above it.

    Raises:
        DataError: the first field that does not fit.

    Example:
        >>> @dataclasses.dataclass(frozen=True)
        ... class Parameters:
        ...     frames: int = 0
        >>> check_parameters(Parameters(), frames=1)
        Traceback (most recent call last):
            ...
        equimodal.errors.DataError: `frames`: expected a whole number of at least 1. Found 0.
    """
    hints = get_type_hints(type(parameters))
    for field in dataclasses.fields(parameters):
        value, hint, bound = getattr(parameters, field.name), hints[field.name], least.get(field.name)
        expected = ""
        if get_origin(hint) is Literal:
            expected = "" if value in get_args(hint) else f"one of {list(get_args(hint))}"
        elif hint is bool and not isinstance(value, bool):
            expected = "true or false"
        elif hint is int and (type(value) is not int or (bound is not None and value < bound)):
            expected = "a whole number" + ("" if bound is None else f" of at least {bound}")
        elif hint is float and not (_is_number(value) and (bound is None or value > bound)):
            expected = "a number" + ("" if bound is None else f" above {bound}")
        if expected:
            raise DataError(f"`{field.name}`: expected {expected}. Found {value!r}.")


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
