"""Checks that arrays and card fit together, made once when a dataset is built."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from equimodal.data._arrays import take
from equimodal.data._card import Card, Column, ModalityCard, Part, TargetCard
from equimodal.data._precision import lost_in_float32, moments
from equimodal.data._schema import place
from equimodal.data._source import Rows
from equimodal.errors import DataError, unknown_name

Array = npt.NDArray[Any]


class Used:
    """Arrays asked for by the card, remembered for the fingerprint."""

    def __init__(self, arrays: Mapping[str, Array], card: Card, origin: str) -> None:
        self.arrays, self.card, self.origin = arrays, card, origin
        self.seen: dict[str, Array] = {}

    def where(self, column: Column) -> str:
        """Array and field of ``column``, for messages."""
        if not self.card.file:
            return f"{self.origin}: {place('', column.field)}"
        return f"{self.origin}: array `{column.array}` (field `{column.field}` of {self.card.file})"

    def array(self, name: str, field: str) -> Array:
        """The array ``name``, which ``field`` of the card asks for."""
        array = take(self.arrays, name, field, self.card.file, self.origin)
        if array.ndim == 0 or len(array) == 0:
            raise DataError(f"{self.origin}: array `{name}`: expected samples on the first axis. Found {array.shape}.")
        self.seen[name] = array
        return np.char.decode(array, "utf-8") if array.dtype.kind == "S" else array

    def parts(self, column: Column) -> tuple[Array, Rows | None]:
        """Array and index of ``column``."""
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
        """Values of ``column``, one entry per sample."""
        array, index = self.parts(column)
        return array if index is None else array[index]

    def names(self, column: Column) -> Array:
        """Values of ``column``, which must be one name or number per sample."""
        values = self.column(column)
        if values.ndim != 1:
            raise DataError(f"{self.where(column)}: expected one value per sample, shape (N,). Found {values.shape}.")
        return values

    def samples(self, column: Column) -> tuple[Array, Rows | None]:
        """Array and index of ``column``, which must hold numbers."""
        array, index = self.parts(column)
        if array.dtype.kind not in "biuf":
            raise DataError(f"{self.where(column)}: expected numbers. Found {array.dtype}.")
        return array, index


def same_count(found: int, size: int, column: Column, reference: Column, used: Used) -> None:
    """Refuse a column whose number of samples is not that of the split array."""
    if found != size:
        counted = column if column.index is None else replace(column, array=column.index)
        raise DataError(
            f"{used.where(counted)}: expected {size} samples as in "
            f"`{reference.array if reference.index is None else reference.index}`. Found {found}."
        )


def names_of(asked: Sequence[str] | None, card: Card, of_protocol: tuple[str, ...]) -> tuple[str, ...]:
    """The modalities to load: those asked for, else those of the protocol, else the card's default."""
    if asked is None:
        return of_protocol or tuple(n for n, m in card.modalities.items() if m.default)
    for name in asked:
        if name not in card.modalities:
            raise unknown_name(f"modality of {card.name}", name, card.modalities)
    if not asked or len(set(asked)) != len(asked):
        raise DataError(f"`modalities`: expected different names of {list(card.modalities)}. Found {list(asked)}.")
    return tuple(asked)


def presence_of(used: Used, names: tuple[str, ...], size: int, reference: Column) -> dict[str, npt.NDArray[np.bool_]]:
    """Modality -> (N,) presence, for the modalities that some sample lacks."""
    masks: dict[str, npt.NDArray[np.bool_]] = {}
    for name, (column, position) in used.card.present.items():
        if name not in names:
            continue
        array = used.column(column)
        same_count(len(array), size, column, reference, used)
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


def mask_of(used: Used, entry: ModalityCard, raw: Array, size: int, reference: Column) -> npt.NDArray[np.bool_]:
    """(N, T) booleans, ``True`` at the real steps of a sequence, from such an array or from lengths (N,)."""
    if entry.mask is None:  # for the type checker
        raise ValueError
    array = used.column(entry.mask)
    same_count(len(array), size, entry.mask, reference, used)
    steps = raw.shape[1] if raw.ndim > 1 else 0
    if array.ndim == 1 and array.dtype.kind in "iu":
        if int(array.min()) < 0 or int(array.max()) > steps:
            found = f"{int(array.min())} to {int(array.max())}"
            raise DataError(f"{used.where(entry.mask)}: expected lengths 0 to {steps}. Found {found}.")
        return np.asarray(np.arange(steps) < array[:, None])
    if array.shape != (size, steps) or array.dtype.kind not in "biu" or not np.isin(array, (0, 1)).all():
        raise DataError(
            f"{used.where(entry.mask)}: expected lengths (N,), or 0 (padding) and 1 (real) of shape {(size, steps)}. "
            f"Found {array.dtype} {array.shape}."
        )
    return np.asarray(array, dtype=np.bool_)


