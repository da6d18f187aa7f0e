"""IEMOCAP from the feature files of MMIN."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from equimodal.data import load
from equimodal.data.prepare import prepare
from equimodal.errors import DataError
from tests.data.prepare.iemocap import manifest, stored, train_a_little, turn_name
from tests.data.prepare.media import cut

pytest.importorskip("h5py")


@pytest.fixture
def features(tmp_path: Path) -> Path:
    """Two folds; sessions 1 and 2 for training, one speaker of session 3 each for validation and test."""
    import h5py

    folder, rng = tmp_path / "features", np.random.default_rng(0)
    turns = {s: [turn_name(s, g, n) for g in "FM" for n in range(8)] for s in (1, 2, 3)}
    for place, name, steps, width in (("A", "comparE", 7, 6), ("V", "denseface", 4, 5), ("L", "bert_large", 3, 8)):
        (folder / place).mkdir(parents=True)
        with h5py.File(folder / place / f"{name}.h5", "w") as file:
            for position, turn in enumerate(turns[1] + turns[2] + turns[3]):
                values = rng.normal(size=(steps + position % 3 if place == "A" else steps, width)).astype(np.float32)
                if place != "A":
                    values[-1] = 0  # padding of the file
                file[turn] = values
    for fold, (val, tst) in (("1", "FM"), ("2", "MF")):
        split = {
            "trn": turns[1] + turns[2],
            "val": [t for t in turns[3] if t.split("_")[-1][0] == val],
            "tst": [t for t in turns[3] if t.split("_")[-1][0] == tst],
        }
        (folder / "target" / fold).mkdir(parents=True)
        for stem, names in split.items():
            labels = np.eye(4, dtype=np.int64)[[int(name[-1]) // 2 for name in names]]
            np.save(folder / "target" / fold / f"{stem}_label.npy", labels)
            np.save(folder / "target" / fold / f"{stem}_int2name.npy", np.array(names, "S").reshape(-1, 1))
    return folder


def test_feature_files(features: Path, tmp_path: Path) -> None:
    report = prepare("iemocap-features", features, tmp_path / "out", audio_steps=8, vision_steps=4, text_steps=3)
    assert (report.samples, report.missing) == (48, 0)
    data = load(tmp_path / "out")
    assert data.protocol.name == "cv1"
    assert data.protocol.verified
    assert data.parts == {"train": 32, "validation": 8, "test": 8}
    assert data.classes == ("angry", "happy", "sad", "neutral")
    assert {m: s.shape for m, s in data.modalities.items()} == {"text": (3, 8), "audio": (8, 6), "vision": (4, 5)}
    other = load(tmp_path / "out", protocol="cv2")
    assert set(other.test.rows.tolist()) == set(data.validation.rows.tolist())
    import h5py

    keys = stored(tmp_path / "out", "key").tolist()
    with h5py.File(features / "A" / "comparE.h5") as file:
        row = keys.index(turn_name(2, "F", 3))
        own = file[turn_name(2, "F", 3)][()]
    np.testing.assert_array_equal(stored(tmp_path / "out", "audio")[row][: len(own)], own[:8])
    mask = stored(tmp_path / "out", "audio_mask")
    assert set(mask.sum(1)) == {7, 8}
    assert stored(tmp_path / "out", "vision_mask")[row].tolist() == [True, True, True, False]
    losses = train_a_little(tmp_path / "out", ["text", "audio", "vision"])
    assert np.mean(losses[-4:]) < np.mean(losses[:4])


def test_a_speaker_in_two_parts_of_a_fold_is_said(features: Path, tmp_path: Path) -> None:
    place = features / "target" / "2"
    for kind in ("label", "int2name"):
        trn, tst = np.load(place / f"trn_{kind}.npy"), np.load(place / f"tst_{kind}.npy")
        np.save(place / f"tst_{kind}.npy", np.concatenate([tst, trn[:1]]))
        np.save(place / f"trn_{kind}.npy", trn[1:])
    prepare("iemocap-features", features, tmp_path / "out", audio_steps=8, vision_steps=4, text_steps=3)
    assert load(tmp_path / "out").protocol.disjoint
    assert load(tmp_path / "out", protocol="cv2").protocol.shared == {"speaker": 1}


def spoil_features(folder: Path, how: str) -> None:
    import h5py

    if how == "no file":
        (folder / "V" / "denseface.h5").unlink()
    elif how == "truncated":
        cut(folder / "A" / "comparE.h5", 0.3)
    elif how == "no folds":
        (folder / "target").rename(folder / "targets")
    elif how == "three classes":
        np.save(folder / "target" / "1" / "trn_label.npy", np.eye(3)[[0] * 32])
    elif how == "two labels":
        labels = np.load(folder / "target" / "2" / "trn_label.npy")
        np.save(folder / "target" / "2" / "trn_label.npy", labels[:, ::-1])
    elif how == "few labels":
        np.save(folder / "target" / "1" / "trn_label.npy", np.eye(4)[[0, 1]])
    elif how == "pickled":
        np.save(folder / "target" / "1" / "trn_int2name.npy", np.array([{}], dtype=object), allow_pickle=True)
    elif how == "flat":
        with h5py.File(folder / "L" / "bert_large.h5", "r+") as file:
            first = next(iter(file))
            del file[first]
            file[first] = np.zeros(8)


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("no file", "denseface.h5: expected the features of `vision`. Found no file"),
        ("truncated", "comparE.h5: expected a readable HDF5 file"),
        ("no folds", "expected the folds 1 to 10. Found none"),
        ("three classes", r"expected one-hot labels \(N, 4\)"),
        ("two labels", "expected one label for .* in every fold"),
        ("few labels", "expected 32 labels, one per name. Found 2"),
        ("pickled", "trn_int2name.npy: expected a plain array"),
        ("flat", r"expected one dataset \(steps, features\) per utterance. Found shape \(8,\)"),
    ],
)
def test_feature_files_with_another_schema_are_refused(features: Path, tmp_path: Path, how: str, message: str) -> None:
    spoil_features(features, how)
    with pytest.raises(DataError, match=message):
        prepare("iemocap-features", features, tmp_path / "out")


def test_an_utterance_without_features_is_missing(features: Path, tmp_path: Path) -> None:
    import h5py

    with h5py.File(features / "V" / "denseface.h5", "r+") as file:
        del file[turn_name(1, "F", 4)]
        del file[turn_name(1, "F", 5)]
        file[turn_name(1, "F", 5)] = np.zeros((4, 3))
    report = prepare("iemocap-features", features, tmp_path / "out", max_missing=0.1)
    assert report.missing == 2
    reasons = {p["reason"] for p in manifest(tmp_path / "out")["unreadable"] if p["array"] == "vision"}
    assert f"has no dataset {turn_name(1, 'F', 4)}" in reasons
    assert any("(4, 3); (steps, 5) is expected" in reason for reason in reasons)


def test_the_order_of_the_classes_is_checked_on_the_whole_set() -> None:
    from equimodal.data.prepare.datasets._iemocap_features import KNOWN, IemocapFeatures, Parameters

    labels: dict[str, int] = {}
    for number, name in enumerate(("angry", "happy", "sad", "neutral")):
        labels |= {f"{name}{i}": number for i in range(KNOWN[name])}
    IemocapFeatures(Path(), Parameters())._check_counts(labels)
    wrong = Parameters(classes=("happy", "angry", "sad", "neutral"))
    with pytest.raises(DataError, match="Give them in another order"):
        IemocapFeatures(Path(), wrong)._check_counts(labels)
    with pytest.raises(DataError, match="`classes`: expected"):
        Parameters(classes=("happy", "sad"))
