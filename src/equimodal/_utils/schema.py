"""Plain values from outside, compared with the types that they are used as: one place for all records."""

from __future__ import annotations

import dataclasses
import math
import types
import typing
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any, Literal, TypeVar, Union

from equimodal._utils.outside import shortened
from equimodal.errors import DataError, EquimodalError

T = TypeVar("T")
_WORDS: dict[Any, str] = {
    int: "a whole number", float: "a number", str: "a text", bool: "true or false", type(None): "null",
    dict: "a mapping", list: "a list",
}  # fmt: skip
_PLAIN = (int, float, str, bool, type(None))


def check(
    value: Any, hint: Any, name: str = "", file: str = "", *, error: type[EquimodalError] = DataError, step: str = ""
) -> None:
    """Raise unless ``value`` is of the type ``hint``.

    Args:
        value: plain values.
        hint: plain types, ``Literal``, unions, lists, mappings, dataclasses (as mappings of some of their fields), and
            ``TypedDict`` (whose further keys are let through). Other types let everything through.
        name: of the field, for the message.
        file: where it stands, for the message.
        error: the class to raise.
        step: the end of the message: what to do next.

    Raises:
        EquimodalError: it is not; the message names file, field, what was expected and what was found.

    Example:
        >>> check({"lr": [1.0, None]}, dict[str, list[float]], "training", "a.yaml")
        Traceback (most recent call last):
        ...
        equimodal.errors.DataError: a.yaml: field `training.lr[1]`: expected a number. Found nothing.
    """
    found = _first_wrong(value, hint, name)
    if found is not None:
        field, expected, wrong = found
        place = f"{file}: field `{field}`" if file and field else file or f"`{field}`"
        raise error(f"{place}: expected {expected}. Found {_shown(wrong)}.{f' {step}' if step else ''}")


def _shown(value: Any) -> str:
    if value is None or value is _NOTHING:
        return "nothing"
    if isinstance(value, (list, tuple)):
        return f"a list of {len(value)}"
    if isinstance(value, Mapping):
        return f"a mapping of {len(value)}"
    if isinstance(value, int) and abs(value) > 10**40:
        return f"a number of {value.bit_length()} bits"
    return shortened(repr(value), 60)


_NOTHING = object()


def _first_wrong(value: Any, hint: Any, name: str) -> tuple[str, str, Any] | None:
    """The first place where a value is of another type: its name, what was expected, and what is there."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Annotated:
        return _first_wrong(value, arguments[0], name)
    if origin in (Union, types.UnionType):
        tries = [_first_wrong(value, one, name) for one in arguments]
        if None in tries:
            return None
        deeper = [t for t in tries if t is not None and t[0] != name]
        return deeper[0] if deeper else (name, " or ".join(_words(a) for a in arguments), value)
    if origin is Literal:
        same = any(value == a and type(value) is type(a) for a in arguments)
        return None if same else (name, _words(hint), value)
    kind = origin or hint
    if typing.is_typeddict(kind) or dataclasses.is_dataclass(kind):
        return _record(value, kind, name)
    if kind in (list, tuple, Sequence):
        if not isinstance(value, (list, tuple)):
            return name, "a list", value
        entries = [(f"{name}[{i}]", v) for i, v in enumerate(value)]
        return _first_of(entries, arguments[0] if arguments else Any)
    if kind in (dict, Mapping):
        if not isinstance(value, Mapping):
            return name, "a mapping", value
        odd = next((k for k in value if not isinstance(k, str)), None)
        if odd is not None:
            return name, "texts as keys", odd
        return _first_of([(_joined(name, k), v) for k, v in value.items()], arguments[1] if arguments else Any)
    if kind in _PLAIN:
        return None if _is(value, kind) else (name, _WORDS[kind], value)
    return None


def _first_of(entries: Sequence[tuple[str, Any]], hint: Any) -> tuple[str, str, Any] | None:
    if hint is Any:
        return None
    return next((wrong for name, value in entries if (wrong := _first_wrong(value, hint, name)) is not None), None)


def _record(value: Any, kind: Any, name: str) -> tuple[str, str, Any] | None:
    if isinstance(kind, type) and not typing.is_typeddict(kind) and isinstance(value, kind):
        return None
    if not isinstance(value, Mapping):
        return name, "a mapping", value
    for key, (hint, required) in _fields(kind).items():
        if key in value:
            wrong = _first_wrong(value[key], hint, _joined(name, key))
            if wrong is not None:
                return wrong
        elif required:
            return _joined(name, key), _words(hint), _NOTHING
    return None


@cache
def _fields(kind: Any) -> dict[str, tuple[Any, bool]]:
    """The fields of a record with their types, and whether they must be there."""
    found = {}
    for name, hint in typing.get_type_hints(kind, include_extras=True).items():
        # a TypedDict does not know what it requires where annotations are texts
        origin, every = typing.get_origin(hint), typing.is_typeddict(kind) and kind.__total__
        marked = origin in (typing.Required, typing.NotRequired)
        inner = typing.get_args(hint)[0] if marked else hint
        found[name] = inner, origin is typing.Required or (every and not marked)
    return found


def _joined(name: str, key: str) -> str:
    return f"{name}.{shortened(key, 40)}" if name else shortened(key, 40)


def _is(value: Any, kind: Any) -> bool:
    if kind is float:
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        return number and (not isinstance(value, float) or not math.isnan(value))
    if kind is int:
        return isinstance(value, int) and not isinstance(value, bool)
    return isinstance(value, kind)


def _words(hint: Any) -> str:
    if typing.get_origin(hint) is Literal:
        return f"one of {', '.join(map(str, typing.get_args(hint)))}"
    kind = typing.get_origin(hint) or hint
    if typing.is_typeddict(kind) or dataclasses.is_dataclass(kind):
        return "a mapping"
    if kind in (Union, types.UnionType):
        return " or ".join(_words(a) for a in typing.get_args(hint))
    return _WORDS.get({Mapping: dict, Sequence: list, tuple: list}.get(kind, kind), "a value")