def some_modality(
    present: Mapping[str, npt.NDArray[np.bool_]], names: tuple[str, ...], rows: Mapping[Part, Rows], origin: str
) -> None:
    """Refuse samples that have none of the modalities."""
    if set(names) <= set(present):
        every = np.concatenate(list(rows.values()))
        bad = every[~np.stack([present[n][every] for n in names]).any(0)]
        if len(bad):
            raise DataError(
                f"{origin}: expected at least one present modality per sample. Found none of {list(names)} for "
                f"{len(bad)} sample(s), first dataset indices {np.sort(bad)[:8].tolist()}. Remove these samples."
            )


def labels_of(labels: Array, goal: TargetCard, used: Used) -> Array:
    """The labels as int64, checked against the number of classes."""
    where = f"{used.origin}: array `{goal.column.array}` (target {goal.name!r})"
    where = where if used.card.file else used.where(goal.column)
    if labels.ndim != 1 or labels.dtype.kind not in "biu":
        raise DataError(f"{where}: expected one whole number per sample. Found {labels.dtype} {labels.shape}.")
    labels = labels.astype(np.int64)
    bad = np.flatnonzero((labels < 0) | (labels >= len(goal.classes)))
    if len(bad):
        named = f"`targets.{goal.name}.classes` of {used.card.file}" if used.card.file else "`classes`"
        raise DataError(
            f"{where}: expected labels 0 to {len(goal.classes) - 1}, one per name in {named}. Found "
            f"{np.unique(labels[bad])[:6].tolist()} in {len(bad)} sample(s), first dataset indices {bad[:5].tolist()}."
        )
    return labels


def classes_in_training(
    labels: Array, rows: Mapping[Part, Rows], classes: tuple[str, ...], card: Card, origin: str, protocol: str
) -> None:
    """Refuse a class of which nothing can be learnt."""
    missing = np.flatnonzero(np.bincount(labels[rows["train"]], minlength=len(classes)) == 0)
    if len(missing):
        named = [classes[i] for i in missing[:5]]
        elsewhere = [part for part, r in rows.items() if np.isin(labels[r], missing).any()]
        also = f" although {' and '.join(elsewhere)} have samples of it" if elsewhere else ""
        where = f"protocol {protocol!r}" if card.file else "`split`"
        raise DataError(
            f"{origin}: {where}: expected every class in the training split. Found no training sample of "
            f"{len(missing)} class(es): {named}{also}. Split otherwise, or remove the class from "
            f"{card.file or 'the samples and `classes`'}."
        )


def target_tensor(labels: Array, goal: TargetCard, used: Used, rows: Mapping[Part, Rows]) -> Tensor:
    """The target of all samples, in the type it is kept in."""
    if goal.task == "classification":
        return torch.from_numpy(labels)
    if goal.task == "multilabel":
        counted = labels.shape == (len(labels), len(goal.classes)) and labels.dtype.kind in "biu"
        if not counted or labels.min() < 0 or labels.max() > 1:
            raise DataError(
                f"{used.where(goal.column)}: expected 0 or 1 per sample and label, shape (N, {len(goal.classes)}). "
                f"Found {labels.dtype} {labels.shape}, from {labels.min()} to {labels.max()}."
            )
        return torch.from_numpy(np.array(labels, dtype=np.uint8))
    if labels.dtype.kind not in ("biuf" if goal.task == "regression" else "biu"):
        expected = "numbers" if goal.task == "regression" else "whole numbers"
        raise DataError(f"{used.where(goal.column)}: expected {expected}. Found {labels.dtype}.")
    if goal.task == "regression":
        with np.errstate(over="ignore"):  # of samples that are in no part
            return torch.from_numpy(np.array(labels, dtype=number_type(labels, used.where(goal.column), rows)))
    low, high, count = int(labels.min()), int(labels.max()), len(goal.classes)
    if low < 0 or (count and high >= count):
        raise DataError(f"{used.where(goal.column)}: expected labels 0 to {count - 1}. Found {low} to {high}.")
    # masks stay as small as they are stored; a split widens them batch by batch
    return torch.from_numpy(np.array(labels, dtype=np.uint8 if high < 256 else np.int64))


def number_type(target: Array, where: str, rows: Mapping[Part, Rows]) -> type[np.floating[Any]]:
    """float32, or float64 for targets of a regression that float32 cannot hold or tell apart.

    Raises:
        DataError: targets that are missing or infinite; names the samples.
    """
    for part, own in rows.items():
        values = target[own].reshape(len(own), -1)
        wrong = ~np.isfinite(values)
        if wrong.any():
            raise DataError(
                f"{where}: expected finite numbers. Found {np.unique(values[wrong])[:3].tolist()} in "
                f"{wrong.any(1).sum()} sample(s) of the {part} split, first dataset indices "
                f"{own[wrong.any(1)][:5].tolist()}. Leave these samples out, or correct their targets."
            )
    values = target[np.concatenate(list(rows.values()))].astype(np.float64)
    mean, deviation = moments(target[rows["train"]])
    large = bool((np.abs(values) > float(np.finfo(np.float32).max)).any())
    return np.float64 if large or lost_in_float32(mean, deviation).any() else np.float32
