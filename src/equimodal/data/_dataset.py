"""A dataset: prepared modalities, target, named splits, provenance; built from plain arrays and a card."""

from __future__ import annotations

import hashlib
import inspect
import json
import warnings
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
    mask_of,
    names_of,
    presence_of,
    same_count,
    some_modality,
    target_tensor,
)
from equimodal.data._missing import Missing, in_training
from equimodal.data._modality import Modality, channels_last
from equimodal.data._precision import far_from_outputs, moments
from equimodal.data._protocol import Protocol, split_rows
from equimodal.data._row_source import RowArray, RowSource
from equimodal.data._schema import place
from equimodal.data._source import Rows, Source
from equimodal.data._splits import Blocks, Store, TestSplit, TrainSplit, ValidationSplit
from equimodal.errors import DataError, DataWarning, TargetError, unknown_name

if TYPE_CHECKING:
    from equimodal.tasks import Task

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
    def task(self) -> Task:
        """The task object for the target: the usual one of its kind, unless :meth:`choose_task` gave it options.

        Classes make a :class:`~equimodal.tasks.Classification`, labels a :class:`~equimodal.tasks.MultiLabel`, numbers
        a :class:`~equimodal.tasks.Regression`, masks a :class:`~equimodal.tasks.Segmentation` with the regions that the
        card names.

        Raises:
            DataError: a mask whose card does not name its classes.

        Example:
            >>> from equimodal.data import load_avdigits
            >>> load_avdigits().task.outputs
            10
        """
        return self._make_task({})

    def choose_task(self, **options: Any) -> Task:
        """Make :attr:`task` anew with options of its constructor; returns it.

        Args:
            **options: for a :class:`~equimodal.tasks.Regression` for example ``loss="gaussian_nll"``, for a
                :class:`~equimodal.tasks.Segmentation` ``class_weight=[1, 5]``. A
                :class:`~equimodal.tasks.Regression` also takes ``standardise``: ``True`` learns the targets in
                deviations from the mean of the training ones, ``False`` as they are; by default ``"auto"``, that is
                where one of the means is more than two deviations from 0, or a deviation not within 0.1 to 10. A
                :class:`~equimodal.tasks.Classification` also takes ``class_weight="balanced"``: weights by which all
                classes count the same in the training samples.

        Raises:
            UnknownNameError: an option that the task does not have.
            TargetError: an option out of range.

        Example:
            >>> from equimodal.data import load_avdigits
            >>> load_avdigits().choose_task(label_smoothing=0.1)
            Classification(num_classes=10, label_smoothing=0.1)
        """
        self.__dict__["task"] = self._make_task(options)  # where the cached property keeps it
        return self.task

    def _make_task(self, options: Mapping[str, Any]) -> Task:
        from equimodal.tasks import Classification, MultiLabel, Regression, Segmentation

        goal = self._target
        known: dict[str, type[Any]] = {
            "classification": Classification, "multilabel": MultiLabel, "regression": Regression,
            "segmentation": Segmentation,
        }  # fmt: skip
        names = list(inspect.signature(known[goal.task]).parameters)[1:]
        names += ["standardise"] if goal.task == "regression" else []
        for name in options:
            if name not in names:
                raise unknown_name(f"option of a {goal.task} task:", name, names)
        if goal.task == "classification":
            return Classification(len(goal.classes), **self._with_weights(options))
        if goal.task == "multilabel":
            return MultiLabel(len(goal.classes), **options)
        if goal.task == "regression":
            return Regression(max(1, int(self._store.target[0].numel())), **self._with_unit(options))
        if len(goal.classes) < 2:
            where = place(self._card.file, f"targets.{goal.name}.classes")
            raise DataError(
                f"{where}: expected the names of at least two classes, the background included. Found "
                f"{list(goal.classes)}."
            )
        fixed: dict[str, Any] = {"regions": goal.regions or None, "names": goal.classes}
        return Segmentation(len(goal.classes), **{**fixed, **options})

    def _with_weights(self, options: Mapping[str, Any]) -> dict[str, Any]:
        """``class_weight="balanced"`` as numbers: N / (C N_c) of the training samples."""
        if options.get("class_weight") != "balanced":
            return dict(options)
        counts = np.bincount(self._store.target[self._rows["train"]].numpy(), minlength=len(self._target.classes))
        return {**options, "class_weight": (counts.sum() / (len(counts) * counts)).tolist()}

    def _with_unit(self, options: Mapping[str, Any]) -> dict[str, Any]:
        """Mean and deviation of the training targets where they are standardised."""
        made = dict(options)
        how = made.pop("standardise", "auto")
        if how not in (True, False, "auto"):
            raise TargetError(f"`standardise`: expected True, False or 'auto'. Found {how!r}.")
        if "mean" in made or "deviation" in made:
            if how is True:
                raise TargetError("`standardise`: expected False beside a `mean` or `deviation`. Found True.")
            return made
        target = self._store.target[self._rows["train"]].numpy().astype(np.float64)
        mean, deviation = moments(target.reshape(len(target), -1))
        if how is True or (how == "auto" and far_from_outputs(mean, deviation)):
            made |= {"mean": mean.tolist(), "deviation": np.where(deviation > 0, deviation, 1.0).tolist()}
        return made

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
            if not self._card.file:
                raise DataError(f"{self.name}: `split` has no test part. Mark some samples as 'test' (2).")
            raise DataError(
                f"{self.name}: protocol {self._protocol.name!r} has no test split. "
                f"Add `protocols.{self._protocol.name}.test` to {self._card.file}."
            )
        return TestSplit(self._store, self._rows["test"])

    @property
    def parts(self) -> dict[str, int]:
        """Samples per part; ``test`` is missing when the protocol has none."""
        return {part: len(rows) for part, rows in self._rows.items()}

    @property
    def presence(self) -> dict[str, dict[str, float]]:
        """Part -> modality -> share of its samples that have it."""
        masks, full = self._store.present, torch.ones(self._store.size, dtype=torch.bool)
        return {
            part: {m: round(float(masks.get(m, full)[rows].float().mean()), 6) for m in self._modalities}
            for part, rows in self._rows.items()
        }

    def standardisation(self, modality: str, dtype: npt.DTypeLike = np.float32) -> tuple[Array, Array]:
        """Mean and scale of a modality: a sample x of the bundle, after its transforms, becomes (x - mean) * scale.

        Both come from the training rows that have the modality, have the shape of a sample or one that broadcasts to
        it, and are 0 and 1 where the card says ``standardise: none``.

        Args:
            modality: its name.
            dtype: of both. Default float32, the type of the samples; float64 is exact where the mean is large.

        Raises:
            UnknownNameError: no such modality.

        Example:
            >>> from equimodal.data import synthetic
            >>> mean, scale = synthetic(2, train=64, validation=8, test=8).standardisation("m1")
            >>> mean.shape == scale.shape
            True
        """
        if modality not in self._modalities:
            raise unknown_name(f"modality of {self.name}", modality, self._modalities)
        mean, scale = self._store.sources[modality].statistics()
        return mean.astype(dtype), scale.astype(dtype)

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
            if isinstance(array, RowArray):
                digest.update(f"|{name}|{array.digest()}".encode())
                continue
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
    missing: Missing | Mapping[str, Any] | str | None = None,
    blocks: Blocks | None = None,
) -> Dataset:
    """A checked :class:`Dataset` from arrays and a card; ``origin`` names the data in messages."""
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
    sources: dict[str, Source] = {}
    for name in names:
        entry = card.modalities[name]
        raw, index = used.samples(entry.column)
        if isinstance(raw, RowArray):
            sources[name] = RowSource(entry, raw)
            continue
        same_count(len(raw) if index is None else len(index), size, entry.column, chosen.column, used)
        mask = None if entry.mask is None else mask_of(used, entry, raw, size, chosen.column)
        sources[name] = Source(entry, raw, index, mapped or isinstance(raw, np.memmap), mask)
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
    taken = Missing.of(missing)
    if taken is not None:
        present = taken.apply(present, names, rows, used, size)
    some_modality(present, names, rows, origin)
    in_training(present, rows, origin)
    for name, source in sources.items():
        source.settle(rows, present.get(name))
    store = Store(
        name=card.name,
        sources=sources,
        target=target_tensor(labels, goal, used, rows),
        classes=classes,
        present={m: torch.from_numpy(mask) for m, mask in present.items()},
        size=size,
        groups={g: torch.from_numpy(np.unique(own, return_inverse=True)[1]) for g, own in groups.items()},
        blocks=blocks,
    )
    specs = {n: _spec(card, n, s) for n, s in sources.items()}
    chosen_options = {"protocol": chosen.name, "target": goal.name, "modalities": list(names), **(options or {})}
    if taken is not None:
        chosen_options["missing"] = taken.record()
    return Dataset(store, specs, rows, record, card, goal, used.seen, chosen_options)


def _spec(card: Card, name: str, source: Source) -> Modality:
    entry = card.modalities[name]
    spec = Modality(name, source.shape, entry.kind, entry.units, entry.description, source.dtype)
    if entry.shape is not None and entry.shape != spec.shape:
        raise DataError(
            f"{place(card.file, f'modalities.{name}.shape')}: expected samples of shape {entry.shape} after "
            "`transforms`. "
            f"Found {spec.shape}."
        )
    if entry.kind == "image" and channels_last(spec.shape):
        warnings.warn(
            f"modality {name!r}: images of shape {spec.shape} are taken for (C, H, W), and look like (H, W, C). Move "
            "the channels in front: `transforms: [{transpose: [2, 0, 1]}]` in the card, or numpy.moveaxis(array, -1, "
            "1).",
            DataWarning,
            stacklevel=4,
        )
    return spec
