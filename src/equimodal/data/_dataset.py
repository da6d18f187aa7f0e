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
from torch import Tensor

from equimodal.data._arrays import take
from equimodal.data._card import Card, Column, Part, TargetCard
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
    used = _Used(arrays, card, origin)

    values = used.column(chosen.column)
    size = len(values)
    names = _names(modalities, card, chosen.modalities)
    sources = {}
    for name in names:
        entry = card.modalities[name]
        raw, index = used.parts(entry.column)
        _same_count(len(raw) if index is None else len(index), size, entry.column, chosen.column, used)
        sources[name] = Source(entry, raw, index, mapped)
    present = _presence(used, names, size, chosen.column)
    labels = used.column(goal.column)
    _same_count(len(labels), size, goal.column, chosen.column, used)
    classes = goal.classes if goal.task == "classification" else ()
    if classes:
        labels = _labels(labels, goal, used)
    groups = {g: used.column(card.groups[g]) for g in chosen.groups}
    if chosen.carve is not None and chosen.carve.by in card.groups:
        groups.setdefault(chosen.carve.by, used.column(card.groups[chosen.carve.by]))
    for group, own in groups.items():
        _same_count(len(own), size, card.groups[group], chosen.column, used)
    rows, record = split_rows(chosen, values, labels if classes else None, groups, origin, card.file)
    if classes:
        _classes_in_training(labels, rows, classes, card, origin, record.name)
    _some_modality(present, names, rows, origin)
    for name, source in sources.items():
        source.standardise(rows["train"], present.get(name))
    store = Store(
        name=card.name,
        sources=sources,
        target=_target_tensor(labels, goal),
        classes=classes,
        present={m: torch.from_numpy(mask) for m, mask in present.items()},
        size=size,
    )
    specs = {n: _spec(card, n, s) for n, s in sources.items()}
    chosen_options = {"protocol": chosen.name, "target": goal.name, "modalities": list(names), **(options or {})}
    return Dataset(store, specs, rows, record, card, goal, used.seen, chosen_options)


class _Used:
    """Arrays asked for by the card, remembered for the fingerprint."""

    def __init__(self, arrays: Mapping[str, Array], card: Card, origin: str) -> None:
        self.arrays, self.card, self.origin = arrays, card, origin
        self.seen: dict[str, Array] = {}

    def array(self, name: str, field: str) -> Array:
        array = take(self.arrays, name, field, self.card.file, self.origin)
        if array.ndim == 0 or len(array) == 0:
            raise DataError(f"{self.origin}: array `{name}`: expected samples on the first axis. Found {array.shape}.")
        self.seen[name] = array
        return np.char.decode(array, "utf-8") if array.dtype.kind == "S" else array

    def parts(self, column: Column) -> tuple[Array, Rows | None]:
        array = self.array(column.array, column.field)
        if column.index is None:
            return array, None
        index = self.array(column.index, column.field)
        if index.dtype.kind not in "iu" or index.ndim != 1:
            raise DataError(
                f"{self.origin}: array `{column.index}` (index of `{column.field}` in {self.card.file}): "
                "expected whole "
                f"numbers of shape (N,). Found {index.dtype} {index.shape}."
            )
        low, high = int(index.min()), int(index.max())
        if low < 0 or high >= len(array):
            raise DataError(
                f"{self.origin}: array `{column.index}`: expected indices 0 to {len(array) - 1} into `{column.array}`. "
                f"Found {low} to {high}."
            )
        return array, index.astype(np.int64)

    def column(self, column: Column) -> Array:
        array, index = self.parts(column)
        return array if index is None else array[index]


def _same_count(found: int, size: int, column: Column, reference: Column, used: _Used) -> None:
    if found != size:
        name = column.array if column.index is None else column.index
        raise DataError(
            f"{used.origin}: array `{name}` (field `{column.field}` of {used.card.file}): expected {size} "
            "samples as in "
            f"`{reference.array if reference.index is None else reference.index}`. Found {found}."
        )


