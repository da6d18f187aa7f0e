"""Frozen data classes that are made quickly: several are made in every training step."""

from __future__ import annotations

import inspect
from dataclasses import MISSING, fields
from typing import Any, TypeVar

T = TypeVar("T")


def quickly_made(cls: type[T]) -> type[T]:
    """The same frozen data class, whose fields are written to its table instead of being set one by one.

    A frozen class sets each field with ``object.__setattr__``, which takes three times as long as all the rest. The
    signature, ``__post_init__``, ``replace`` and what is frozen stay as they are.

    Args:
        cls: made by ``dataclass(frozen=True)``.

    Example:
        >>> from dataclasses import dataclass, field
        >>> @quickly_made
        ... @dataclass(frozen=True)
        ... class Point:
        ...     x: float
        ...     names: list = field(default_factory=list)
        >>> Point(1.0)
        Point(x=1.0, names=[])
    """
    known: dict[str, Any] = {"_absent": object()}
    parameters, lines = [], ["own = self.__dict__"]
    for f in fields(cls):  # type: ignore[arg-type]  # a data class
        value = f.name
        if not f.init:
            continue
        if f.default_factory is not MISSING:
            known[f"_make_{f.name}"] = f.default_factory
            parameters.append(f"{f.name}=_absent")
            new = "{}" if f.default_factory is dict else f"_make_{f.name}()"
            value = f"{new} if {f.name} is _absent else {f.name}"
        elif f.default is not MISSING:
            known[f"_default_{f.name}"] = f.default
            parameters.append(f"{f.name}=_default_{f.name}")
        else:
            parameters.append(f.name)
        lines.append(f"own[{f.name!r}] = {value}")
    if hasattr(cls, "__post_init__"):
        lines.append("self.__post_init__()")
    body = "\n    ".join(lines)
    exec(f"def __init__(self, {', '.join(parameters)}):\n    {body}", known)  # noqa: S102 (dataclass does so itself)
    made: Any = known["__init__"]
    usual: Any = vars(cls)["__init__"]
    made.__signature__ = inspect.signature(usual)
    made.__qualname__, made.__module__, made.__annotations__ = usual.__qualname__, cls.__module__, usual.__annotations__
    setattr(cls, "__init__", made)  # noqa: B010 (mypy refuses the plain way)
    return cls
