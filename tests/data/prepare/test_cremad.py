"""CREMA-D from wav and flv files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from equimodal.data import load, loader, prepare
from equimodal.data.prepare.datasets._cremad import CLASSES, Parameters
from equimodal.data.prepare.datasets._splits import hash_parts
from equimodal.errors import DataError
from tests.data.prepare.cremad import SMALL, rows_of, write_cremad, write_lists
from tests.data.prepare.media import cut, tone, write_wav

pytest.importorskip("av")
pytest.importorskip("soxr")
TEST_ACTORS = [
    "1011", "1012", "1019", "1021", "1034", "1036", "1048", "1054", "1055", "1057", "1068", "1070", "1080",
]  # fmt: skip


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cremad")
    lists = write_lists(folder / "lists", write_cremad(folder / "raw"))
    prepare.prepare("crema-d", folder / "raw", folder / "out", workers=0, lists=str(lists), **SMALL)
    return folder


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    write_cremad(tmp_path / "raw", 3)
    return tmp_path / "raw"


def go(raw: Path, **options: Any) -> prepare.Report:
    return prepare.prepare("crema-d", raw, raw.parent / "out", workers=0, **{**SMALL, **options})


def test_labels_and_actors_are_those_of_the_names(made: Path) -> None:
    out = made / "out"
    for key, label, actor in zip(rows_of(out, "key"), rows_of(out, "emotion"), rows_of(out, "actor"), strict=True):
        assert key == f"{actor}_DFA_{('NEU', 'HAP', 'SAD', 'FEA', 'DIS', 'ANG')[label]}_XX"
    assert load(out).classes == CLASSES == ("neutral", "happy", "sad", "fear", "disgust", "anger")


def test_frames_and_sound_are_those_of_the_clip(made: Path) -> None:
    out = made / "out"
    emotion, actor = rows_of(out, "emotion"), rows_of(out, "actor").astype(int)
    video, audio = rows_of(out, "video"), rows_of(out, "audio")
    assert video.dtype == np.uint8
    assert video.shape[1:] == (3, 2, 16, 16)
    expected = 20 + 30 * emotion + (actor - 1001)
    np.testing.assert_allclose(video[:, 0, 0, 8, 3], expected, atol=4)
    np.testing.assert_allclose(video[:, 0, 1, 8, 12], expected + 20, atol=4)
    assert audio.dtype == np.float32
    assert audio.shape[1:] == (1, 33, 41)
    # the loudest of 33 bands of 62.5 Hz each holds the pitch of the emotion
    loudest = audio[:, 0, :, 20].argmax(1) * 4000 / 64
    np.testing.assert_allclose(loudest, 300 + 200 * emotion, atol=63)


def test_defaults_are_the_sizes_of_the_papers() -> None:
    arrays = prepare.get("crema-d")(Path(), Parameters()).arrays()
    assert arrays["audio"].shape == (1, 257, 188)
    assert arrays["video"].shape == (3, 3, 224, 224)


def test_loaded_frames_are_normalised(made: Path) -> None:
    data = load(made / "out")
    batch = next(iter(loader(data.test, 4, seed=0)))
    row = int(batch.index[0]) if batch.index is not None else 0
    stored = rows_of(made / "out", "video")[row].astype(np.float64) / 255
    mean, deviation = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    expected = (stored - mean[:, None, None, None]) / deviation[:, None, None, None]
    np.testing.assert_allclose(batch.inputs["video"][0], expected, atol=1e-4)
    assert data.modalities["video"].kind == "video"


def test_actors_of_the_default_protocol_are_disjoint(made: Path) -> None:
    data = load(made / "out")
    assert data.protocol.name == "speaker-independent"
    assert data.protocol.verified
    actors = rows_of(made / "out", "actor")
    parts = [set(actors[part.rows.numpy()]) for part in (data.train, data.validation, data.test)]
    assert [len(p) for p in parts] == [6, 1, 1]
    assert not parts[0] & parts[1]
    assert not parts[0] & parts[2]
    assert not parts[1] & parts[2]


def test_speaker_independent_parts_of_all_91_actors() -> None:
    actors = [str(n) for n in range(1001, 1092)]
    parts = hash_parts("crema-d", actors, one_in=7)
    assert parts == hash_parts("crema-d", actors[::-1], one_in=7)
    counts = [list(parts.values()).count(p) for p in ("train", "validation", "test")]
    assert counts == [65, 13, 13]
    # fixed for ever: the split is named, so it may not change
    test = sorted(a for a, p in parts.items() if p == "test")
    assert test == TEST_ACTORS


def test_shared_lists_are_marked_as_overlapping(made: Path) -> None:
    data = load(made / "out", protocol="shared")
    assert not data.protocol.disjoint
    assert data.protocol.shared == {"actor": 8}
    assert "OVERLAPPING: 8 actor" in str(data.protocol)
    assert data.parts == {"train": 33, "validation": 3, "test": 12}
    again = load(made / "out", protocol="shared")
    assert again.validation.rows.equal(data.validation.rows)
    key = rows_of(made / "out", "key")
    listed = (made / "lists" / "test.csv").read_text(encoding="utf-8-sig").split()
    assert sorted(key[data.test.rows.numpy()]) == sorted(line.split(",")[0] for line in listed)


def test_holes_corrupt_files_and_wrong_names(tmp_path: Path) -> None:
    raw = tmp_path / "raw"
    write_cremad(raw, 6)
    sound, video = raw / "AudioWAV", raw / "VideoFlash"
    (sound / "1001_DFA_SAD_XX.wav").unlink()
    cut(sound / "1002_DFA_SAD_XX.wav", 0.5)
    cut(video / "1001_DFA_ANG_XX.flv", 0.3)
    (video / "1002_DFA_ANG_XX.flv").write_bytes(b"FLV" + bytes(range(200)))
    (video / "1003_DFA_ANG_XX.flv").write_text("version https://git-lfs.github.com/spec/v1\n", encoding="utf-8")
    (sound / "1003_DFA_SAD.wav").write_bytes(b"1")
    (sound / "Thumbs.db").write_bytes(b"1")
    with pytest.raises(DataError, match="Found 5 of 36"):
        go(raw)
    report = go(raw, max_missing=0.3)
    found = json.loads((report.path / "manifest.json").read_text(encoding="utf-8"))
    reasons = {p["path"]: p["reason"] for p in found["unreadable"]}
    assert list(reasons) == [
        "VideoFlash/1001_DFA_ANG_XX.flv",
        "AudioWAV/1001_DFA_SAD_XX.wav",
        "VideoFlash/1002_DFA_ANG_XX.flv",
        "AudioWAV/1002_DFA_SAD_XX.wav",
        "VideoFlash/1003_DFA_ANG_XX.flv",
    ]
    assert reasons["AudioWAV/1001_DFA_SAD_XX.wav"] == "no such file"
    assert "ends after" in reasons["AudioWAV/1002_DFA_SAD_XX.wav"]
    assert "ends after" in reasons["VideoFlash/1001_DFA_ANG_XX.flv"]
    assert "Git LFS" in reasons["VideoFlash/1003_DFA_ANG_XX.flv"]
    assert [p["path"] for p in found["ignored"]] == ["AudioWAV/1003_DFA_SAD.wav", "AudioWAV/Thumbs.db"]
    assert found["notes"] == {"actors": 6, "clips": 36}
    assert report.samples == 31


def test_the_old_name_of_one_file_is_understood(raw: Path) -> None:
    write_wav(raw / "AudioWAV" / "1001_ITH_SAD_X.wav", tone(0.4, 8000), 8000)
    (raw / "VideoFlash" / "1001_DFA_SAD_XX.flv").rename(raw / "VideoFlash" / "1001_ITH_SAD_XX.flv")
    (raw / "AudioWAV" / "1001_DFA_SAD_XX.wav").unlink()
    report = go(raw)
    assert report.missing == 0
    assert "1001_ITH_SAD_XX" in rows_of(report.path, "key")


def test_wrong_folders_and_lists_are_refused(raw: Path) -> None:
    with pytest.raises(DataError, match=r"AudioWAV: expected the folder of CREMA-D. Found no folder"):
        go(raw / "AudioWAV")
    lists = raw.parent / "lists"
    lists.mkdir()
    with pytest.raises(DataError, match="`lists`: expected a folder with train.csv and test.csv"):
        go(raw, lists=str(lists))
    (lists / "test.csv").write_text("1001_DFA_SAD_XX,SAD\n", encoding="utf-8")
    (lists / "train.csv").write_text("1001_DFA_SAD_XX,ANG\n", encoding="utf-8")
    with pytest.raises(DataError, match=r"train.csv: line 1: expected CLIP,EMOTION"):
        go(raw, lists=str(lists))
    (lists / "train.csv").write_text("1001_DFA_SAD_XX,SAD\n", encoding="utf-8")
    with pytest.raises(DataError, match=r"test.csv: line 1: expected a clip that is not in train.csv"):
        go(raw, lists=str(lists))
    (lists / "train.csv").write_text("1099_DFA_SAD_XX,SAD\n", encoding="utf-8")
    with pytest.raises(DataError, match=r"Found 1 of 19 .*first AudioWAV/1099_DFA_SAD_XX.wav: in train.csv"):
        go(raw, lists=str(lists))
    with pytest.raises(DataError, match="`fps`: expected a number above 0"):
        go(raw, fps=0)


def test_two_actors_cannot_be_split_by_speaker(tmp_path: Path) -> None:
    write_cremad(tmp_path / "raw", 2)
    with pytest.raises(DataError, match="at least 3 actors, or `lists`"):
        go(tmp_path / "raw")
