"""BraTS 2021 from NIfTI files."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch

from equimodal import MultimodalModel, PlainEngine
from equimodal.data import load, loader
from equimodal.data.prepare import UnreadableError, check, prepare
from equimodal.data.prepare.datasets._brats import tumour_slices
from equimodal.data.prepare.readers import cut, standardised
from equimodal.errors import DataError
from equimodal.fusion import Concat
from equimodal.methods import Joint
from equimodal.tasks import Segmentation

nibabel = pytest.importorskip("nibabel")
Array = npt.NDArray[Any]
SHAPE = (24, 20, 12)
SMALL: dict[str, Any] = {"slices": 3, "size": 16, "last": 10, "workers": 0}
NAMES = [f"BraTS2021_{n:05d}" for n in (0, 2, 3, 5, 6, 8, 9, 11, 12, 14)]


def case(number: int) -> tuple[dict[str, Array], Array]:
    """Four sequences (int16, 0 outside of the head) and an outline with labels 1, 2, 4 in slices 4 to 8."""
    rng = np.random.default_rng(number)
    head = np.zeros(SHAPE, bool)
    head[2:22, 3:17, 1:11] = True
    outline = np.zeros(SHAPE, np.uint8)
    outline[8:14, 6:12, 4:9] = 2
    outline[9:12, 7:10, 5:8] = 4
    outline[10, 8, 6] = 1
    sequences = {
        name: np.where(head, rng.integers(50, 900, SHAPE) + 200 * (outline > 0), 0).astype(np.int16)
        for name in ("flair", "t1", "t1ce", "t2")
    }
    return sequences, outline


def write(path: Path, volume: Array) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    affine = np.diag([-1.0, -1.0, 1.0, 1.0])
    nibabel.save(nibabel.Nifti1Image(volume, affine), path)


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    folder = tmp_path / "raw"
    for number, name in enumerate(NAMES):
        sequences, outline = case(number)
        for sequence, volume in {**sequences, "seg": outline}.items():
            write(folder / name / f"{name}_{sequence}.nii.gz", volume)
    return folder


def manifest(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "manifest.json").read_text())
    return found


def test_counts_and_outlines(raw: Path, tmp_path: Path) -> None:
    report = prepare("brats2021", raw, tmp_path / "out", **SMALL)
    assert (report.samples, report.missing, report.incomplete, report.expected) == (30, 0, 0, 30)
    data = load(tmp_path / "out")
    assert data.parts == {"train": 24, "validation": 3, "test": 3}
    assert {m: s.shape for m, s in data.modalities.items()} == dict.fromkeys(("flair", "t1ce", "t1", "t2"), (1, 16, 16))
    assert data.target == "tumour"
    mask = np.load(tmp_path / "out" / "mask.npy")
    assert mask.dtype == np.uint8
    assert set(np.unique(mask)) == {0, 1, 2, 3}  # 4 has become 3
    # slices 4 to 8 hold tumour; three of five: the middles of three equal parts
    assert np.load(tmp_path / "out" / "slice.npy")[:3].tolist() == [4, 6, 8]
    # the middle 16 x 16 of 24 x 20 begins at row 4 and column 2
    _, outline = case(0)
    outline[outline == 4] = 3
    assert np.array_equal(mask[1], outline[4:20, 2:18, 6])


def test_a_slice_by_hand(raw: Path, tmp_path: Path) -> None:
    prepare("brats2021", raw, tmp_path / "out", **SMALL)
    volume = case(2)[0]["t1ce"].astype(np.float64)
    own = volume[volume > 0]
    expected = np.where(volume > 0, (volume - own.mean()) / own.std(), 0)[4:20, 2:18, 8]
    stored = np.load(tmp_path / "out" / "t1ce.npy")
    assert stored.dtype == np.float16
    np.testing.assert_allclose(stored[8, 0], expected, rtol=2**-11, atol=1e-6)
    prepare("brats2021", raw, tmp_path / "wide", precision="float32", **SMALL)
    np.testing.assert_allclose(np.load(tmp_path / "wide" / "t1ce.npy")[8, 0], expected, rtol=1e-6, atol=1e-6)


def test_patches_lie_around_the_tumour(raw: Path, tmp_path: Path) -> None:
    report = prepare("brats2021", raw, tmp_path / "out", dimensions=3, patch=8, last=10, workers=0)
    assert report.samples == 10
    data = load(tmp_path / "out")
    assert {s.kind for s in data.modalities.values()} == {"volume"}
    assert data.modalities["flair"].shape == (1, 8, 8, 8)
    mask = np.load(tmp_path / "out" / "mask.npy")[0]
    _, outline = case(0)
    outline[outline == 4] = 3
    # the middle of slices 4 to 8 is 6; there rows 8 to 13 have the mean 10.5 and columns 6 to 11 have 8.5
    row, column = round(10.5), round(8.5)
    expected = outline.transpose(2, 0, 1)[2:10, row - 4 : row + 4, column - 4 : column + 4]
    assert np.array_equal(mask, expected)
    assert (mask > 0).sum() == (outline > 0).sum()


def test_a_patch_larger_than_the_volume_is_filled_with_zeros(raw: Path, tmp_path: Path) -> None:
    prepare("brats2021", raw, tmp_path / "out", dimensions=3, patch=32, last=10, workers=0)
    mask = np.load(tmp_path / "out" / "mask.npy")[0]
    assert mask.shape == (32, 32, 32)
    _, outline = case(0)
    assert (mask > 0).sum() == (outline > 0).sum()


@pytest.mark.parametrize(
    ("tumour", "count", "last", "expected"),
    [
        ([4, 5, 6, 7, 8], 1, 12, [6]),
        ([4, 5, 6, 7, 8], 5, 12, [4, 5, 6, 7, 8]),
        ([4, 5, 6, 7, 8], 2, 12, [5, 7]),
        ([4, 5, 6, 7, 8], 2, 6, [4, 5]),  # only the first six slices are looked at
        ([5], 3, 12, [4, 5, 6]),
        ([0], 3, 12, [0, 1, 2]),
        ([2, 9], 4, 12, [1, 2, 3, 9]),
    ],
)
def test_which_slices_are_taken(tumour: list[int], count: int, last: int, expected: list[int]) -> None:
    outline = np.zeros((2, 2, 12), np.uint8)
    outline[0, 1, tumour] = 1
    assert tumour_slices(outline, count, last).tolist() == expected


def test_slices_that_are_not_there() -> None:
    outline = np.zeros((2, 2, 12), np.uint8)
    outline[0, 0, 11] = 1
    with pytest.raises(UnreadableError, match="no tumour in the first 10"):
        tumour_slices(outline, 1, 10)
    with pytest.raises(UnreadableError, match="has 12 axial slices; 13 are asked for"):
        tumour_slices(outline, 13, 128)


def test_cutting_and_standardising() -> None:
    grid = np.arange(20).reshape(4, 5)
    assert cut(grid, (2, 2), (2, 3)).tolist() == [[6, 7, 8], [11, 12, 13]]
    assert cut(grid, (0, 4), (3, 3)).tolist() == [[0, 0, 0], [3, 4, 0], [8, 9, 0]]
    found = standardised(np.array([0, 1, 3, 0]))
    assert found.tolist() == [0, -1, 1, 0]
    assert found.dtype == np.float32
    with pytest.raises(UnreadableError, match="empty or constant"):
        standardised(np.array([0, 5, 5]))


def test_the_protocols_keep_patients_apart(raw: Path, tmp_path: Path) -> None:
    prepare("brats2021", raw, tmp_path / "out", **SMALL)
    patient = np.load(tmp_path / "out" / "patient.npy")
    tested: list[str] = []
    for name in ["patient-disjoint", *(f"fold{k}" for k in range(1, 6))]:
        data = load(tmp_path / "out", protocol=name)
        assert data.protocol.verified
        parts = [set(patient[split.rows.numpy()]) for split in (data.train, data.validation, data.test)]
        assert sum(map(len, parts)) == len(set.union(*parts)) == 10
        tested += sorted(parts[2]) if name.startswith("fold") else []
    assert sorted(tested) == NAMES  # every patient is tested once


def test_lists_of_the_authors(raw: Path, tmp_path: Path) -> None:
    lists = tmp_path / "lists"
    lists.mkdir()
    (lists / "train.txt").write_text("00000\n00002\n00003\nBraTS2021_00005\n")
    (lists / "valid.txt").write_text("00006\n")
    (lists / "test.txt").write_text("00008\n00009\n")
    prepare("brats2021", raw, tmp_path / "out", lists=str(lists), **SMALL)
    data = load(tmp_path / "out", protocol="given")
    assert data.parts == {"train": 12, "validation": 3, "test": 6}
    assert data.protocol.unused == 9
    (lists / "test.txt").write_text("00008\n00099\n")
    with pytest.raises(DataError, match=r"BraTS2021_00099: in test.txt, and not in the source"):
        prepare("brats2021", raw, tmp_path / "other", lists=str(lists), **SMALL)
    (lists / "test.txt").write_text("00006\n")
    with pytest.raises(DataError, match="expected patients that are in no other list. Found BraTS2021_00006"):
        prepare("brats2021", raw, tmp_path / "other", lists=str(lists), **SMALL)
    (lists / "test.txt").write_text("patient six\n")
    with pytest.raises(DataError, match="entry 1: expected NNNNN"):
        prepare("brats2021", raw, tmp_path / "other", lists=str(lists), **SMALL)
    (lists / "test.txt").unlink()
    with pytest.raises(DataError, match="expected a folder with train.txt, valid.txt and test.txt"):
        prepare("brats2021", raw, tmp_path / "other", lists=str(lists), **SMALL)


def spoil(name: str) -> Callable[[Path], None]:
    def missing(path: Path) -> None:
        path.unlink()

    def truncated(path: Path) -> None:
        path.write_bytes(path.read_bytes()[:-400])

    def another(path: Path) -> None:
        path.write_text("version https://example.org")

    def shape(path: Path) -> None:
        write(path, np.ones((24, 20, 11), np.int16))

    def flat(path: Path) -> None:
        write(path, np.ones((24, 20), np.int16))

    def nan(path: Path) -> None:
        write(path, np.full(SHAPE, np.nan, np.float32))

    def zero(path: Path) -> None:
        write(path, np.zeros(SHAPE, np.int16))

    return {f.__name__: f for f in (missing, truncated, another, shape, flat, nan, zero)}[name]


@pytest.mark.parametrize(
    ("how", "reason"),
    [
        ("missing", "no such file"),
        ("truncated", "is no readable NIfTI file"),
        ("another", "is no readable NIfTI file"),
        ("shape", "is (24, 20, 11); the outline is (24, 20, 12)"),
        ("flat", "holds int16 (24, 20)"),
        ("nan", "holds NaN or infinity"),
        ("zero", "is empty or constant"),
    ],
)
def test_a_missing_sequence_is_marked_absent(raw: Path, tmp_path: Path, how: str, reason: str) -> None:
    spoil(how)(raw / NAMES[3] / f"{NAMES[3]}_t2.nii.gz")
    with pytest.raises(DataError, match=r"Found 3 of 30 \(10.00%\)"):
        prepare("brats2021", raw, tmp_path / "out", **SMALL)
    report = prepare("brats2021", raw, tmp_path / "out", max_missing=0.2, **SMALL)
    assert (report.samples, report.incomplete, report.missing) == (30, 3, 0)
    present = np.load(tmp_path / "out" / "present_t2.npy")
    assert np.flatnonzero(~present).tolist() == [9, 10, 11]
    assert not (tmp_path / "out" / "present_t1.npy").exists()
    problem = manifest(tmp_path / "out")["unreadable"][0]
    assert problem["path"] == f"{NAMES[3]}/{NAMES[3]}_t2.nii.gz"
    assert reason in problem["reason"]
    data = load(tmp_path / "out")
    assert set(data.modalities) == {"flair", "t1ce", "t1", "t2"}
    assert not np.load(tmp_path / "out" / "t2.npy")[9:12].any()
    strict = prepare("brats2021", raw, tmp_path / "strict", max_missing=0.2, incomplete="drop", **SMALL)
    assert (strict.samples, strict.missing) == (27, 3)


@pytest.mark.parametrize("how", ["missing", "truncated", "zero"])
def test_a_patient_without_an_outline_is_missing(raw: Path, tmp_path: Path, how: str) -> None:
    spoil(how)(raw / NAMES[1] / f"{NAMES[1]}_seg.nii.gz")
    report = prepare("brats2021", raw, tmp_path / "out", max_missing=0.1, **SMALL)
    assert (report.samples, report.missing) == (27, 3)
    assert NAMES[1] not in np.load(tmp_path / "out" / "patient.npy")


def test_labels_that_do_not_exist_are_refused(raw: Path, tmp_path: Path) -> None:
    outline = case(0)[1].astype(np.int16)
    outline[0, 0, 0] = 7
    write(raw / NAMES[1] / f"{NAMES[1]}_seg.nii.gz", outline)
    prepare("brats2021", raw, tmp_path / "out", max_missing=0.1, **SMALL)
    reasons = {p["reason"] for p in manifest(tmp_path / "out")["unreadable"]}
    text = "has the labels [0, 1, 2, 4, 7]; 0, 1, 2 and 4 are expected"
    assert reasons == {text, f"its outline {text}"}


def test_other_places_and_names(raw: Path, tmp_path: Path) -> None:
    below = tmp_path / "below"
    below.mkdir()
    raw.rename(below / "BraTS2021_Training_Data")
    (below / "README.txt").write_text("read me")
    inner = below / "BraTS2021_Training_Data"
    image = nibabel.load(inner / NAMES[0] / f"{NAMES[0]}_t1.nii.gz")
    nibabel.save(image, inner / NAMES[0] / f"{NAMES[0]}_t1.nii")  # some copies are not compressed
    (inner / NAMES[0] / f"{NAMES[0]}_t1.nii.gz").unlink()
    report = prepare("brats2021", below, tmp_path / "out", **SMALL)
    assert (report.samples, report.incomplete) == (30, 0)
    assert [p["path"] for p in manifest(tmp_path / "out")["ignored"]] == ["README.txt"]
    write(below / NAMES[0] / f"{NAMES[0]}_t1.nii.gz", case(0)[0]["t1"])
    with pytest.raises(DataError, match="expected each patient once. Found BraTS2021_00000"):
        prepare("brats2021", below, tmp_path / "again", **SMALL)


def test_folders_without_patients_are_refused(tmp_path: Path) -> None:
    (tmp_path / "raw" / "patient1").mkdir(parents=True)
    with pytest.raises(DataError, match="expected folders of at least 3 patients, BraTS2021_NNNNN. Found 0"):
        prepare("brats2021", tmp_path / "raw", tmp_path / "out", **SMALL)


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"dimensions": 4}, "`dimensions`: expected 2 or 3"),
        ({"precision": "int8"}, "`precision`: expected"),
        ({"size": 0}, "`size`: expected a whole number of at least 1"),
        ({"slices": -1}, "`slices`: expected a whole number of at least 0"),
    ],
)
def test_wrong_parameters_are_refused(raw: Path, tmp_path: Path, parameters: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        prepare("brats2021", raw, tmp_path / "out", **{**SMALL, **parameters})


def test_two_runs_are_equal_and_a_changed_file_is_seen(raw: Path, tmp_path: Path) -> None:
    first = prepare("brats2021", raw, tmp_path / "one", **SMALL)
    second = prepare("brats2021", raw, tmp_path / "two", **{**SMALL, "workers": 2})
    assert first.fingerprint == second.fingerprint
    assert check(tmp_path / "one", source=raw).ok
    write(raw / NAMES[0] / f"{NAMES[0]}_t1.nii.gz", case(99)[0]["t1"])
    assert not check(tmp_path / "one", source=raw).ok


def test_the_card_has_the_regions_and_a_step_of_training_works(raw: Path, tmp_path: Path) -> None:
    (raw / NAMES[0] / f"{NAMES[0]}_t2.nii.gz").unlink()
    prepare("brats2021", raw, tmp_path / "out", max_missing=0.2, **SMALL)
    data = load(tmp_path / "out")
    task = data.task
    assert isinstance(task, Segmentation)
    assert task.regions == {"WT": (1, 2, 3), "TC": (1, 3), "ET": (3,)}
    torch.manual_seed(0)

    class Map(torch.nn.Conv2d):
        out_features = 4

    encoders = {name: Map(1, 4, 3, padding=1) for name in data.modalities}
    model = MultimodalModel(encoders, Concat(dict.fromkeys(encoders, 4)), torch.nn.Conv2d(16, 4, 1))
    method = Joint(model, task)
    engine = PlainEngine(torch.optim.AdamW(method.parameters(), lr=0.02))
    losses = []
    for epoch in range(4):
        batches = loader(data.train, 6, seed=0)
        batches.set_epoch(epoch)
        losses += [float(method.training_step(batch, engine).losses["joint"]) for batch in batches]
    assert losses[-1] < losses[0]
