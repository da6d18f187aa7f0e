"""Columns and card of a prepared bundle."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from equimodal.data._card import FORMAT, parse_card
from equimodal.data._dataset import build
from equimodal.data.prepare._interface import ArraySpec, Index, Item, Preparation
from equimodal.errors import DataError

Array = npt.NDArray[Any]


def check_index(preparation: Preparation[Any], index: Index, specs: Mapping[str, ArraySpec]) -> tuple[Item, ...]:
    """The items in the order of their keys, after checks of what the engine relies on."""
    name = preparation.name
    items = tuple(sorted(index.items, key=lambda item: item.key))
    if not items:
        first = "".join(f" First of {len(index.missing)}: {p.path}: {p.reason}." for p in index.missing[:1])
        raise DataError(f"{name}: expected samples in {preparation.raw}. Found none.{first} See its page in the docs.")
    for before, after in pairwise(items):
        if before.key == after.key:
            raise DataError(f"{name}: expected a key of its own for each item. Found {before.key!r} twice.")
    columns = set(items[0].columns)
    for item in items:
        if set(item.columns) != columns:
            raise DataError(f"{name}: item {item.key!r}: expected the columns {sorted(columns)}.")
        for array in specs:
            if not item.files.get(array):
                raise DataError(f"{name}: item {item.key!r}: expected the raw files of array `{array}`. Found none.")
    for file in index.files:
        if Path(file).name != file or Path(file).suffix in ("", ".npy", ".json", ".yaml"):
            raise DataError(f"{name}: expected plain names such as words.txt for extra files. Found {file!r}.")
    reserved = {"key", *(f"present_{a}" for a in specs)}
    clash = sorted((columns & set(specs)) | (reserved & (columns | set(specs))))
    if clash:
        raise DataError(f"{name}: expected different names for columns and arrays. Found {clash} twice.")
    return items


def columns_of(items: Sequence[Item]) -> dict[str, Array]:
    """Column name -> (N,) values, with ``key``, the item of each sample."""
    values: dict[str, list[Any]] = {"key": []}
    for item in items:
        values["key"] += [item.key] * item.samples
        for name, value in item.columns.items():
            several = isinstance(value, Sequence) and not isinstance(value, str)
            own = list(value) if several else [value] * item.samples  # type: ignore[arg-type]
            if len(own) != item.samples:
                raise DataError(
                    f"item {item.key!r}: column `{name}`: expected {item.samples} values. Found {len(own)}."
                )
            values.setdefault(name, []).extend(own)
    return {name: _column(name, column) for name, column in values.items()}


def _column(name: str, values: list[Any]) -> Array:
    kinds = {type(v) for v in values}
    if kinds <= {int, bool}:
        return np.array(values, dtype=np.int64)
    if kinds <= {int, float}:
        return np.array(values, dtype=np.float64)
    if kinds == {str}:
        return np.array(values)
    raise DataError(f"column `{name}`: expected one type. Found {sorted(k.__name__ for k in kinds)}.")


def card_of(
    preparation: Preparation[Any],
    index: Index,
    specs: Mapping[str, ArraySpec],
    absent: Sequence[str],
    parameters: Mapping[str, Any],
) -> dict[str, Any]:
    """The card as plain values; ``absent``: modalities that some sample lacks."""
    facts = preparation.facts
    shown = ", ".join(f"{k}={v}" for k, v in parameters.items())
    card: dict[str, Any] = {
        "format": FORMAT,
        "name": preparation.name,
        "description": facts.summary,
        "version": f"prepared with {shown}" if shown else "prepared",
        "source": list(facts.where),
        "licence": facts.licence,
        "citation": list(facts.citation),
        "modalities": {name: _modality(name, spec) for name, spec in specs.items() if spec.kind is not None},
        "targets": {},
    }
    for name, target in index.targets.items():
        entry: dict[str, Any] = {"array": target.array, "task": target.task}
        entry |= {"classes": list(target.classes)} if target.classes else {}
        entry |= {"description": target.description} if target.description else {}
        entry |= {"regions": _plain(target.regions)} if target.regions else {}
        card["targets"][name] = entry
    if absent:
        card["present"] = {name: f"present_{name}" for name in absent}
    if index.groups:
        card["groups"] = {name: name for name in index.groups}
    card["protocols"] = {}
    for name, split in index.protocols.items():
        entry = {"description": split.description, "array": split.column, "train": list(split.train)}
        chosen = split.validation
        entry["validation"] = dict(chosen) if isinstance(chosen, Mapping) else list(chosen)
        entry |= {"test": list(split.test)} if split.test else {}
        entry |= {"groups": list(split.groups)} if split.groups else {}
        entry |= {"overlapping": True} if split.overlapping else {}
        entry |= {"modalities": list(split.modalities)} if split.modalities else {}
        card["protocols"][name] = {k: v for k, v in entry.items() if v != ""}
    return card


def _modality(name: str, spec: ArraySpec) -> dict[str, Any]:
    entry: dict[str, Any] = {"array": name, "kind": spec.kind}
    entry |= {"units": spec.units} if spec.units else {}
    entry |= {"description": spec.description} if spec.description else {}
    entry |= {"transforms": [_plain(t) for t in spec.transforms]} if spec.transforms else {}
    entry["standardise"] = spec.standardise
    entry |= {"mask": spec.mask} if spec.mask else {}
    return entry if spec.default else {**entry, "default": False}


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {k: _plain(v) for k, v in value.items()}
    return [_plain(v) for v in value] if isinstance(value, (list, tuple)) else value


def check_bundle(
    columns: Mapping[str, Array], specs: Mapping[str, ArraySpec], card: Mapping[str, Any], at: str
) -> None:
    """Load every target under every protocol, before the content of the arrays is in place.

    Raises:
        DataError: the card is wrong, a part is empty, a group is on two sides, a class has no training samples.
    """
    parsed = parse_card(dict(card), f"{at}: card.yaml")
    size = len(columns["key"])
    arrays = dict(columns)
    for name, spec in specs.items():
        arrays[name] = np.broadcast_to(np.zeros((1, *spec.shape), spec.dtype), (size, *spec.shape))
    arrays[""] = np.zeros(size)
    plain = {n: dataclasses.replace(m, standardise="none") for n, m in parsed.modalities.items()}
    targets = dict(parsed.targets)
    for name, target in targets.items():
        if target.column.array in specs:  # a mask, of which all that counts here is that it exists
            column = dataclasses.replace(target.column, array="")
            targets[name] = dataclasses.replace(target, task="regression", column=column)
    quick = dataclasses.replace(parsed, modalities=plain, targets=targets)
    for protocol in parsed.protocols:
        for name in targets:
            build(arrays, quick, origin=at, protocol=protocol, target=name, mapped=True)
