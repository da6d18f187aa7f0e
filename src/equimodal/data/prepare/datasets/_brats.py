"""BraTS 2021: brain tumours in four MRI sequences, as 2-D slices or 3-D patches."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt

from equimodal.data.prepare import (
    ArraySpec,
    Index,
    Item,
    Preparation,
    Problem,
    SplitSpec,
    Target,
    UnreadableError,
)
from equimodal.data.prepare.datasets._parameters import check_parameters
from equimodal.data.prepare.datasets._splits import hash_order, hash_parts
from equimodal.data.prepare.readers import Volume, cut, read_text, read_volume, same_place, standardised, whole_numbers
from equimodal.errors import DataError

Array = npt.NDArray[Any]
SEQUENCES = ("flair", "t1ce", "t1", "t2")  # the order of CGGM's files
CLASSES = ("background", "necrotic core", "oedema", "enhancing tumour")
REGIONS = {"WT": CLASSES[1:], "TC": (CLASSES[1], CLASSES[3]), "ET": (CLASSES[3],)}
_PATIENT = re.compile(r"BraTS2021_\d{5}")
_LISTS = {"train": "train", "valid": "validation", "test": "test"}
_FOLDS = 5


@dataclass(frozen=True)
class Parameters:
    """How volumes are cut up and stored.

    Args:
        dimensions: 2: axial slices; 3: patches. Source: CGGM, datasets/BratsDataset.py (2).
        slices: axial slices, or patches, per patient; 0: 16 slices, or one patch. Source: this library; CGGM draws one
            slice per epoch.
        size: height and width of a slice, cut from the middle. Source: CGGM, as above.
        patch: edge of a patch, around the tumour. Source: this library.
        last: only the first so many axial slices are looked at. Source: CGGM, as above (128 of 155).
        precision: ``"float16"`` or ``"float32"``. Source: this library.
        lists: folder with train.txt, valid.txt and test.txt, which makes the protocol ``given``. Source:
            icerain-alt/brats-unet, data_process/split_data.py.
    """

    dimensions: int = 2
    slices: int = 0
    size: int = 160
    patch: int = 128
    last: int = 128
    precision: Literal["float16", "float32"] = "float16"
    lists: str = field(default="", metadata={"path": True})

    def __post_init__(self) -> None:
        if self.dimensions not in (2, 3):
            raise DataError(f"`dimensions`: expected 2 or 3. Found {self.dimensions!r}.")
        check_parameters(self, slices=0, size=1, patch=1, last=1)

    @property
    def count(self) -> int:
        """Samples per patient."""
        return self.slices or (16 if self.dimensions == 2 else 1)

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of a sample's outline."""
        return (self.size,) * 2 if self.dimensions == 2 else (self.patch,) * 3


