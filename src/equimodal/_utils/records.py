"""Frozen data classes that are made quickly: several are made in every training step."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import MISSING, fields
from typing import Any, TypeVar

import torch

T = TypeVar("T")


def quickly_made(*, compiled: bool = False) -> Callable[[type[T]], type[T]]:
    """The same frozen data class, whose fields are written to its table instead of being set one by one.

    A frozen class sets each field with ``object.__setattr__``, which takes three times as long as all the rest. The
    signature, ``__post_init__``, ``replace`` and what is frozen stay as they are.

    Args:
        compiled: compiled code makes objects too, which a compiler follows in the usual way only.

    Example:
        >>> from dataclasses import dataclass, field
        >>> @quickly_made()
        ... @dataclass(frozen=True)
        ... class Point:
        ...     x: float
        ...     names: list = field(default_factory=list)
        >>> Point(1.0)
        Point(x=1.0, names=[])
    """

    def decorate(cls: type[T]) -> type[T]:
        usual: Any = vars(cls)["__init__"]
        signature = inspect.signature(usual)
        given = [f for f in fields(cls) if f.init]  # type: ignore[arg-type]  # a data class
        names: dict[str, Any] = {"_usual": usual, "_is_compiling": torch.compiler.is_compiling}
        arguments, lines = [], ["own = self.__dict__"]
        for f in given:
            default = signature.parameters[f.name].default
            names[f"_default_{f.name}"], names[f"_make_{f.name}"] = default, f.default_factory
            arguments.append(f.name if default is inspect.Parameter.empty else f"{f.name}=_default_{f.name}")
            made = "{}" if f.default_factory is dict else f"_make_{f.name}()"
            value = f.name if f.default_factory is MISSING else f"{made} if {f.name} is _default_{f.name} else {f.name}"
            lines.append(f"own[{f.name!r}] = {value}")
        if hasattr(cls, "__post_init__"):
            lines.append("self.__post_init__()")
        if compiled:
            lines.insert(0, f"if _is_compiling(): return _usual(self, {', '.join(f.name for f in given)})")
        body = "\n    ".join(lines)
        exec(f"def __init__(self, {', '.join(arguments)}):\n    {body}", names)  # noqa: S102 (dataclass does so itself)
        quick: Any = names["__init__"]
        quick.__signature__, quick.__annotations__ = signature, usual.__annotations__
        quick.__qualname__, quick.__module__ = usual.__qualname__, cls.__module__
        setattr(cls, "__init__", quick)  # noqa: B010 (mypy refuses the plain way)
        return cls

    return decorate
