"""Reading of nested plain values (a card) so that every complaint names file, field, expected and found."""

from __future__ import annotations

import sys
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from equimodal._utils.plain_yaml import number_of
from equimodal.errors import DataError, did_you_mean


def place(file: str, field: str) -> str:
    """Where a field is: in a card's file, or in the argument that it was made of where there is no file.

    Example:
        >>> place("card.yaml", "targets.target.classes"), place("", "targets.target.classes")
        ('card.yaml: field `targets.target.classes`', '`classes`')
    """
    return f"{file}: field `{field}`" if file else f"`{argument_of(field)}`"


def argument_of(field: str) -> str:
    """The argument of :func:`from_arrays` or :func:`from_rows` that a field of their card was made of."""
    head, _, rest = field.partition(".")
    name, _, own = rest.partition(".")
    if head in ("modalities", "present", "groups"):
        argument = "inputs" if head == "modalities" else head
        return f"{argument}[{name!r}]" if name else argument
    if head == "targets":
        return "classes" if own.startswith("classes") else "target"
    if head == "protocols":
        return next(
            (argument for argument in ("validation", "groups", "overlapping") if own.startswith(argument)), "split"
        )
    return head


def shown(value: Any) -> str:
    """``value`` for a message, at most 60 characters."""
    if value is None:
        return "nothing"
    text = repr(value)
    return f"{type(value).__name__} {text if len(text) <= 60 else text[:57] + '...'}"


@dataclass(frozen=True)
class Node:
    """A value of a card together with the place it came from."""

    value: Any
    file: str
    field: str = ""

    def error(self, expected: str, found: str | None = None, hint: str = "") -> DataError:
        """The error for this field."""
        where = place(self.file, self.field) if self.field else f"{self.file}: the card"
        if found is None:  # of a file that is no card at all, nothing is quoted
            found = shown(self.value) if self.field else type(self.value).__name__
        return DataError(f"{where}: expected {expected}. Found {found}." + (f" {hint}" if hint else ""))

    def _child(self, key: Any, value: Any) -> Node:
        part = f"[{key}]" if isinstance(key, int) else f".{key}" if self.field else str(key)
        return Node(value, self.file, self.field + part)

    def record(self, required: Collection[str] = (), optional: Collection[str] = ()) -> dict[str, Node]:
        """The fields of a mapping whose keys are known; unknown and missing ones are refused."""
        if not isinstance(self.value, dict):
            raise self.error(f"a mapping with the fields {sorted({*required, *optional})}")
        known = [*required, *optional]
        for key in self.value:
            if key not in known:
                hint = did_you_mean(str(key), known).strip()
                raise self._child(str(key), None).error(f"one of the fields {sorted(known)}", f"unknown {key!r}", hint)
        for key in required:
            if self.value.get(key) is None:
                raise self._child(key, None).error("a value, since the field is required", "nothing")
        return {k: self._child(k, v) for k, v in self.value.items() if v is not None}

    def named(self, what: str) -> dict[str, Node]:
        """The entries of a mapping whose keys are free names."""
        if not isinstance(self.value, dict) or not self.value:
            raise self.error(f"a mapping from {what} to its fields, with at least one entry")
        for key in self.value:
            if not isinstance(key, str) or not key or not key.replace("_", "a").replace("-", "a").isalnum():
                raise self.error(f"names of letters, digits, '_' or '-' for each {what}", f"{key!r}")
        return {k: self._child(k, v) for k, v in self.value.items()}

    def items(self) -> list[Node]:
        """The entries of a list."""
        if not isinstance(self.value, (list, tuple)):
            raise self.error("a list")
        return [self._child(i, v) for i, v in enumerate(self.value)]

    def text(self) -> str:
        """A text; numbers are taken as they are written."""
        if isinstance(self.value, bool) or not isinstance(self.value, (str, int, float)):
            raise self.error("a text", hint="Put it in quotes." if isinstance(self.value, bool) else "")
        return str(self.value).strip()

    def texts(self) -> tuple[str, ...]:
        """A text or a list of texts."""
        if isinstance(self.value, (list, tuple)):
            return tuple(n.text() for n in self.items())
        return (self.text(),)

    def choice(self, options: Collection[str]) -> str:
        """One of ``options``."""
        if self.value not in options:
            raise self.error(f"one of {list(options)}", hint=did_you_mean(str(self.value), options).strip())
        return str(self.value)

    def integer(self) -> int:
        """A whole number."""
        value = number_of(self.value)
        if isinstance(value, bool) or not isinstance(value, int):
            raise self.error("a whole number")
        if abs(value) >= 1 << 63:
            raise self.error("a whole number of at most 63 bits")
        return value

    def number(self) -> float:
        """A finite number."""
        value = number_of(self.value)
        if isinstance(value, bool) or not isinstance(value, (int, float)) or abs(value) > sys.float_info.max:
            raise self.error("a finite number")
        if value != value:
            raise self.error("a finite number")
        return float(value)

    def flag(self) -> bool:
        """``true`` or ``false``."""
        if not isinstance(self.value, bool):
            raise self.error("true or false")
        return self.value
