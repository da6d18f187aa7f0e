"""Is the bundle, and is the raw download, still what it was?"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from equimodal.data import prepare, write_bundle
from equimodal.errors import DataError
from tests.data.prepare.cremad import SMALL, write_cremad
from tests.data.prepare.toy import Toy, write_toy


@pytest.fixture
def out(tmp_path: Path) -> Path:
    prepare.prepare(Toy, write_toy(tmp_path / "raw"), tmp_path / "out", workers=0)
    return tmp_path / "out"


def test_nothing_changed(out: Path) -> None:
    report = prepare.check(out, out.parent / "raw")
    assert report.ok
    assert str(report).endswith("as it was made (7 files, 48 raw files, every protocol)")


def test_changed_files_of_the_bundle_are_found(out: Path) -> None:
    array = np.load(out / "a.npy", mmap_mode="r+")
    array[7, 2] += 1
    array.flush()
    (out / "label.npy").unlink()
    np.save(out / "extra.npy", np.zeros(3))
    with (out / "b.npy").open("ab") as file:
        file.write(b"1")
    problems = prepare.check(out).problems
    assert problems[:4] == (
        "a.npy: its content has changed",
        f"b.npy: {(out / 'b.npy').stat().st_size} bytes instead of {(out / 'b.npy').stat().st_size - 1}",
        "label.npy: missing",
        "extra.npy: not in the manifest",
    )
    assert "expected an array `label`" in problems[4]


def test_changed_raw_files_are_found(out: Path) -> None:
    raw = out.parent / "raw"
    (raw / "002.a").write_text("3", encoding="utf-8")
    (raw / "003.b").unlink()
    report = prepare.check(out, raw)
    assert report.problems == ("002.a: changed since the bundle was made", "003.b: missing")
    assert str(report).startswith(f"{out}: 2 problem(s)")
    assert prepare.check(out).ok
    assert prepare.check(out, raw / "nowhere").problems == (
        f"{raw / 'nowhere'}: expected the raw folder. Found no folder",
    )


def test_new_raw_files_are_found(tmp_path: Path) -> None:
    pytest.importorskip("av")
    raw = tmp_path / "raw"
    clips = write_cremad(raw, actors=3)
    moved = [(raw / "AudioWAV" / f"{clips[0]}.wav"), (raw / "VideoFlash" / f"{clips[1]}.flv")]
    contents = [path.read_bytes() for path in moved]
    for path in moved:
        path.unlink()
    prepare.prepare("crema-d", raw, tmp_path / "out", workers=0, max_missing=0.2, **SMALL)
    assert prepare.check(tmp_path / "out", raw).ok
    for path, content in zip(moved, contents):
        path.write_bytes(content)
    (raw / "AudioWAV" / "1001_ABC_SAD_HI.wav").write_bytes(contents[0])
    assert prepare.check(tmp_path / "out", raw).problems == (
        f"AudioWAV/{clips[0]}.wav: was not there when the bundle was made, and is now",
        f"VideoFlash/{clips[1]}.flv: was not there when the bundle was made, and is now",
        "AudioWAV/1001_ABC_SAD_HI.wav: new since the bundle was made",
    )


def test_bundles_of_other_origin(tmp_path: Path) -> None:
    split = ["train"] * 2 + ["validation"] * 2 + ["test"] * 2
    path = write_bundle(tmp_path / "own.npz", inputs={"a": np.eye(6)}, target=["no", "yes"] * 3, split=split)
    assert prepare.check(path).ok
    with pytest.raises(DataError, match="expected the manifest"):
        prepare.check(tmp_path, tmp_path)
    with pytest.raises(DataError, match="Found nothing there"):
        prepare.check(tmp_path / "nowhere")
    (tmp_path / "manifest.json").write_text("[", encoding="utf-8")
    with pytest.raises(DataError, match="expected a readable manifest"):
        prepare.check(tmp_path)
    (tmp_path / "manifest.json").write_text('{"format": 7}', encoding="utf-8")
    with pytest.raises(DataError, match="field `format`: expected 1. Found 7"):
        prepare.check(tmp_path)
