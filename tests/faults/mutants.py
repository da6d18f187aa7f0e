"""Mutants of plain values: every field in turn is of another type, absent, beyond its range, or too deep."""

from __future__ import annotations

import copy
import json
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

ABSENT = object()
WRONG: dict[str, Any] = {
    "null": None,
    "text": "x\x1b[31m\u202ey",
    "list": [],
    "lists": [["a"], {"b": 1}],
    "mapping": {},
    "mappings": {"a": {"b": None}, "__class__": 1},
    "huge": 10**30,
    "large": 10**13,
    "negative": -1,
    "fraction": 0.5,
    "nan": float("nan"),
    "infinite": float("inf"),
    "true": True,
    "missing": ABSENT,
}
"""Name -> value that is put in the place of a field."""


def deep(levels: int) -> Any:
    """Lists inside each other."""
    value: Any = 1
    for _ in range(levels):
        value = [value]
    return value


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The path of each value inside ``value``; two stand for all that are alike, and the first entry for a list."""
    if isinstance(value, dict):
        seen: Counter[str] = Counter()
        for key, child in value.items():
            if isinstance(child, dict):
                seen[outline(child)] += 1
                if seen[outline(child)] > 2:
                    continue
            yield (*path, key)
            yield from places(child, (*path, key))
    elif isinstance(value, list) and value:
        yield (*path, 0)
        yield from places(value[0], (*path, 0))


def outline(value: Any) -> str:
    """Fields and types without the values."""
    if isinstance(value, dict):
        return "{" + ",".join(f"{key}:{outline(child)}" for key, child in sorted(value.items())) + "}"
    return type(value).__name__


def mutants(value: Any) -> Iterator[tuple[tuple[Any, ...], str, Any]]:
    """Path, kind and mutant: each place with each wrong value, then the whole value."""
    for path in places(value):
        for kind, wrong in WRONG.items():
            yield path, kind, changed(value, path, wrong)
        yield path, "deep", changed(value, path, deep(40))
        yield path, "too deep", changed(value, path, deep(900))
        if isinstance(at(value, path), dict):
            yield path, "extra", changed(value, (*path, "no_such_field"), 1)
    for kind, wrong in WRONG.items():
        if wrong is not ABSENT:
            yield (), kind, wrong


def at(value: Any, path: tuple[Any, ...]) -> Any:
    """The value at a path."""
    for key in path:
        value = value[key]
    return value


def changed(value: Any, path: tuple[Any, ...], wrong: Any) -> Any:
    """A copy of ``value`` with another value at a path."""
    made = copy.deepcopy(value)
    place = at(made, path[:-1])
    if wrong is not ABSENT:
        place[path[-1]] = wrong
    elif isinstance(place, dict):
        del place[path[-1]]
    else:
        place.pop(path[-1])
    return made


def write_json(path: Path, value: Any) -> None:
    """As JSON, of any depth."""
    path.write_text(flat(value), encoding="utf-8")


def flat(value: Any) -> str:
    """JSON without recursion in lists of one entry."""
    count = 0
    while isinstance(value, list) and len(value) == 1:
        value, count = value[0], count + 1
    if isinstance(value, dict):
        inner = "{" + ", ".join(f"{json.dumps(str(k))}: {flat(v)}" for k, v in value.items()) + "}"
    elif isinstance(value, list):
        inner = "[" + ", ".join(map(flat, value)) + "]"
    else:
        inner = json.dumps(value)
    return "[" * count + inner + "]" * count


def write_yaml(path: Path, value: Any) -> None:
    """As YAML: JSON is YAML, but for numbers without a value."""
    text = flat(value).replace("-Infinity", "-.inf").replace("Infinity", ".inf").replace("NaN", ".nan")
    path.write_text(text, encoding="utf-8")


Writer = Callable[[Path, Any], None]