class BraTS2021(Preparation[Parameters]):
    """BraTS 2021 from ``BraTS2021_NNNNN/BraTS2021_NNNNN_{flair,t1,t1ce,t2,seg}.nii.gz``."""

    name = "brats2021"
    Parameters = Parameters
    packages = ("nibabel",)
    incomplete: ClassVar[Literal["drop", "keep"]] = "keep"
    _outline: tuple[str, Volume] | None = None

    def index(self) -> Index:
        """One item per patient; nothing of it is read."""
        folders, ignored = self._folders()
        patients = sorted(folders)
        if len(patients) < 3:
            expected = "folders of at least 3 patients, BraTS2021_NNNNN"
            raise self.source_error(self.raw, expected, str(len(patients)))
        parts = hash_parts(self.name, patients, one_in=10)
        listed, missing = self._lists(patients)
        items = []
        for rank, patient in enumerate(hash_order(self.name, patients)):
            columns: dict[str, int | str] = {
                "patient": patient,
                "split": parts[patient],
                "fold": rank % _FOLDS,
            }
            if self.parameters.lists:
                columns["given"] = listed.get(patient, "unlisted")
            outline = self._file(folders[patient], patient, "seg")
            files: dict[str, tuple[str, ...]] = {
                name: (outline, self._file(folders[patient], patient, name)) for name in SEQUENCES
            }
            files |= dict.fromkeys(("mask", "slice"), (outline,))
            items.append(Item(patient, files, columns, count=self.parameters.count))
        return Index(
            items=tuple(items),
            targets={"tumour": Target("mask", "segmentation", CLASSES, "outline by experts; label 4 is 3", REGIONS)},
            protocols=self._protocols(len(patients)),
            groups=("patient",),
            missing=missing,
            ignored=tuple(ignored),
            notes={"patients": len(patients)},
        )

    def _folders(self) -> tuple[dict[str, str], list[Problem]]:
        """Patient -> folder, in the source folder or one below; and what else is there."""
        found: dict[str, str] = {}
        ignored = []
        for path in sorted(self.raw.iterdir()):
            inner = [path] if _PATIENT.fullmatch(path.name) else []
            if path.is_dir() and not inner:
                inner = sorted(p for p in path.iterdir() if _PATIENT.fullmatch(p.name))
            if not inner:
                ignored.append(Problem(path.name, "expected a folder BraTS2021_NNNNN"))
            for folder in inner:
                if folder.name in found:
                    raise DataError(
                        f"{self.raw}: expected each patient once. Found {folder.name} in {found[folder.name]} and "
                        f"{folder.relative_to(self.raw).as_posix()}."
                    )
                found[folder.name] = folder.relative_to(self.raw).as_posix()
        return found, ignored

    def _file(self, folder: str, patient: str, name: str) -> str:
        plain = f"{folder}/{patient}_{name}.nii"
        return plain if self.path(plain).is_file() else plain + ".gz"

    def _protocols(self, patients: int) -> dict[str, SplitSpec]:
        found = {
            "patient-disjoint": SplitSpec(
                "split", ("train",), ("validation",), ("test",), groups=("patient",),
                description="80 / 10 / 10 % of the patients by order of the SHA-256 of the patient",
            )
        }  # fmt: skip
        if patients >= _FOLDS:
            for fold in range(_FOLDS):
                others = tuple(f for f in range(_FOLDS) if f not in (fold, (fold + 1) % _FOLDS))
                found[f"fold{fold + 1}"] = SplitSpec(
                    "fold", others, ((fold + 1) % _FOLDS,), (fold,), groups=("patient",),
                    description=f"part {fold + 1} of 5 for testing, the next one for validation",
                )  # fmt: skip
        if self.parameters.lists:
            found["given"] = SplitSpec(
                "given", ("train",), ("validation",), ("test",), "the lists that were given", groups=("patient",)
            )
        return found

    def _lists(self, patients: Sequence[str]) -> tuple[dict[str, str], tuple[Problem, ...]]:
        """Patient -> part by the user's lists, and the listed patients that are not in the source."""
        parts: dict[str, str] = {}
        missing = []
        for name, part in _LISTS.items() if self.parameters.lists else ():
            path = Path(self.parameters.lists) / f"{name}.txt"
            if not path.is_file():
                raise DataError(f"`lists`: expected a folder with train.txt, valid.txt and test.txt. Found no {path}.")
            for number, line in enumerate(read_text(path).split(), 1):
                match = re.search(r"(?<!\d)\d{5}(?!\d)", line.removeprefix("BraTS2021_"))
                if match is None:
                    raise DataError(f"{path}: entry {number}: expected NNNNN or BraTS2021_NNNNN. Found {line[:40]!r}.")
                patient = f"BraTS2021_{match[0]}"
                if parts.setdefault(patient, part) != part:
                    raise DataError(f"{path}: expected patients that are in no other list. Found {patient}.")
                if patient not in patients:
                    missing += [Problem(patient, f"in {path.name}, and not in the source")] * self.parameters.count
        return parts, tuple(missing)

    def arrays(self) -> Mapping[str, ArraySpec]:
        """The four sequences, the outline, and the number of the axial slice."""
        p = self.parameters
        flat = p.dimensions == 2
        text = "axial slice" if flat else "patch (axial, row, column)"
        specs = {
            name: ArraySpec(
                (1, *p.shape), p.precision, "image" if flat else "volume",
                units="deviations of the patient's own voxels", description=f"{name}, {text}",
            )
            for name in SEQUENCES
        }  # fmt: skip
        specs["mask"] = ArraySpec(p.shape, "uint8", description="outline of the tumour")
        specs["slice"] = ArraySpec((), "int16", description="number of the axial slice, of a patch its middle")
        return specs

    def decode(self, item: Item, name: str) -> Array:
        """All slices or patches of one patient."""
        p = self.parameters
        try:
            placed = self._read_outline(item)
            outline = placed.values
            chosen = tumour_slices(outline, p.count, p.last)
        except UnreadableError as error:
            raise UnreadableError(f"its outline {error}" if name in SEQUENCES else str(error)) from error
        if name == "slice":
            return chosen.astype(np.int16)
        if name == "mask":
            return np.stack([self._cut(outline, outline, z) for z in chosen.tolist()])
        found = read_volume(self.path(item.files[name][-1]))
        same_place(found, placed)
        volume = standardised(found.values)
        return np.stack([self._cut(volume, outline, z) for z in chosen.tolist()])[:, None].astype(p.precision)

    def _read_outline(self, item: Item) -> Volume:
        if self._outline is None or self._outline[0] != item.key:
            raw = read_volume(self.path(item.files["mask"][0]))
            codes = whole_numbers(raw.values)
            labels = np.unique(codes)
            if not np.isin(labels, (0, 1, 2, 3, 4)).all():
                raise UnreadableError(f"has the labels {labels[:8].tolist()}; 0, 1, 2 and 4 are expected")
            if np.isin((3, 4), labels).all():  # 4 in 2021, 3 since 2023: both mean the enhancing tumour
                raise UnreadableError("has the labels 3 and 4, of which only one is the enhancing tumour")
            outline = codes.astype(np.uint8)
            outline[outline == 4] = 3
            self._outline = item.key, raw._replace(values=outline)
        return self._outline[1]

    def _cut(self, volume: Array, outline: Array, z: int) -> Array:
        p = self.parameters
        if p.dimensions == 2:
            # round halves to even, as the released crop does
            middle = [round((n - p.size) / 2) + p.size // 2 for n in volume.shape[:2]]
            return cut(volume[:, :, z], middle, p.shape)
        inside = outline[:, :, z] if outline[:, :, z].any() else outline.any(2)
        row, column = (round(float(axis.mean())) for axis in np.nonzero(inside))
        own = [min(max(c, p.patch // 2), max(n - (p.patch - p.patch // 2), p.patch // 2)) for c, n in
               zip((z, row, column), (volume.shape[2], *volume.shape[:2]))]  # fmt: skip
        return cut(volume.transpose(2, 0, 1), own, p.shape)


def tumour_slices(outline: Array, count: int, last: int) -> Array:
    """``count`` different axial slices of the first ``last``: evenly over those with tumour, then those nearest to it.

    Raises:
        UnreadableError: no tumour there, or fewer slices.
    """
    there: Array = np.asarray(outline[:, :, :last].any((0, 1)))
    with_tumour = np.flatnonzero(there)
    if not len(with_tumour):
        raise UnreadableError(f"has no tumour in the first {last} axial slices")
    if len(there) < count:
        raise UnreadableError(f"has {len(there)} axial slices; {count} are asked for")
    if len(with_tumour) >= count:
        return with_tumour[(np.arange(count) * 2 + 1) * len(with_tumour) // (2 * count)]
    distance = np.abs(np.arange(len(there))[:, None] - with_tumour).min(1)
    return np.sort(np.argsort(distance, kind="stable")[:count])
