"""A dataset: prepared modalities, target, named splits, provenance; built from plain arrays and a card."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch

from equimodal.data._card import Card, Part, TargetCard
from equimodal.data._checks import (
    Used,
    classes_in_training,
    labels_of,
    names_of,
    presence_of,
    same_count,
    some_modality,
    target_tensor,
)
from equimodal.data._modality import Modality
from equimodal.data._protocol import Protocol, split_rows
from equimodal.data._source import Rows, Source
from equimodal.data._splits import Store, TestSplit, TrainSplit, ValidationSplit
from equimodal.errors import DataError, UnsupportedError, unknown_name

if TYPE_CHECKING:
    from equimodal.tasks import Classification

Array = npt.NDArray[Any]


class Dataset:
    """Samples of several modalities with a target and three parts of different types.

    Made by :func:`load`, :func:`load_bundle`, :func:`load_avdigits`, :func:`synthetic` or :func:`from_arrays`.

    Example:
        >>> from equimodal.data import load_avdigits
        >>> data = load_avdigits()
        >>> list(data.modalities), len(data.classes), data.protocol.name
        (['image', 'audio'], 10, 'speaker-disjoint')
    """

    def __init__(
        self,
        store: Store,
        modalities: Mapping[str, Modality],
        rows: Mapping[Part, Rows],
        protocol: Protocol,
        card: Card,
        target: TargetCard,
        arrays: Mapping[str, Array],
        options: Mapping[str, Any],
    ) -> None:
        self._store = store
        self._rows = dict(rows)
        self._modalities = dict(modalities)
        self._protocol = protocol
        self._card = card
        self._target = target
        self._arrays = dict(arrays)
        self._options = dict(options)

    @property
    def name(self) -> str:
        """Name of the dataset."""
        return self._store.name

    @property
    def modalities(self) -> dict[str, Modality]:
        """Modality name -> what it is, in the order of ``Batch.inputs``."""
        return dict(self._modalities)

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names in the order of the labels; empty when the target is no class."""
        return self._target.classes if self._target.task == "classification" else ()

    @property
    def target(self) -> str:
        """Name of the target in use."""
        return self._target.name

    @property
    def protocol(self) -> Protocol:
        """How the data were split; print it with every number."""
        return self._protocol

    @property
    def card(self) -> Card:
        """Where the data come from and what each array means."""
        return self._card

    @property
    def options(self) -> dict[str, Any]:
        """What was chosen when the data were loaded (target, protocol, dials)."""
        return dict(self._options)

    @property
    def num_samples(self) -> int:
        """Samples of all parts and of none; every ``Batch.index`` is below this."""
        return self._store.size

    @cached_property
    def task(self) -> Classification:
        """The task object for the target.

        Raises:
            UnsupportedError: the target is not a class.
        """
        kind = self._target.task
        if kind != "classification":
            others = [n for n, t in self._card.targets.items() if t.task == "classification"]
            instead = f"Load with target={others[0]!r} for classification." if others else "Use the arrays directly."
            raise UnsupportedError(
                f"{self.name}: target {self._target.name!r} is a {kind} target, and there is no {kind} task yet. "
                f"{instead}"
            )
        from equimodal.tasks import Classification

        return Classification(len(self.classes))

    @cached_property
    def train(self) -> TrainSplit:
        """The samples to fit on."""
        return TrainSplit(self._store, self._rows["train"])

    @cached_property
    def validation(self) -> ValidationSplit:
        """The samples to choose on."""
        return ValidationSplit(self._store, self._rows["validation"])

    @cached_property
    def test(self) -> TestSplit:
        """The samples to report on.

        Raises:
            DataError: the protocol has no test part.
        """
        if "test" not in self._rows:
            raise DataError(
                f"{self.name}: protocol {self._protocol.name!r} has no test split. "
                f"Add `protocols.{self._protocol.name}.test` to {self._card.file}."
            )
        return TestSplit(self._store, self._rows["test"])

    @property
    def parts(self) -> dict[str, int]:
        """Samples per part; ``test`` is missing when the protocol has none."""
        return {part: len(rows) for part, rows in self._rows.items()}

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 over the content, names, types and shapes of the arrays in use, the card and the options.

        Equal fingerprints mean that the same numbers are trained on; computed at the first use.
        """
        digest = hashlib.sha256()
        head = {"card": self._card.raw, "options": self._options}
        digest.update(json.dumps(head, sort_keys=True, default=str).encode())
        for name in sorted(self._arrays):
            array = self._arrays[name]
            digest.update(f"|{name}|{array.dtype.str}|{array.shape}|".encode())
            step = max(1, (1 << 24) // max(1, array[:1].nbytes))
            for start in range(0, len(array), step):
                digest.update(np.ascontiguousarray(array[start : start + step]).view(np.uint8).data)
        return digest.hexdigest()

    def __repr__(self) -> str:
        parts = ", ".join(f"{n} {part}" for part, n in self.parts.items())
        return f"Dataset({self.name!r}, modalities {list(self._modalities)}, {parts})"


def build(
    arrays: Mapping[str, Array],
    card: Card,
    *,
    origin: str,
    protocol: str | None = None,
    target: str | None = None,
    modalities: Sequence[str] | None = None,
    mapped: bool = False,
    options: Mapping[str, Any] | None = None,
) -> Dataset:
    """A checked :class:`Dataset` from plain arrays and a card; ``origin`` names the data in messages."""
    if protocol is not None and protocol not in card.protocols:
        raise unknown_name(f"protocol of {card.name}", protocol, card.protocols)
    if target is not None and target not in card.targets:
        raise unknown_name(f"target of {card.name}", target, card.targets)
    chosen = card.protocols[protocol or card.protocol]
    goal = card.targets[target or card.target]
    used = Used(arrays, card, origin)

    values = used.names(chosen.column)
    size = len(values)
    names = names_of(modalities, card, chosen.modalities)
    sources = {}
    for name in names:
        entry = card.modalities[name]
        raw, index = used.samples(entry.column)
        same_count(len(raw) if index is None else len(index), size, entry.column, chosen.column, used)
        sources[name] = Source(entry, raw, index, mapped)
    present = presence_of(used, names, size, chosen.column)
    labels = used.column(goal.column)
    same_count(len(labels), size, goal.column, chosen.column, used)
    classes = goal.classes if goal.task == "classification" else ()
    if classes:
        labels = labels_of(labels, goal, used)
    groups = {g: used.names(card.groups[g]) for g in chosen.groups}
    if chosen.carve is not None and chosen.carve.by in card.groups:
        groups.setdefault(chosen.carve.by, used.names(card.groups[chosen.carve.by]))
    for group, own in groups.items():
        same_count(len(own), size, card.groups[group], chosen.column, used)
    rows, record = split_rows(chosen, values, labels if classes else None, groups, origin, card.file)
    if classes:
        classes_in_training(labels, rows, classes, card, origin, record.name)
    some_modality(present, names, rows, origin)
    for name, source in sources.items():
        source.standardise(rows["train"], present.get(name))
    store = Store(
        name=card.name,
        sources=sources,
        target=target_tensor(labels, goal, used),
        classes=classes,
        present={m: torch.from_numpy(mask) for m, mask in present.items()},
        size=size,
    )
    specs = {n: _spec(card, n, s) for n, s in sources.items()}
    chosen_options = {"protocol": chosen.name, "target": goal.name, "modalities": list(names), **(options or {})}
    return Dataset(store, specs, rows, record, card, goal, used.seen, chosen_options)


def _spec(card: Card, name: str, source: Source) -> Modality:
    entry = card.modalities[name]
    spec = Modality(name, source.shape, entry.kind, entry.units, entry.description, source.dtype)
    if entry.shape is not None and entry.shape != spec.shape:
        raise DataError(
            f"{card.file}: field `modalities.{name}.shape`: expected samples of shape {entry.shape} after "
            "`transforms`. "
            f"Found {spec.shape}."
        )
    return spec
