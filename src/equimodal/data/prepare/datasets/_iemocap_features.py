"""IEMOCAP as the feature files of MMIN, which CGGM reads."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from equimodal.data.prepare import ArraySpec, Index, Item, Preparation, SplitSpec, Target, UnreadableError
from equimodal.data.prepare.datasets._iemocap_lists import FOLD, read_array, read_names
from equimodal.data.prepare.datasets._parameters import check_parameters
from equimodal.errors import DataError

Array = npt.NDArray[Any]
MODALITIES = {"text": "L", "audio": "A", "vision": "V"}
KNOWN = {"angry": 1103, "happy": 1636, "neutral": 1708, "sad": 1084}
_NAME = re.compile(r"(Ses\d\d)[FM]_\w+_([FM])\w*\d+")


@dataclass(frozen=True)
class Parameters:
    """Which features are read, and how they are padded.

    Args:
        text: name of the file in L, without .h5. Source: CGGM, datasets/dataloader.py.
        audio: name of the file in A. Source: CGGM, as above.
        vision: name of the file in V. Source: CGGM, as above.
        text_steps: longer ones are cut, shorter ones padded. Source: CGGM, datasets/IEMODataset.py.
        audio_steps: as above. Source: CGGM, as above.
        vision_steps: as above. Source: CGGM, as above.
        classes: names of the columns of the one-hot labels. Source: checked against the counts of the whole set.
    """

    text: str = "bert_large"
    audio: str = "comparE"
    vision: str = "denseface"
    text_steps: int = 22
    audio_steps: int = 350
    vision_steps: int = 50
    classes: tuple[str, ...] = ("angry", "happy", "sad", "neutral")

    def __post_init__(self) -> None:
        check_parameters(self, text_steps=1, audio_steps=1, vision_steps=1)
        if sorted(self.classes) != sorted(KNOWN):
            raise DataError(f"`classes`: expected {sorted(KNOWN)} in some order. Found {list(self.classes)}.")


class IemocapFeatures(Preparation[Parameters]):
    """IEMOCAP features from ``A``, ``V``, ``L`` (.h5) and ``target`` (.npy)."""

    name = "iemocap-features"
    Parameters = Parameters
    packages = ("h5py",)
    parallel = False  # three large files

    def file(self, name: str) -> str:
        """The .h5 file of a modality, relative to the source folder."""
        return f"{MODALITIES[name]}/{getattr(self.parameters, name)}.h5"

    @cached_property
    def stores(self) -> dict[str, Any]:
        """The opened files."""
        import h5py

        found = {}
        for name in MODALITIES:
            path = self.path(self.file(name))
            if not path.is_file():
                raise self.source_error(path, f"the features of `{name}`", "no file")
            try:
                found[name] = h5py.File(path, "r")
            except OSError as error:
                raise DataError(f"{path}: expected a readable HDF5 file. Found: {error}. Get it again.") from error
        return found

    @cached_property
    def widths(self) -> dict[str, int]:
        """Features per step, by the first utterance of each file."""
        found = {}
        for name, store in self.stores.items():
            shape: tuple[int, ...] = next((store[key].shape for key in store if hasattr(store[key], "shape")), ())
            if len(shape) != 2:
                raise DataError(
                    f"{self.path(self.file(name))}: expected one dataset (steps, features) per utterance. Found shape "
                    f"{shape or 'nothing'}."
                )
            found[name] = int(shape[1])
        return found

    def index(self) -> Index:
        """One item per utterance that some fold names."""
        folder = self.raw / "target"
        folds = sorted((p for p in folder.glob("*") if p.is_dir() and p.name.isdigit()), key=lambda p: int(p.name))
        if not folds:
            raise self.source_error(folder, "the folds 1 to 10", "none")
        labels: dict[str, int] = {}
        parts: dict[str, dict[str, str]] = {}
        for fold in folds:
            own: dict[str, str] = {}
            for part, stem in FOLD.items():
                names, given = read_names(fold / f"{stem}_int2name.npy"), read_array(fold / f"{stem}_label.npy")
                for name, label in zip(
                    names, self._labels(given, len(names), f"{fold}: {stem}_label.npy"), strict=True
                ):
                    if own.setdefault(name, part) != part:
                        raise DataError(f"{fold}: expected each utterance in one part. Found {name} in two.")
                    if labels.setdefault(name, label) != label:
                        raise DataError(f"{fold}: expected one label for {name} in every fold. Found two.")
            parts[fold.name] = own
        self._check_counts(labels)
        items, shared = [], dict.fromkeys(parts, False)
        speakers: dict[tuple[str, str], set[str]] = {}
        for name, label in labels.items():
            match = _NAME.fullmatch(name)
            speaker = match[1] + match[2] if match else "unknown"
            columns: dict[str, int | str] = {"emotion": label, "speaker": speaker}
            for fold_name, own in parts.items():
                columns[f"cv{fold_name}"] = own.get(name, "unlisted")
                if name in own:
                    speakers.setdefault((fold_name, speaker), set()).add(own[name])
            files = {array: (self.file(array.removesuffix("_mask")),) for array in self.arrays()}
            items.append(Item(name, files, columns))
        for (fold_name, _), own_parts in speakers.items():
            shared[fold_name] |= len(own_parts) > 1
        return Index(
            items=tuple(items),
            targets={"emotion": Target("emotion", classes=self.parameters.classes)},
            protocols={
                f"cv{name}": SplitSpec(
                    f"cv{name}", ("train",), ("validation",), ("test",), f"fold {name} of the files", ("speaker",),
                    overlapping=shared[name],
                )
                for name in parts
            },
            groups=("speaker",),
            notes={"labels": {c: list(labels.values()).count(i) for i, c in enumerate(self.parameters.classes)}},
        )  # fmt: skip

    def _labels(self, given: Array, count: int, where: str) -> list[int]:
        """Labels of a fold's part: one-hot (N, 4), or numbers (N,)."""
        size = len(self.parameters.classes)
        if given.ndim == 2 and given.shape[1] == size and given.dtype.kind in "biuf" and (given.sum(1) == 1).all():
            given = given.argmax(1)
        elif given.ndim != 1 or given.dtype.kind not in "biu" or (len(given) and given.max() >= size):
            raise DataError(f"{where}: expected one-hot labels (N, {size}). Found {given.dtype} {given.shape}.")
        if len(given) != count:
            raise DataError(f"{where}: expected {count} labels, one per name. Found {len(given)}.")
        return [int(label) for label in given]

    def _check_counts(self, labels: Mapping[str, int]) -> None:
        if len(labels) != sum(KNOWN.values()):
            return  # not the whole set: nothing is known
        found = Counter(self.parameters.classes[label] for label in labels.values())
        if dict(found) != KNOWN:
            raise DataError(
                f"`classes`: expected the order of the labels in the files. With {list(self.parameters.classes)} "
                f"there are "
                f"{dict(sorted(found.items()))}, but the set has {KNOWN}. Give them in another order."
            )

    def arrays(self) -> Mapping[str, ArraySpec]:
        """Values and masks of the three modalities; the widths are those of the files."""
        specs = {}
        for name in MODALITIES:
            steps = int(getattr(self.parameters, f"{name}_steps"))
            specs[name] = ArraySpec(
                (steps, self.widths[name]), "float32", "sequence", units=str(getattr(self.parameters, name)),
                standardise="per-feature", mask=f"{name}_mask",
            )  # fmt: skip
            specs[f"{name}_mask"] = ArraySpec((steps,), "bool", description=f"real steps of {name}")
        return specs

    def decode(self, item: Item, name: str) -> Array:
        """One array of one utterance."""
        modality = name.removesuffix("_mask")
        store, steps = self.stores[modality], int(getattr(self.parameters, f"{modality}_steps"))
        if item.key not in store:
            raise UnreadableError(f"has no dataset {item.key}")
        try:
            found = np.asarray(store[item.key][()])
        except (OSError, TypeError) as error:
            raise UnreadableError(f"dataset {item.key} cannot be read ({error})") from error
        width = self.widths[modality]
        if found.ndim != 2 or found.shape[1] != width or not len(found) or found.dtype.kind not in "fiu":
            raise UnreadableError(f"dataset {item.key} holds {found.dtype} {found.shape}; (steps, {width}) is expected")
        values = np.zeros((steps, width), np.float32)
        values[: len(found)] = found[:steps]
        if name == modality:
            return values
        mask = np.arange(steps) < len(found)
        if modality != "audio":  # padded in the files
            mask &= (values != 0).any(1)
        mask[0] |= not mask.any()
        return mask
