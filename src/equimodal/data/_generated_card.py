"""The card of a bundle that is made from arrays: kinds, shapes, targets and parts, as plain values."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt

from equimodal.data._card import FORMAT
from equimodal.data._columns import is_missing, missing_names, names, numbers, plain_array
from equimodal.data._modality import channels_last
from equimodal.data._row_source import RowArray
from equimodal.errors import DataError, DataWarning, did_you_mean

Array = npt.NDArray[Any]
TaskKind = Literal["classification", "multilabel", "regression", "segmentation"]
_KINDS = {1: "vector", 2: "sequence", 3: "image"}
_TARGETS = {
    "multilabel": ("biu", (2,), "whole numbers 0 and 1 of shape (N, L)"),
    "regression": ("biuf", (1, 2), "numbers of shape (N,) or (N, D)"),
    "segmentation": ("biu", (3, 4), "whole numbers of shape (N, H, W) or (N, D, H, W)"),
}
STANDARDISE = {"vector": "per-feature", "sequence": "per-feature", "image": "per-channel", "tokens": "none"}


def describe_arrays(
    inputs: Mapping[str, npt.ArrayLike | RowArray],
    target: npt.ArrayLike,
    split: npt.ArrayLike,
    name: str,
    task: str,
    present: Mapping[str, npt.ArrayLike] | None,
    groups: Mapping[str, npt.ArrayLike] | None,
    overlapping: bool,
    kinds: Mapping[str, str] | None,
    units: Mapping[str, str] | None,
    standardise: Mapping[str, str] | None,
    classes: Sequence[str] | None,
    validation: Mapping[str, Any] | None,
    provenance: dict[str, Any],
    masks: Mapping[str, npt.ArrayLike] | None = None,
) -> tuple[dict[str, Array], dict[str, Any]]:
    """The arrays of a bundle under their names, and its card as plain values."""
    if not isinstance(inputs, Mapping) or not inputs:
        raise DataError("`inputs`: expected a mapping from modality name to an array, with at least one entry.")
    named = (
        ("present", present), ("kinds", kinds), ("units", units), ("standardise", standardise), ("masks", masks)
    )  # fmt: skip
    for argument, mapping in named:
        unknown = sorted(set(mapping or {}) - set(inputs))
        if unknown:
            raise DataError(
                f"`{argument}`: expected modalities of `inputs` {sorted(inputs)}. Found unknown {unknown}."
                f"{did_you_mean(unknown, inputs)}"
            )
    arrays: dict[str, Array] = {}
    modalities: dict[str, Any] = {}
    for key, value in inputs.items():
        array: Any = value if isinstance(value, RowArray) else numbers(value, f"inputs[{key!r}]")
        if 0 in array.shape[1:]:
            raise DataError(f"`inputs[{key!r}]`: expected at least one number per sample. Found shape {array.shape}.")
        kind = (kinds or {}).get(key) or kind_of_array(array, key)
        arrays[f"input_{key}"] = array
        modalities[key] = {
            "array": f"input_{key}",
            "kind": kind,
            "shape": [int(n) for n in array.shape[1:]],
            "standardise": (standardise or {}).get(key, STANDARDISE.get(kind, "none")),
        }
        if units and key in units:
            modalities[key]["units"] = units[key]
        if masks and key in masks:
            arrays[f"mask_{key}"] = numbers_of_mask(masks[key], key)
            modalities[key]["mask"] = f"mask_{key}"
    arrays["target"], goal = _goal(target, task, classes)
    arrays["split"], protocol = _split(split, validation)
    card: dict[str, Any] = {"format": FORMAT, "name": name, **provenance, "modalities": modalities}
    card["targets"] = {"target": {"array": "target", "task": task, **goal}}
    if present:
        arrays |= {f"present_{k}": _flags(v, f"present[{k!r}]") for k, v in present.items()}
        card["present"] = {k: f"present_{k}" for k in present}
    if groups:
        arrays |= {f"group_{k}": names(v, f"groups[{k!r}]") for k, v in groups.items()}
        card["groups"] = {k: f"group_{k}" for k in groups}
        protocol |= {"groups": list(groups)}
    if overlapping:
        protocol["overlapping"] = True
    card["protocols"] = {"given": protocol}
    return arrays, card


def kind_of_array(array: Array, key: str) -> str:
    """The kind that the number of axes says, where it says one.

    Raises:
        DataError: the axes fit several kinds.

    Warns:
        DataWarning: whole numbers, which may be token ids, become a vector.
    """
    name, kind = f"inputs[{key!r}]", _KINDS.get(array.ndim - 1, "")
    if not kind:
        raise DataError(
            f"`{name}`: expected (N, F), (N, T, F) or (N, C, H, W). Found shape {array.shape}. Reshape it, or say what "
            "it is: kinds={...: 'video'} for (N, C, T, H, W), 'volume' for (N, C, D, H, W)."
        )
    if kind == "image" and channels_last(array.shape[1:]):
        raise DataError(
            f"`{name}`: expected images (N, C, H, W). Found shape {array.shape}, which looks like (N, H, W, C). Move "
            f"the channels: numpy.moveaxis(array, -1, 1); or say that they are first: kinds={{{key!r}: 'image'}}."
        )
    if kind == "sequence" and array.dtype.kind in "bui":
        raise DataError(
            f"`{name}`: expected sequences (N, T, F) of measurements, or images (N, C, H, W). Found {array.dtype} "
            f"{array.shape}, which may be masks or grey images (N, H, W). Images need an axis of channels: "
            f"array[:, None]; of sequences say that they are: kinds={{{key!r}: 'sequence'}}."
        )
    if kind == "vector" and array.dtype.kind in "ui" and array.size and int(array.max()) - int(array.min()) > 1:
        warnings.warn(
            f"`{name}`: whole numbers {array.min()} to {array.max()} of shape {array.shape} are taken for a vector of "
            f"measurements and standardised. If they are token ids, say so: kinds={{{key!r}: 'tokens'}}; else "
            f"kinds={{{key!r}: 'vector'}} says that this is right.",
            DataWarning,
            stacklevel=4,
        )
    return kind


def numbers_of_mask(value: npt.ArrayLike, key: str) -> Array:
    """Lengths (N,), or which steps are real (N, T)."""
    array = plain_array(value, f"masks[{key!r}]")
    if array.dtype.kind not in "biu" or array.ndim not in (1, 2):
        raise DataError(
            f"`masks[{key!r}]`: expected lengths (N,), or booleans (N, T). Found {array.dtype} {array.shape}."
        )
    return array


def _flags(value: npt.ArrayLike, name: str) -> Array:
    array = plain_array(value, name)
    if array.dtype.kind not in "biuf" or not np.isin(array, (0, 1)).all():
        shown = list(dict.fromkeys(array.ravel().tolist()))[:6]
        raise DataError(f"`{name}`: expected booleans, or 0 (absent) and 1 (present). Found {array.dtype} {shown}.")
    return array.astype(bool)


def _goal(target: npt.ArrayLike, task: str, classes: Sequence[str] | None) -> tuple[Array, dict[str, Any]]:
    """The targets, and what the card says of them."""
    if isinstance(classes, str):
        raise DataError(f"`classes`: expected a list of names. Found the text {classes!r}.")
    if task not in get_args(TaskKind):
        raise DataError(
            f"`task`: expected one of {', '.join(get_args(TaskKind))}. Found {task!r}."
            f"{did_you_mean(task, get_args(TaskKind))}"
        )
    if task == "classification":
        labels, names = _classes(target, classes)
        return labels, {"classes": names}
    array = numbers(target, "target") if hasattr(target, "columns") else plain_array(target, "target")
    kinds, axes, expected = _TARGETS[task]
    if array.dtype.kind == "O":
        array = _objects(array, expected, task)
    if array.dtype.kind not in kinds or array.ndim not in axes:
        gaps = int(np.isnan(array).sum()) if array.dtype.kind == "f" and "f" not in kinds else 0
        hint = f" {gaps} of them are NaN." if gaps else ""
        raise DataError(f"`target`: expected {expected} for a {task} task. Found {array.dtype} {array.shape}.{hint}")
    if task == "regression":
        if classes is not None:
            raise DataError(f"`classes`: expected None for a regression, whose targets are numbers. Found {classes}.")
        if 0 in array.shape[1:]:
            raise DataError(f"`target`: expected {expected} with D >= 1. Found shape {array.shape}.")
        return array, {}
    low, high = int(array.min(initial=0)), int(array.max(initial=0))
    if task == "multilabel" and (low < 0 or high > 1):
        raise DataError(f"`target`: expected {expected} for a {task} task. Found numbers from {low} to {high}.")
    count = array.shape[1] if task == "multilabel" else max(high + 1, 2)
    return array, {"classes": [str(c) for c in (range(count) if classes is None else classes)]}


def _objects(array: Array, expected: str, task: str) -> Array:
    """An array of objects as numbers: None becomes NaN, which is refused with the indices of its samples."""
    flat = [float("nan") if is_missing(entry) else entry for entry in array.ravel().tolist()]
    wrong = next((entry for entry in flat if isinstance(entry, str) or not isinstance(entry, (int, float))), None)
    if wrong is not None:
        raise DataError(f"`target`: expected {expected} for a {task} task. Found {wrong!r} among them.")
    return np.array(flat, dtype=np.float64).reshape(array.shape)


def _classes(target: npt.ArrayLike, classes: Sequence[str] | None) -> tuple[Array, list[str]]:
    labels = names(target, "target")
    if labels.dtype.kind == "U":
        found = np.unique(labels).tolist()
        listed = list(classes) if classes is not None else found
        unknown = sorted(set(found) - set(listed))
        if unknown:
            raise DataError(f"`target`: expected names of `classes` {listed[:12]}. Found {unknown[:6]}.")
        gaps = missing_names(found) if classes is None else []
        if gaps:
            rows = np.flatnonzero(np.isin(labels, gaps))
            raise DataError(
                f"`target`: expected the names of classes. Found {gaps[0]!r} in {len(rows)} sample(s), first indices "
                f"{rows[:5].tolist()}, which looks like a missing value. Leave these samples out; if it is a class, "
                "list all names in `classes`."
            )
        _several(listed)
        position = {c: i for i, c in enumerate(listed)}
        return np.array([position[str(v)] for v in labels], dtype=np.int64), listed
    if classes is None:
        _from_zero(labels)
    count = int(labels.max()) + 1 if len(labels) else 0
    listed = list(classes) if classes is not None else [str(i) for i in range(max(count, 2))]
    return labels.astype(np.int64), listed


def _several(found: Sequence[Any]) -> None:
    if len(found) < 2:
        raise DataError(
            f"`target`: expected at least two classes. Found {list(found)} in all samples. If there are others, list "
            "all names in `classes`; whole numbers begin at 0."
        )


def _from_zero(labels: Array) -> None:
    """Refuse whole numbers that are no labels 0 to C - 1, all of them in use."""
    found = np.unique(labels) if len(labels) else np.arange(2)
    _several(found.tolist())
    if np.array_equal(found, np.arange(len(found))):
        return
    low, high, count = int(found[0]), int(found[-1]), len(found)
    if low < 0:
        found_text, step = f"labels below 0, such as {low}", "If they mark samples without a label, leave these out"
    elif high - low + 1 == count:
        found_text, step = f"the labels {low} to {high}", f"Subtract {low}"
    else:
        listed = ", ".join(map(str, found[:6])) + (" ..." if count > 6 else "")
        found_text = f"{count} different labels from {low} to {high} with gaps ({listed})"
        step = "Number them anew: numpy.unique(target, return_inverse=True)[1]"
    raise DataError(
        f"`target`: expected whole numbers that begin at 0 and leave none out, one per class, or names. Found "
        f"{found_text}. {step}, pass names instead of numbers, or list the names of all numbers from 0 in `classes`."
    )


def refuse_booleans(split: Array, each: str) -> None:
    """Refuse a split of True and False; ``each`` is what has a value there, for the message."""
    if split.dtype == bool:
        raise DataError(
            f"`split`: expected train, validation or test, or 0, 1, 2, for each {each}. Found True and False, which "
            "name no part. Write what they mean: np.where(values, 'test', 'train')."
        )


def _split(split: npt.ArrayLike, validation: Mapping[str, Any] | None) -> tuple[Array, dict[str, Any]]:
    values = names(split, "split")
    refuse_booleans(np.asarray(split), "sample")
    codes: tuple[str | int, ...] = ("train", "validation", "test") if values.dtype.kind == "U" else (0, 1, 2)
    found = set(values.tolist())
    protocol: dict[str, Any] = {"array": "split", "train": [codes[0]]}
    if codes[1] in found:
        if validation is not None:
            raise DataError("`validation`: expected None, since `split` has a validation part. Found a carving.")
        protocol["validation"] = [codes[1]]
    elif validation is not None:
        protocol["validation"] = dict(validation)
    else:
        raise DataError(
            f"`split`: expected samples with {codes[1]!r}, since model choice needs them. Found the values "
            f"{sorted(found, key=str)[:12]}. Mark some, or pass validation={{'carve': 0.2, 'seed': 0, 'by': 'class'}}."
        )
    if codes[2] in found:
        protocol["test"] = [codes[2]]
    return values, protocol
