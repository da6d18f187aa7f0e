"""Kinetics-Sounds from folders of clips, or with the csv files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from equimodal.data import load, prepare
from equimodal.errors import DataError
from tests.data.prepare.cremad import rows_of
from tests.data.prepare.media import cut, flat_frames, tone, write_video

pytest.importorskip("av")
pytest.importorskip("soxr")
SMALL = {"sample_rate": 4000, "seconds": 1.0, "n_fft": 64, "hop": 100, "size": 8, "frames": 2, "fps": 2.0}
CLASSES = prepare.get("kinetics-sounds").facts.classes
PARTS = {"train": 6, "val": 1, "test": 1}  # six: 10 % of them is one


def clip_name(number: int, part: str, copy: int) -> str:
    return f"{part[:2]}_{number:02}_{copy:05}_000010_000020"


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """One real clip per class."""
    folder = tmp_path_factory.mktemp("clips")
    made = {}
    for number, label in enumerate(CLASSES):
        frames = flat_frames([6 * number] * 10, 16, 24)
        path = write_video(folder / "clip.mp4", frames, 10, "h264", tone(1.0, 16000, 200 + 50 * number), 16000)
        made[label] = path.read_bytes()
    return made


@pytest.fixture
def raw(tmp_path: Path, clips: dict[str, bytes]) -> Path:
    """Class folders; every other with underscores."""
    for number, label in enumerate(CLASSES):
        for part, copies in PARTS.items():
            folder = tmp_path / "raw" / part / (label.replace(" ", "_") if number % 2 else label)
            folder.mkdir(parents=True)
            for copy in range(copies):
                (folder / f"{clip_name(number, part, copy)}.mp4").write_bytes(clips[label])
    return tmp_path / "raw"


def go(raw: Path, **options: Any) -> prepare.Report:
    return prepare.prepare("kinetics-sounds", raw, raw.parent / "out", workers=0, **{**SMALL, **options})


def write_csv(folder: Path, part: str, extra: tuple[str, ...] = (), split: str = "") -> None:
    folder.mkdir(exist_ok=True)
    lines = ["label,youtube_id,time_start,time_end,split"]
    for number, label in enumerate(CLASSES):
        copies = range(PARTS[split or part])
        lines += [f"{label},{clip_name(number, split or part, copy)[:11]},10,20,{part}" for copy in copies]
    (folder / f"{part}.csv").write_text("\n".join([*lines, *extra]) + "\n", encoding="utf-8")


def test_class_folders(raw: Path) -> None:
    (raw / "train" / "abseiling").mkdir()
    (raw / "train" / "abseiling" / "xx_00_00000_000010_000020.mp4").write_bytes(b"another class of Kinetics")
    (raw / "train" / "bowling" / "notes.mp4").write_bytes(b"wrong name")
    report = go(raw)
    assert (report.samples, report.missing) == (31 * 8, 0)
    action, part, key = (rows_of(report.path, n) for n in ("action", "part", "key"))
    assert [f"{a:02}" for a in action] == [k[3:5] for k in key]
    assert {p[:2] for p in part} == {"tr", "va", "te"}
    np.testing.assert_allclose(rows_of(report.path, "video")[:, 0, 0, 4, 1], 6 * action, atol=4)
    loudest = rows_of(report.path, "audio")[:, 0, :, 20].argmax(1) * 4000 / 64
    np.testing.assert_allclose(loudest, 200 + 50 * action, atol=65)
    found = json.loads((report.path / "manifest.json").read_text(encoding="utf-8"))
    assert found["notes"]["found"]["bowling"] == {"train": 6, "validation": 1, "test": 1}
    assert [p["path"] for p in found["ignored"]] == ["train/bowling/notes.mp4"]
    assert load(report.path).parts == {"train": 186, "validation": 31, "test": 31}


def test_without_test_clips_validation_is_the_test(raw: Path) -> None:
    for path in (raw / "test").rglob("*.mp4"):
        path.unlink()
    report = go(raw)
    data = load(report.path)
    assert list(data.card.protocols) == ["train-val"]
    assert data.protocol.verified
    assert data.parts["test"] == 31
    assert data.parts["train"] + data.parts["validation"] == 186


def test_csv_files_make_missing_clips_known(raw: Path) -> None:
    lists = raw.parent / "csv"
    write_csv(lists, "train", ("abseiling,aaaaaaaaaaa,1,11,train", "bowling,bbbbbbbbbbb,3,13,train"))
    write_csv(lists, "validate", split="val")
    flat = raw.parent / "flat"
    flat.mkdir()
    for path in raw.rglob("*.mp4"):
        path.rename(flat / path.name)
    gone = flat / f"{clip_name(3, 'train', 1)}.mp4"
    gone.unlink()
    (flat / f"{clip_name(4, 'train', 1)}.mp4").rename(
        flat / f"{clip_name(4, 'train', 1)[:11]}.mkv"
    )  # without its times
    cut(flat / f"{clip_name(5, 'train', 2)}.mp4", 0.5)
    report = go(flat, annotations=str(lists))
    assert (report.expected, report.samples, report.missing) == (186 + 1 + 31, 215, 3)
    found = json.loads((report.path / "manifest.json").read_text(encoding="utf-8"))
    reason = "in train.csv, and nowhere in the source folder"
    assert found["missing"] == [
        {"path": gone.stem, "reason": reason},
        {"path": "bbbbbbbbbbb_000003_000013", "reason": reason},
    ]
    assert {p["path"] for p in found["unreadable"]} == {f"{clip_name(5, 'train', 2)}.mp4"}
    assert prepare.check(report.path, flat).ok


def test_more_than_the_default_share_may_not_be_missing(raw: Path) -> None:
    lists = raw.parent / "csv"
    write_csv(lists, "train")
    write_csv(lists, "val")
    for path in list((raw / "train").rglob("*.mp4"))[:70]:
        path.unlink()
    with pytest.raises(DataError, match=r"at most 30.00%.*Found 70 of 217"):
        go(raw, annotations=str(lists))
    assert not (raw.parent / "out.partial").exists()


def test_a_clip_twice_is_taken_once_and_a_video_on_both_sides_is_said_so(raw: Path) -> None:
    twice, cut_twice = (raw / "train" / "bowling" / f"{clip_name(2, 'train', copy)}.mp4" for copy in (0, 1))
    validation = raw / "val" / "bowling"
    (validation / twice.name).write_bytes(twice.read_bytes())
    (validation / f"{cut_twice.name[:11]}_000030_000040.mp4").write_bytes(cut_twice.read_bytes())
    report = go(raw)
    assert report.samples == 31 * 8 + 1
    found = json.loads((report.path / "manifest.json").read_text(encoding="utf-8"))
    assert [p["path"] for p in found["ignored"]] == [f"val/bowling/{twice.name}"]
    assert "the same clip as train/bowling" in found["ignored"][0]["reason"]
    assert load(report.path, protocol="kinetics").protocol.shared == {"youtube": 1}


def test_wrong_folders_and_lists_are_refused(raw: Path) -> None:
    (raw.parent / "other" / "train" / "abseiling").mkdir(parents=True)
    (raw.parent / "other" / "train" / "abseiling" / "aaaaaaaaaaa.mp4").write_bytes(b"1")
    with pytest.raises(DataError, match="Found 1 video files, none of them of its 31 classes"):
        go(raw.parent / "other")
    with pytest.raises(DataError, match=r"Found only \['train'\]"):
        go(_only_train(raw))
    lists = raw.parent / "csv"
    lists.mkdir()
    with pytest.raises(DataError, match="`annotations`: expected a folder with train.csv"):
        go(raw, annotations=str(lists))
    (lists / "train.csv").write_text("label,youtube_id\nbowling,a\n", encoding="utf-8")
    with pytest.raises(DataError, match="expected the columns"):
        go(raw, annotations=str(lists))
    (lists / "train.csv").write_text("label,youtube_id,time_start,time_end\nbowling,a,x,2\n", encoding="utf-8")
    with pytest.raises(DataError, match="line 2: expected times in seconds"):
        go(raw, annotations=str(lists))


def _only_train(raw: Path) -> Path:
    folder = raw.parent / "only"
    folder.mkdir()
    (raw / "train").rename(folder / "train")
    return folder


def test_labels(tmp_path: Path) -> None:
    for part, copies in PARTS.items():
        for copy in range(copies):
            for folder in ("Playing_Bass_Guitar", "playing bass"):
                path = tmp_path / part / folder / f"{clip_name(len(folder), part, copy)}.mp4"
                path.parent.mkdir(parents=True, exist_ok=True)
                path.touch()
    kind = prepare.get("kinetics-sounds")
    items = kind(tmp_path, kind.Parameters()).index().items
    assert len(items) == 8
    assert {item.columns["action"] for item in items} == {CLASSES.index("playing bass guitar")}
    assert len(CLASSES) == len(set(CLASSES)) == 31
    assert list(CLASSES) == sorted(CLASSES)
