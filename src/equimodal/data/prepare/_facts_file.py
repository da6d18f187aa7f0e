"""Facts of datasets in YAML: ``facts/NAME.yaml``, and ``facts/shared.yaml`` for what several of them have in common.

The fields are those of :class:`Facts`, and no others. A text is a text of YAML (what looks like a number is put in
quotes), or ``{shared: KEY}`` for one of the ``texts`` of ``shared.yaml``; in a list such an entry may stand for
several. ``protocols`` maps names to texts. ``published`` lists numbers by metric, each with the key of its source among
the ``sources`` of ``shared.yaml``.
"""

from __future__ import annotations

import dataclasses
import re
import sys
from collections.abc import Iterator, Mapping
from importlib.resources import files
from importlib.resources.abc import Traversable
from typing import Any, NamedTuple

from equimodal._utils.plain_yaml import read_yaml
from equimodal.data._schema import Node, shown
from equimodal.data.prepare._facts import Facts, Published
from equimodal.errors import DataError

_LISTS = ("where", "citation", "classes", "notes")
_NUMBER = re.compile(r"-?\d+(\.\d+)?")


class FactsFile:
    """The facts of a class, read from ``facts/NAME.yaml`` beside its module when they are first asked for.

    Importing a dataset therefore needs no PyYAML. A subclass without a file of its own has the facts of its base.

    Raises:
        DataError: the file is missing or malformed; the message names file and field.
        MissingExtraError: PyYAML is not installed.
    """

    def __init__(self) -> None:
        self._facts: dict[type[Any], Facts] = {}

    def __get__(self, instance: object, owner: type[Any]) -> Facts:
        if owner not in self._facts:
            self._facts[owner] = read_facts(*_place(owner))
        return self._facts[owner]


def _place(owner: type[Any]) -> tuple[Traversable, str]:
    """Folder and name of the file of ``owner``, or of its first base that has one."""
    places: list[tuple[Traversable, str]] = []
    for kind in owner.__mro__:
        name, package = vars(kind).get("name"), getattr(sys.modules[kind.__module__], "__package__", None)
        if isinstance(name, str) and package:
            places.append((files(package) / "facts", name))
    for folder, name in places:
        if _file(folder, name).is_file():
            return folder, name
    if not places:  # no dataset, or one of a script, which sets `facts` itself
        raise AttributeError(f"{owner.__name__}: expected `facts`, set in the class as Facts(...). Found none.")
    raise DataError(
        f"{_file(*places[0])}: expected the facts of {owner.__name__}. Found no such file. Write it, or set `facts` in "
        "the class."
    )


def read_facts(folder: Traversable, name: str) -> Facts:
    """The facts in ``NAME.yaml`` of a folder.

    Raises:
        DataError: a file cannot be read, a field is unknown, missing or of another type, or a key is not in
            ``shared.yaml``; the message names file and field.
        MissingExtraError: PyYAML is not installed.
    """
    shared = _read_shared(folder)
    known = {f.name: f.default is dataclasses.MISSING for f in dataclasses.fields(Facts)}
    values: dict[str, Any] = {}
    for key, node in _record(_root(folder, name), known).items():
        if key in _LISTS:
            values[key] = _texts(node, shared)
        elif key == "protocols":
            values[key] = tuple((protocol, _text(entry, shared)) for protocol, entry in _entries(node).items())
        elif key == "published":
            values[key] = tuple(_published(node, shared))
        else:
            values[key] = _text(node, shared)
    return Facts(**values)


class _Shared(NamedTuple):
    """What several files refer to by key: sources of numbers, and texts or lists of them."""

    sources: Mapping[str, str]
    texts: Mapping[str, str | tuple[str, ...]]


def _read_shared(folder: Traversable) -> _Shared:
    """``shared.yaml``; where there is none, nothing is shared."""
    nothing = _Shared({}, {})
    if not _file(folder, "shared").is_file():
        return nothing
    parts = _record(_root(folder, "shared"), {"sources": True, "texts": True})
    return _Shared(
        {key: _text(node, nothing) for key, node in _entries(parts["sources"]).items()},
        {
            key: _texts(node, nothing) if isinstance(node.value, list) else _text(node, nothing)
            for key, node in _entries(parts["texts"]).items()
        },
    )


def _file(folder: Traversable, name: str) -> Traversable:
    return folder / f"{name}.yaml"


def _root(folder: Traversable, name: str) -> Node:
    file = _file(folder, name)
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{file}: expected readable YAML in UTF-8. Found: {error}.") from error
    value = read_yaml(text, str(file), "Reading the facts of a dataset")
    if not isinstance(value, dict):
        raise DataError(f"{file}: expected a mapping from fields to texts. Found {shown(value)}.")
    return Node(value, str(file))


def _record(node: Node, known: Mapping[str, bool]) -> dict[str, Node]:
    """The fields of a mapping; ``known`` says which are required. None may be empty."""
    fields = node.record([k for k, required in known.items() if required], [k for k, r in known.items() if not r])
    for key, value in node.value.items():
        if key not in fields:
            raise node._child(key, value).error("a value, or no such field")
    return fields


def _entries(node: Node) -> dict[str, Node]:
    """The entries of a mapping whose keys are any texts."""
    if not isinstance(node.value, dict) or not node.value:
        raise node.error("a mapping with at least one entry")
    for key in node.value:
        if not isinstance(key, str):
            raise node.error("texts as keys", shown(key), hint="Put it in quotes.")
    return {key: node._child(key, value) for key, value in node.value.items()}


def _published(node: Node, shared: _Shared) -> Iterator[Published]:
    for metric, rows in _entries(node).items():
        for row in _items(rows):
            fields = _record(row, {"method": True, "value": True, "source": True, "note": False})
            texts = {key: _text(entry, shared) for key, entry in fields.items()}
            if not _NUMBER.fullmatch(texts["value"]):
                raise fields["value"].error("a number in quotes, with all its digits")
            texts["source"] = shared.sources[fields["source"].choice(tuple(shared.sources))]
            yield Published(metric=metric, **texts)


def _items(node: Node) -> list[Node]:
    entries = node.items()
    if not entries:
        raise node.error("a list with at least one entry")
    return entries


def _texts(node: Node, shared: _Shared) -> tuple[str, ...]:
    texts: list[str] = []
    for entry in _items(node):
        text = _text_or_texts(entry, shared)
        texts += [text] if isinstance(text, str) else text
    return tuple(texts)


def _text(node: Node, shared: _Shared) -> str:
    text = _text_or_texts(node, shared)
    if not isinstance(text, str):
        raise node.error("one text", "several")
    return text


def _text_or_texts(node: Node, shared: _Shared) -> str | tuple[str, ...]:
    """The text itself, or what ``{shared: KEY}`` stands for."""
    if isinstance(node.value, dict):
        return shared.texts[_record(node, {"shared": True})["shared"].choice(tuple(shared.texts))]
    if not isinstance(node.value, str):
        raise node.error("a text", hint="Put it in quotes." if isinstance(node.value, (int, float)) else "")
    if not node.value.strip():
        raise node.error("a text with something in it")
    return node.value
