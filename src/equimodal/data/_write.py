"""Own arrays as a dataset, or as a bundle on disk."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from equimodal._utils.files import content_hash, replace_file, replace_folder, replace_pair
from equimodal._utils.outside import check_file_name
from equimodal._utils.plain_yaml import text_of
from equimodal.data._card import parse_card
from equimodal.data._dataset import Dataset, build
from equimodal.data._generated_card import Array, TaskKind, describe_arrays
from equimodal.data._missing import Missing
from equimodal.errors import DataError, StorageError


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
    masks: Mapping[str, npt.ArrayLike] | None = None,
) -> Dataset:
    """A :class:`Dataset` of arrays in memory; the arguments are those of :func:`write_bundle` and :class:`Missing`.

    Example:
        >>> import numpy as np
        >>> data = from_arrays({"a": np.eye(6), "b": np.ones((6, 4, 2))}, [0, 1, 0, 1, 0, 1],
        ...                    ["train", "train", "validation", "validation", "test", "test"])
        >>> data.modalities["b"].kind, data.classes
        ('sequence', ('0', '1'))
    """
    arrays, card = describe_arrays(
        inputs, target, split, name, task, present, groups, overlapping, kinds, units, standardise, classes,
        validation, {}, masks,
    )  # fmt: skip
    return build(arrays, parse_card(card, ""), origin=name, missing=missing)


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
    masks: Mapping[str, npt.ArrayLike] | None = None,
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
        masks: modality -> (N,) lengths or (N, T) booleans, which steps of a padded sequence are real.

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
    arrays, card = describe_arrays(
        inputs, target, split, path.stem, task, present, groups, overlapping, kinds, units, standardise, classes,
        validation, dict(provenance or {}), masks,
    )  # fmt: skip
    build(arrays, parse_card(card, f"card for {path.name}"), origin=str(path), mapped=True)
    text = yaml_of(card)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if folder:
            _write_folder(path, arrays, text)
        else:
            replace_pair(
                path,
                lambda file: np.savez_compressed(file, allow_pickle=False, **dict(arrays)),
                path.with_suffix(".yaml"),
                text.encode(),
                content_hash,
            )
    except OSError as error:
        raise StorageError(
            f"{path}: the bundle could not be written ({error}). What was there before is still there; free some space "
            "or choose another folder."
        ) from error
    return path


def _write_folder(path: Path, arrays: Mapping[str, Array], text: str) -> None:
    workplace = Path(tempfile.mkdtemp(prefix=f".{path.name}-", dir=path.parent))
    try:
        write_folder(workplace / "new", arrays, text)
        replace_folder(workplace / "new", path)
    finally:
        shutil.rmtree(workplace, ignore_errors=True)


def write_folder(new: Path, arrays: Mapping[str, Array], card: str) -> None:
    """The form of a bundle that is memory-mapped: a new folder with one .npy file per array, and its card."""
    new.mkdir()
    for name in arrays:
        check_file_name("array", name)
    for name, array in arrays.items():
        write_array(new / f"{name}.npy", array)
    replace_file(new / "card.yaml", lambda file: file.write(card.encode()))


def write_array(path: Path, array: Array) -> None:
    """One array as a .npy file, whole or not at all."""
    replace_file(path, lambda file: np.save(file, array, allow_pickle=False))


def yaml_of(card: Mapping[str, Any]) -> str:
    """A card as YAML text."""
    return text_of(dict(card), "Writing a bundle's card", width=110)
