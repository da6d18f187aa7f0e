"""Hyperparameters that say everything about themselves in the signature: kind, range, source of the default."""

from __future__ import annotations

import functools
import math
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import UnionType
from typing import Any, Literal

from equimodal._utils.arguments import check_number, one_of
from equimodal.errors import MethodError

BASE = ("model", "task", "sharpness", "inference", "calibrated", "unimodal")
"""What the base of all methods explains and checks."""


@dataclass(frozen=True)
class Within:
    """The range of a number, in the hint of a hyperparameter: ``Annotated[float, Within(above=0), "paper"]``.

    Args:
        above: it must be greater; or
        at_least: it must not be smaller.
        below: it must be smaller; or
        at_most: it must not be greater.
        whole: it must be an integer.

    Raises:
        MethodError: two lower or two upper bounds, or bounds that no number is between.

    Example:
        >>> Within(above=0, at_most=1)
        Within(above=0, at_least=None, below=None, at_most=1, whole=False)
    """

    above: float | None = None
    at_least: float | None = None
    below: float | None = None
    at_most: float | None = None
    whole: bool = False

    def __post_init__(self) -> None:
        lows = [v for v in (self.above, self.at_least) if v is not None]
        highs = [v for v in (self.below, self.at_most) if v is not None]
        twice = len(lows) > 1 or len(highs) > 1
        touching = self.at_least is not None and self.at_most is not None
        empty = bool(lows and highs) and not (lows[0] < highs[0] or (touching and lows[0] == highs[0]))
        if twice or empty or any(math.isnan(v) for v in (*lows, *highs)):
            raise MethodError(
                f"`Within`: expected at most one lower bound, and one upper bound that is greater. Found {self}."
            )


@dataclass(frozen=True)
class Option:
    """What the signature says of one hyperparameter.

    Args:
        choices: the values that it may take, of a ``Literal`` or a ``bool``; empty where it is no choice.
        range: of a number.
        source: where its default is from.
        optional: whether it may be ``None``.
    """

    choices: tuple[Any, ...] = ()
    range: Within | None = None
    source: str = ""
    optional: bool = False


def check_options(constructor: Callable[..., None], values: Mapping[str, Any]) -> None:
    """Refuse hyperparameters that their hints do not allow: ``check_options(MLA.__init__, locals())``.

    ``Literal[...]`` is a choice; ``Annotated[float, Within(above=0), "paper"]`` a number in a range, with the source of
    its default.

    Raises:
        MethodError: the first one that does not fit.

    Example:
        >>> from typing import Annotated
        >>> def constructor(*, alpha: Annotated[float, Within(above=0), "paper"] = 0.1) -> None: ...
        >>> check_options(constructor, {"alpha": -1.0})
        Traceback (most recent call last):
        ...
        equimodal.errors.MethodError: `alpha`: expected a number > 0. Found -1.0.
    """
    for name, option in options_of(constructor).items():
        if name in BASE:
            continue
        if option.choices:
            one_of(name, values[name], option.choices)
        if option.range is not None and not (option.optional and values[name] is None):
            check_number(name, values[name], **vars(option.range))


@functools.cache
def options_of(constructor: Callable[..., None]) -> Mapping[str, Option]:
    """What a signature says of each hyperparameter, in its order."""
    hints = typing.get_type_hints(constructor, include_extras=True)
    return {name: _option(hint) for name, hint in hints.items() if name != "return"}


def sources_of(constructor: Callable[..., None]) -> dict[str, str]:
    """Hyperparameter -> source of its default, where the hint names one."""
    return {name: option.source for name, option in options_of(constructor).items() if option.source}


def _option(hint: Any) -> Option:
    marks = getattr(hint, "__metadata__", ())
    bare = hint.__origin__ if marks else hint
    kinds = typing.get_args(bare) if typing.get_origin(bare) in (UnionType, typing.Union) else (bare,)
    choices = [c for k in kinds if typing.get_origin(k) is Literal for c in typing.get_args(k)]
    choices += [True, False] if bool in kinds else []
    optional = type(None) in kinds
    if choices and optional:
        choices.append(None)
    texts = [mark for mark in marks if isinstance(mark, str)]
    ranges = [mark for mark in marks if isinstance(mark, Within)]
    # a name or an object: not every value is a choice
    mixed = any(typing.get_origin(k) is not Literal and k not in (type(None), bool) for k in kinds)
    return Option(
        choices=() if mixed else tuple(choices),
        range=ranges[0] if ranges else None,
        source=texts[0] if texts else "",
        optional=optional,
    )
