from __future__ import annotations

import errno
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from equimodal.data import from_arrays, load_bundle, write_bundle
from equimodal.errors import DataError, NonFiniteError, StorageError

pytest.importorskip("yaml")

RNG = np.random.default_rng(0)
OWN: dict[str, Any] = {
    "inputs": {
        "voice": RNG.normal(size=(20, 7, 3)),
        "face": RNG.integers(0, 255, (20, 3, 4, 4), dtype=np.uint8),
        "words": RNG.integers(0, 90, (20, 6)),
    },
    "target": np.array(["no", "yes"] * 10),
    "split": ["train"] * 10 + ["validation"] * 5 + ["test"] * 5,
    "present": {"face": np.arange(20) % 4 > 0},
    "groups": {"person": np.repeat(np.arange(4), 5)},
    "kinds": {"words": "tokens"},
    "units": {"voice": "dB"},
    "provenance": {"licence": "mine", "source": ["here"]},
}


@pytest.mark.parametrize("name", ["own.npz", "own"])
def test_round_trip(tmp_path: Path, name: str) -> None:
    path = write_bundle(tmp_path / "new" / name, **OWN)
    data = load_bundle(path)
    direct = from_arrays(**{k: v for k, v in OWN.items() if k != "provenance"})
    assert data.name == "own"
    assert data.classes == ("no", "yes")
    assert data.card.licence == "mine"
    assert {n: (m.kind, m.shape, m.units, m.dtype) for n, m in data.modalities.items()} == {
        "voice": ("sequence", (7, 3), "dB", "float32"),
        "face": ("image", (3, 4, 4), "", "float32"),
        "words": ("tokens", (6,), "", "int64"),
    }
    assert data.protocol.verified
    for part in ("train", "validation", "test"):
        a, b = getattr(data, part).batch(), getattr(direct, part).batch()
        assert torch.equal(a.target, b.target)
        for m in a.inputs:
            torch.testing.assert_close(a.inputs[m], b.inputs[m], atol=1e-6, rtol=1e-6)
    assert data.train.present["face"].tolist() == [False, True, True, True] * 2 + [False, True]
    assert sorted(p.name for p in (tmp_path / "new").iterdir()) == (["own.npz", "own.yaml"] if "." in name else ["own"])


def test_splits_as_numbers_and_carved_validation(tmp_path: Path) -> None:
    path = write_bundle(
        tmp_path / "own.npz",
        inputs={"x": RNG.normal(size=(20, 2))},
        target=np.arange(20) % 2,
        split=[0] * 16 + [2] * 4,
        validation={"carve": 0.25, "seed": 3, "by": "class"},
        classes=["even", "odd"],
    )
    data = load_bundle(path)
    assert data.parts == {"train": 12, "validation": 4, "test": 4}
    assert data.validation.class_counts == {"even": 2, "odd": 2}


@pytest.mark.parametrize(
    ("changes", "error", "match"),
    [
        ({"inputs": {}}, DataError, "`inputs`: expected a mapping"),
        ({"inputs": {"x": np.zeros(20)}, "present": None, "kinds": None, "units": None}, DataError, r"`inputs\['x'\]`"),
        ({"present": {"smell": [1] * 20}}, DataError, r"`present`: expected modalities.*\['smell'\]"),
        ({"kinds": {"words": "tokns"}}, DataError, "Did you mean 'tokens'"),
        ({"target": np.zeros(20)}, DataError, "`target`: expected one name or whole number"),
        ({"target": ["no", "yes"] * 9}, DataError, "array `target` .*expected 20 samples.*Found 18"),
        ({"classes": ["no"]}, DataError, r"`target`: expected names of `classes`.*\['yes'\]"),
        ({"split": ["train"] * 15 + ["test"] * 5}, DataError, "`split`: expected samples with 'validation'.*carve"),
        ({"validation": {"carve": 0.2}}, DataError, "`validation`: expected None"),
        ({"groups": {"person": np.repeat(np.arange(2), 10)}}, DataError, "no person in more than one split"),
        ({"provenance": {"license": "x"}}, DataError, "Did you mean 'licence'"),
        ({"path": "own.csv"}, DataError, "`path`: expected NAME.npz"),
    ],
)
def test_nothing_is_written_when_the_arrays_do_not_fit(
    tmp_path: Path, changes: dict[str, Any], error: type[Exception], match: str
) -> None:
    with pytest.raises(error, match=match):
        write_bundle(**{"path": tmp_path / "own.npz", **OWN, **changes})
    assert list(tmp_path.iterdir()) == []


def test_nan_is_found_before_writing(tmp_path: Path) -> None:
    voice = OWN["inputs"]["voice"].copy()
    voice[3] = np.nan
    with pytest.raises(NonFiniteError, match=r"'voice'.*\[3\]"):
        write_bundle(tmp_path / "own.npz", **{**OWN, "inputs": {**OWN["inputs"], "voice": voice}})
    assert list(tmp_path.iterdir()) == []


def content(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.mark.parametrize("name", ["own.npz", "own"])
def test_a_full_disk_leaves_the_earlier_bundle(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    write_bundle(tmp_path / name, **OWN)
    before = content(tmp_path)

    def full(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(np, "save" if name == "own" else "savez_compressed", full)
    with pytest.raises(StorageError, match=r"own.*No space left on device.*still there"):
        write_bundle(tmp_path / name, **{**OWN, "target": np.array(["yes", "no"] * 10)})
    assert content(tmp_path) == before


@pytest.mark.parametrize("name", ["own.npz", "own"])
@pytest.mark.parametrize("earlier", [True, False])
@pytest.mark.parametrize("failing", [0, 1, 2, 3])
def test_a_move_that_fails_is_undone(
    tmp_path: Path, name: str, earlier: bool, failing: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    if earlier:
        write_bundle(tmp_path / name, **OWN)
    before, replace, calls = content(tmp_path), Path.replace, []

    def fails_once(self: Path, target: Path) -> Path:
        calls.append(target)
        if len(calls) == failing + 1:
            raise OSError(errno.EIO, "Input/output error")
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", fails_once)
    try:
        write_bundle(tmp_path / name, **{**OWN, "target": np.array(["yes", "no"] * 10)})
    except StorageError:
        assert content(tmp_path) == before
    else:
        # there was no such move, or it came after both files were new
        assert len(calls) <= failing or load_bundle(tmp_path / name).classes == ("no", "yes")


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # NumPy 2.0 leaves the archive open
def test_a_real_limit_of_the_file_size(tmp_path: Path) -> None:
    resource = pytest.importorskip("resource")
    signal = pytest.importorskip("signal")
    write_bundle(tmp_path / "own.npz", **OWN)
    before = content(tmp_path)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    big = {**OWN, "inputs": {**OWN["inputs"], "voice": RNG.normal(size=(20, 500, 3))}}
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limit[1]))
        with pytest.raises(StorageError, match="could not be written"):
            write_bundle(tmp_path / "own.npz", **big)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
        signal.signal(signal.SIGXFSZ, handler)
    assert content(tmp_path) == before


def test_a_folder_that_is_no_bundle_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.txt").write_text("keep", encoding="utf-8")
    with pytest.raises(DataError, match="expected a new folder or one with a bundle"):
        write_bundle(tmp_path / "photos", **OWN)
    assert content(tmp_path) == {"photos/a.txt": b"keep"}