def _names(asked: Sequence[str] | None, card: Card, of_protocol: tuple[str, ...]) -> tuple[str, ...]:
    if asked is None:
        return of_protocol or tuple(n for n, m in card.modalities.items() if m.default)
    for name in asked:
        if name not in card.modalities:
            raise unknown_name(f"modality of {card.name}", name, card.modalities)
    if not asked or len(set(asked)) != len(asked):
        raise DataError(f"`modalities`: expected different names of {list(card.modalities)}. Found {list(asked)}.")
    return tuple(asked)


def _presence(used: _Used, names: tuple[str, ...], size: int, reference: Column) -> dict[str, npt.NDArray[np.bool_]]:
    masks: dict[str, npt.NDArray[np.bool_]] = {}
    for name, (column, position) in used.card.present.items():
        if name not in names:
            continue
        array = used.column(column)
        _same_count(len(array), size, column, reference, used)
        expected = "shape (N,)" if position is None else f"shape (N, columns) with a column {position}"
        if array.ndim != (1 if position is None else 2) or (position is not None and position >= array.shape[1]):
            raise DataError(f"{used.origin}: array `{column.array}`: expected {expected}. Found {array.shape}.")
        flags = np.asarray(array if position is None else array[:, position])
        if flags.dtype.kind not in "biu" or not np.isin(flags, (0, 1)).all():
            raise DataError(
                f"{used.origin}: array `{column.array}`: expected 0 (absent) and 1 (present) only. Found {flags.dtype} "
                f"with the values {np.unique(flags)[:6].tolist()}."
            )
        if not flags.all():
            masks[name] = flags.astype(bool)
    return masks


def _some_modality(
    present: Mapping[str, npt.NDArray[np.bool_]], names: tuple[str, ...], rows: Mapping[Part, Rows], origin: str
) -> None:
    if set(names) <= set(present):
        every = np.concatenate(list(rows.values()))
        bad = every[~np.stack([present[n][every] for n in names]).any(0)]
        if len(bad):
            raise DataError(
                f"{origin}: expected at least one present modality per sample. Found none of {list(names)} for "
                f"{len(bad)} sample(s), first dataset indices {np.sort(bad)[:8].tolist()}. Remove these samples."
            )


def _labels(labels: Array, goal: TargetCard, used: _Used) -> Array:
    where = f"{used.origin}: array `{goal.column.array}` (target {goal.name!r})"
    if labels.ndim != 1 or labels.dtype.kind not in "biu":
        raise DataError(f"{where}: expected one whole number per sample. Found {labels.dtype} {labels.shape}.")
    labels = labels.astype(np.int64)
    bad = np.flatnonzero((labels < 0) | (labels >= len(goal.classes)))
    if len(bad):
        raise DataError(
            f"{where}: expected labels 0 to {len(goal.classes) - 1}, one per name in `targets.{goal.name}.classes` of "
            f"{used.card.file}. Found {np.unique(labels[bad])[:6].tolist()} in {len(bad)} sample(s), first dataset "
            f"indices {bad[:5].tolist()}."
        )
    return labels


def _classes_in_training(
    labels: Array, rows: Mapping[Part, Rows], classes: tuple[str, ...], card: Card, origin: str, protocol: str
) -> None:
    missing = np.flatnonzero(np.bincount(labels[rows["train"]], minlength=len(classes)) == 0)
    if len(missing):
        named = [classes[i] for i in missing[:5]]
        elsewhere = [part for part, r in rows.items() if np.isin(labels[r], missing).any()]
        also = f" although {' and '.join(elsewhere)} have samples of it" if elsewhere else ""
        raise DataError(
            f"{origin}: protocol {protocol!r}: expected every class in the training split. Found no training sample of "
            f"{len(missing)} class(es): {named}{also}. Split otherwise, or remove the class from {card.file}."
        )


def _target_tensor(labels: Array, goal: TargetCard) -> Tensor:
    if goal.task == "regression":
        return torch.from_numpy(np.array(labels, dtype=np.float32))
    # masks stay as small as they are stored; a split widens them batch by batch
    return torch.from_numpy(np.array(labels, dtype=np.int64 if labels.ndim == 1 else np.uint8))


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
