"""Own arrays as a dataset, or as a bundle on disk."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt

from equimodal.data._card import FORMAT, parse_card
from equimodal.data._dataset import Dataset, build
from equimodal.data._missing import Missing
from equimodal.errors import DataError, StorageError, missing_extra

Array = npt.NDArray[Any]
TaskKind = Literal["classification", "multilabel", "regression", "segmentation"]
_KINDS = {1: "vector", 2: "sequence", 3: "image"}
_TARGETS = {
    "multilabel": ("biu", (2,), "whole numbers 0 and 1 of shape (N, L)"),
    "regression": ("biuf", (1, 2), "numbers of shape (N,) or (N, D)"),
    "segmentation": ("biu", (3, 4), "whole numbers of shape (N, H, W) or (N, D, H, W)"),
}
_STANDARDISE = {"vector": "per-feature", "sequence": "per-feature", "image": "per-channel", "tokens": "none"}


def from_arrays(
    inputs: Mapping[str, npt.ArrayLike],
    target: npt.ArrayLike,
    split: npt.ArrayLike,
    *,
    name: str = "arrays",
    task: TaskKind = "classification",
    present: Mapping[str, npt.ArrayLike] | None = None,
    groups: Mapping[str, npt.ArrayLike] | None = None,
    overlapping: bool = False,
    kinds: Mapping[str, str] | None = None,
    units: Mapping[str, str] | None = None,
    standardise: Mapping[str, str] | None = None,
    classes: Sequence[str] | None = None,
    validation: Mapping[str, Any] | None = None,
    missing: Missing | Mapping[str, Any] | str | None = None,
) -> Dataset:
    """A :class:`Dataset` of arrays in memory; the arguments are those of :func:`write_bundle` and :class:`Missing`.

    Example:
        >>> import numpy as np
        >>> data = from_arrays({"a": np.eye(6), "b": np.ones((6, 4, 2))}, [0, 1, 0, 1, 0, 1],
        ...                    ["train", "train", "validation", "validation", "test", "test"])
        >>> data.modalities["b"].kind, data.classes
        ('sequence', ('0', '1'))
    """
    arrays, card = _describe_arrays(
        inputs, target, split, name, task, present, groups, overlapping, kinds, units, standardise, classes,
        validation, {},
    )  # fmt: skip
    return build(arrays, parse_card(card, "generated card"), origin=name, missing=missing)


def write_bundle(
    path: str | Path,
    *,
    inputs: Mapping[str, npt.ArrayLike],
    target: npt.ArrayLike,
    split: npt.ArrayLike,
    task: TaskKind = "classification",
    present: Mapping[str, npt.ArrayLike] | None = None,
    groups: Mapping[str, npt.ArrayLike] | None = None,
    overlapping: bool = False,
    kinds: Mapping[str, str] | None = None,
    units: Mapping[str, str] | None = None,
    standardise: Mapping[str, str] | None = None,
    classes: Sequence[str] | None = None,
    validation: Mapping[str, Any] | None = None,
    provenance: Mapping[str, Any] | None = None,
) -> Path:
    """Write arrays as a bundle with its card: ``NAME.npz`` and ``NAME.yaml``, or a folder with ``card.yaml``.

    The bundle is checked as if it were loaded before anything is written. It appears whole or not at all: on an error,
    a full disk included, an earlier bundle of that name stays as it was.

    Args:
        path: ``NAME.npz``, or a folder for .npy files, which are memory-mapped when loaded (large data).
        inputs: modality -> (N, ...) numbers: (N, F) a vector, (N, T, F) a sequence, (N, C, H, W) an image.
        target: what ``task`` says; by default (N,), the class of each sample: whole numbers from 0, or any names.
        split: (N,) ``"train"``, ``"validation"``, ``"test"``, or 0, 1, 2; other values are in no part.
        task: ``"classification"``; ``"multilabel"``, targets (N, L) of 0 and 1; ``"regression"``, numbers (N,) or
            (N, D); or ``"segmentation"``, a class for each pixel, (N, H, W) or (N, D, H, W) whole numbers from 0.
        present: modality -> (N,) booleans, or 0 and 1; the content of absent rows is never looked at.
        groups: name -> (N,) values that must not be in two parts (speaker, patient ...); this is checked.
        overlapping: the groups do occur in several parts, which is then printed with every number.
        kinds: modality -> kind, where the number of axes does not say it (``"tokens"``).
        units: modality -> units.
        standardise: modality -> ``"none"``, ``"global"``, ``"per-feature"`` or ``"per-channel"``; by default per
            channel for images, per feature otherwise.
        classes: names of the classes, or of the L labels, in order; otherwise the sorted values of ``target``, or
            numbers. A regression has none.
        validation: when ``split`` has no validation part, how to carve it from the training part on loading:
            ``{"carve": 0.2, "seed": 0, "by": "class"}``, or ``by`` the name of a group.
        provenance: ``description``, ``version``, ``source``, ``licence``, ``citation`` for the card.

    Returns:
        The path of the bundle.

    Raises:
        DataError: the arrays do not fit together.
        StorageError: the files could not be written.
        MissingExtraError: PyYAML is not installed.

    Example:
        >>> import numpy as np, tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     write_bundle(
        ...         Path(folder) / "mine.npz",
        ...         inputs={"a": np.eye(6), "b": np.ones((6, 3))},
        ...         target=["no", "yes"] * 3,
        ...         split=["train"] * 2 + ["validation"] * 2 + ["test"] * 2,
        ...     ).name
        'mine.npz'
    """
    path = Path(path)
    if path.suffix not in ("", ".npz"):
        raise DataError(f"`path`: expected NAME.npz, or a folder without a suffix. Found {path.name!r}.")
    folder = path.suffix == ""
    if folder and path.exists() and not (path / "card.yaml").is_file():
        raise DataError(f"`path`: expected a new folder or one with a bundle (card.yaml). Found {path}.")
    arrays, card = _describe_arrays(
        inputs, target, split, path.stem, task, present, groups, overlapping, kinds, units, standardise, classes,
        validation, dict(provenance or {}),
    )  # fmt: skip
    build(arrays, parse_card(card, f"card for {path.name}"), origin=str(path), mapped=True)
    text = yaml_of(card)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        workplace = Path(tempfile.mkdtemp(prefix=f".{path.stem}-", dir=path.parent))
    except OSError as error:
        raise StorageError(f"{path}: the bundle could not be written ({error}). Nothing was changed.") from error
    try:
        _write(workplace, path, arrays, text, folder)
    except OSError as error:
        raise StorageError(
            f"{path}: the bundle could not be written ({error}). What was there before is still there; free some space "
            "or choose another folder."
        ) from error
    finally:
        shutil.rmtree(workplace, ignore_errors=True)
    return path


def _write(workplace: Path, path: Path, arrays: Mapping[str, Array], text: str, folder: bool) -> None:
    if folder:
        new = workplace / "new"
        write_folder(new, arrays, text)
        _swap(workplace, [(new, path)])
        return
    with (workplace / "data.npz").open("wb") as file:
        np.savez_compressed(file, allow_pickle=False, **dict(arrays))
    (workplace / "card.yaml").write_text(text, encoding="utf-8")
    _swap(workplace, [(workplace / "data.npz", path), (workplace / "card.yaml", path.with_suffix(".yaml"))])


def write_folder(new: Path, arrays: Mapping[str, Array], card: str) -> None:
    """The form of a bundle that is memory-mapped: a new folder with one .npy file per array, and its card."""
    new.mkdir()
    for name, array in arrays.items():
        np.save(new / f"{name}.npy", array, allow_pickle=False)
    (new / "card.yaml").write_text(card, encoding="utf-8")


def _swap(workplace: Path, moves: Sequence[tuple[Path, Path]]) -> None:
    """Move each new file to its place; if one fails, all places are as they were."""
    undo: list[tuple[Path, Path | None]] = []
    try:
        for number, (new, place) in enumerate(moves):
            kept = workplace / f"old{number}" if place.exists() else None
            if kept is not None:
                place.replace(kept)
            undo.append((place, kept))
            new.replace(place)
    except OSError:
        for place, kept in reversed(undo):
            if kept is not None:
                shutil.rmtree(place) if place.is_dir() else place.unlink(missing_ok=True)
                kept.replace(place)
            elif place.exists():
                shutil.rmtree(place) if place.is_dir() else place.unlink()
        raise


def _describe_arrays(
    inputs: Mapping[str, npt.ArrayLike],
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
) -> tuple[dict[str, Array], dict[str, Any]]:
    """The arrays of a bundle under their names, and its card as plain values."""
    if not isinstance(inputs, Mapping) or not inputs:
        raise DataError("`inputs`: expected a mapping from modality name to an array, with at least one entry.")
    for argument, mapping in (("present", present), ("kinds", kinds), ("units", units), ("standardise", standardise)):
        unknown = sorted(set(mapping or {}) - set(inputs))
        if unknown:
            raise DataError(f"`{argument}`: expected modalities of `inputs` {sorted(inputs)}. Found unknown {unknown}.")
    arrays: dict[str, Array] = {}
    modalities: dict[str, Any] = {}
    for key, value in inputs.items():
        array = _numbers(value, f"inputs[{key!r}]")
        kind = (kinds or {}).get(key) or _KINDS.get(array.ndim - 1, "")
        if not kind:
            raise DataError(
                f"`inputs[{key!r}]`: expected (N, F), (N, T, F) or (N, C, H, W). Found shape {array.shape}. Reshape it."
            )
        arrays[f"input_{key}"] = array
        modalities[key] = {
            "array": f"input_{key}",
            "kind": kind,
            "shape": [int(n) for n in array.shape[1:]],
            "standardise": (standardise or {}).get(key, _STANDARDISE.get(kind, "none")),
        }
        if units and key in units:
            modalities[key]["units"] = units[key]
    arrays["target"], goal = _goal(target, task, classes)
    arrays["split"], protocol = _split(split, validation)
    card: dict[str, Any] = {"format": FORMAT, "name": name, **provenance, "modalities": modalities}
    card["targets"] = {"target": {"array": "target", "task": task, **goal}}
    if present:
        arrays |= {f"present_{k}": _flags(v, f"present[{k!r}]") for k, v in present.items()}
        card["present"] = {k: f"present_{k}" for k in present}
    if groups:
        arrays |= {f"group_{k}": _names(v, f"groups[{k!r}]") for k, v in groups.items()}
        card["groups"] = {k: f"group_{k}" for k in groups}
        protocol |= {"groups": list(groups)}
    if overlapping:
        protocol["overlapping"] = True
    card["protocols"] = {"given": protocol}
    return arrays, card


def _numbers(value: npt.ArrayLike, name: str) -> Array:
    array = np.asarray(value)
    if array.dtype.kind not in "biuf" or array.ndim < 2:
        raise DataError(f"`{name}`: expected numbers of shape (N, ...). Found {array.dtype} {array.shape}.")
    return array


def _names(value: npt.ArrayLike, name: str) -> Array:
    array = np.asarray(value)
    if array.dtype.kind == "O":
        array = np.array([str(v) for v in array.ravel()]) if array.ndim == 1 else array
    if array.dtype.kind not in "biuU" or array.ndim != 1:
        raise DataError(f"`{name}`: expected one name or whole number per sample. Found {array.dtype} {array.shape}.")
    return array


def _flags(value: npt.ArrayLike, name: str) -> Array:
    array = np.asarray(value)
    if array.dtype.kind not in "biuf" or not np.isin(array, (0, 1)).all():
        shown = list(dict.fromkeys(array.ravel().tolist()))[:6]
        raise DataError(f"`{name}`: expected booleans, or 0 (absent) and 1 (present). Found {array.dtype} {shown}.")
    return array.astype(bool)


def _goal(target: npt.ArrayLike, task: str, classes: Sequence[str] | None) -> tuple[Array, dict[str, Any]]:
    """The targets, and what the card says of them."""
    if task not in get_args(TaskKind):
        raise DataError(f"`task`: expected one of {', '.join(get_args(TaskKind))}. Found {task!r}.")
    if task == "classification":
        labels, names = _classes(target, classes)
        return labels, {"classes": names}
    array = np.asarray(target)
    kinds, axes, expected = _TARGETS[task]
    if array.dtype.kind not in kinds or array.ndim not in axes:
        raise DataError(f"`target`: expected {expected} for a {task} task. Found {array.dtype} {array.shape}.")
    if task == "regression":
        if classes is not None:
            raise DataError(f"`classes`: expected None for a regression, whose targets are numbers. Found {classes}.")
        return array, {}
    low, high = int(array.min(initial=0)), int(array.max(initial=0))
    if task == "multilabel" and (low < 0 or high > 1):
        raise DataError(f"`target`: expected {expected} for a {task} task. Found numbers from {low} to {high}.")
    count = array.shape[1] if task == "multilabel" else max(high + 1, 2)
    return array, {"classes": [str(c) for c in (range(count) if classes is None else classes)]}


def _classes(target: npt.ArrayLike, classes: Sequence[str] | None) -> tuple[Array, list[str]]:
    labels = _names(target, "target")
    if labels.dtype.kind == "U":
        found = np.unique(labels).tolist()
        names = list(classes) if classes is not None else found
        unknown = sorted(set(found) - set(names))
        if unknown:
            raise DataError(f"`target`: expected names of `classes` {names[:12]}. Found {unknown[:6]}.")
        position = {c: i for i, c in enumerate(names)}
        return np.array([position[str(v)] for v in labels], dtype=np.int64), names
    count = int(labels.max()) + 1 if len(labels) else 0
    names = list(classes) if classes is not None else [str(i) for i in range(max(count, 2))]
    return labels.astype(np.int64), names


def _split(split: npt.ArrayLike, validation: Mapping[str, Any] | None) -> tuple[Array, dict[str, Any]]:
    values = _names(split, "split")
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


def yaml_of(card: Mapping[str, Any]) -> str:
    """A card as YAML text."""
    try:
        import yaml
    except ImportError as error:
        raise missing_extra("pyyaml", "cli", "Writing a bundle's card") from error
    return str(yaml.safe_dump(dict(card), sort_keys=False, allow_unicode=True, width=110))
