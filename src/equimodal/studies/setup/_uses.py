"""What an entry of a comparison, or a run, uses of others: finished runs as companions of its method."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from equimodal.errors import MethodError, unknown_name
from equimodal.methods import get
from equimodal.studies.setup._options import companion_options, method_options


def sources(uses: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Each place in ``uses``, such as ``teachers.audio``, with what is named there.

    Raises:
        MethodError: something else than option -> name, or option -> companion -> name.
    """
    if not isinstance(uses, Mapping):
        raise MethodError(f"`uses`: expected option -> name. Found {uses!r}.")
    for option, value in uses.items():
        named = {f".{part}": name for part, name in value.items()} if isinstance(value, Mapping) else {"": value}
        if not named or not all(isinstance(name, str) and name for name in named.values()):
            raise MethodError(f"`uses.{option}`: expected a name, or companion -> name. Found {value!r}.")
        for part, name in named.items():
            yield f"{option}{part}", name


def renamed(uses: Mapping[str, Any], change: Callable[[str], str]) -> dict[str, Any]:
    """``uses`` with every name changed."""
    return {
        option: {part: change(name) for part, name in value.items()} if isinstance(value, Mapping) else change(value)
        for option, value in uses.items()
    }


def check_uses(method: str, options: Mapping[str, Any], uses: Mapping[str, Any], where: str = "") -> None:
    """Refuse what the method cannot use, and a method that lacks companions.

    Args:
        method: name of the method.
        options: that are given otherwise.
        uses: option -> name, or option -> companion -> name.
        where: begins the message, such as ``entry 'A': ``.

    Raises:
        UnknownNameError: an option that the method does not have.
        MethodError: an option that takes no companions, or one that needs them and has none.
    """
    name, known = get(method).__name__, companion_options(method)
    list(sources(uses))
    for option in uses:
        if option not in method_options(method):
            raise unknown_name(f"option of {name}", option, known)
        if option not in known:
            raise MethodError(
                f"{where}`uses.{option}`: expected an option that takes finished runs ({name} has "
                f"{', '.join(known) or 'none'}). Found another one. Give {option!r} under `options`."
            )
    for option in known:
        required = method_options(method)[option].default is inspect.Parameter.empty
        if required and option not in {*options, *uses}:
            raise MethodError(
                f"{where}`uses.{option}`: {name} needs finished runs there. Found none. Name them: "
                f"uses: {{{option}: ...}}."
            )


def check_circles(used: Mapping[str, list[str]]) -> None:
    """Refuse entries that wait for each other.

    Args:
        used: label -> the labels that it uses.

    Raises:
        UnknownNameError: a label that no entry has.
        MethodError: a circle, which is named.
    """
    finished: set[str] = set()

    def visit(label: str, way: list[str]) -> None:
        if label in way:
            circle = " -> ".join(map(repr, [*way[way.index(label) :], label]))
            raise MethodError(f"`entries`: expected entries that do not wait for each other. Found {circle}.")
        if label not in finished:
            for other in used[label]:
                if other not in used:
                    raise unknown_name(f"entry that {label!r} uses,", other, used)
                visit(other, [*way, label])
            finished.add(label)

    for label in used:
        visit(label, [])
