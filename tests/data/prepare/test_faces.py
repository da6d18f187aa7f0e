"""Faces are found, cut out as squares, and stored with where they come from."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from equimodal.data import load, prepare
from equimodal.data.prepare.readers import _faces, resize
from equimodal.data.prepare.readers._faces import FOUND, NEIGHBOUR, WHOLE, Square, cut_faces, find_face, largest
from equimodal.errors import DataError, MissingExtraError
from tests.data.prepare.cremad import SMALL, rows_of, write_cremad
from tests.data.prepare.media import cut, write_video

data = pytest.importorskip("skimage.data")
pytest.importorskip("av")
pytest.importorskip("soxr")
Array = npt.NDArray[Any]
FACE = Square(65, 174, 103)  # of the photograph of 512 x 512 pixels; eyes and mouth are in it
CLIP = "1001_DFA_SAD_XX"


@pytest.fixture(scope="module")
def photograph() -> Array:
    """Eileen Collins, astronaut; NASA, public domain; a part of scikit-image."""
    picture: Array = data.astronaut()
    return picture


@pytest.mark.parametrize("size", [200, 320, 512, 900])
def test_the_face_of_a_photograph_in_any_size(photograph: Array, size: int) -> None:
    face = find_face(resize(photograph, size, size))
    assert face is not None
    np.testing.assert_allclose(np.array(face) * 512 / size, FACE, atol=13)


def test_the_face_moves_with_the_picture(photograph: Array) -> None:
    for top, left in ((0, 0), (40, 160)):
        frame = np.full((360, 480, 3), (60, 140, 70), np.uint8)
        frame[top : top + 320, left : left + 320] = resize(photograph, 320, 320)
        face = find_face(frame)
        assert face is not None
        np.testing.assert_allclose(face, (top + 41, left + 109, 64), atol=8)


def test_the_face_may_be_tilted_a_little(photograph: Array) -> None:
    image = pytest.importorskip("PIL.Image")
    for degrees, found in ((-10, True), (10, True), (-25, False), (25, False)):
        tilted = np.asarray(image.fromarray(photograph).rotate(degrees))
        assert (find_face(tilted) is not None) is found


def test_of_two_faces_the_larger_one(photograph: Array) -> None:
    frame = np.full((512, 512 + 256, 3), (60, 140, 70), np.uint8)
    frame[:256, :256] = resize(photograph, 256, 256)
    frame[:, 256:] = photograph
    face = find_face(frame)
    assert face is not None
    np.testing.assert_allclose(face, (FACE.top, FACE.left + 256, FACE.size), atol=13)


def test_pictures_without_a_face(photograph: Array) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (240, 320, 3)).astype(np.uint8)
    for frame in (photograph[256:], data.chelsea(), data.coffee(), noise, noise[:8, :8], np.zeros_like(noise)):
        assert find_face(np.ascontiguousarray(frame)) is None


def test_the_face_does_not_depend_on_the_order_of_the_windows() -> None:
    rng = np.random.default_rng(0)
    windows = np.concatenate([rng.integers((0, 0, 90), (9, 9, 99), (9, 3)), rng.integers(100, 109, (7, 3))])
    face = largest(windows)
    assert face is not None
    assert face.top >= 100
    np.testing.assert_allclose(face, windows[9:].mean(0), atol=1e-9)
    for _ in range(5):
        assert largest(rng.permutation(windows)) == face


def test_windows_agree_when_they_share_half_of_their_union() -> None:
    shift = np.array([[0, 0, 30], [0, 8, 30], [0, 12, 30]])
    # 30 * 22 of 30 * 38, and 30 * 18 of 30 * 42
    expected = [[1, 22 / 38, 18 / 42], [22 / 38, 1, 26 / 34], [18 / 42, 26 / 34, 1]]
    np.testing.assert_allclose(_faces._overlap(shift.astype(float)), expected)
    assert largest(np.array([[5, 7, 40]] * 5)) is None
    assert largest(np.array([[5, 7, 40]] * 6)) == (5, 7, 40)
    assert largest(np.empty((0, 3), np.int64)) is None


def with_faces(monkeypatch: pytest.MonkeyPatch, faces: list[Square | None]) -> list[Array]:
    """Frames (40, 60) whose pixels hold row, column and number, in which these faces are found."""
    rows, columns = np.mgrid[:40, :60]
    frames = [np.stack([rows, columns, np.full_like(rows, i)], -1).astype(np.uint8) for i in range(len(faces))]
    monkeypatch.setattr(_faces, "find_face", lambda frame: faces[frame[0, 0, 2]])
    return frames


def corners(frame: Array) -> tuple[list[int], list[int]]:
    """Row and column of the first and of the last pixel."""
    return frame[0, 0, :2].tolist(), frame[-1, -1, :2].tolist()


def test_squares_have_a_margin_and_stay_within_the_frame(monkeypatch: pytest.MonkeyPatch) -> None:
    faces = [Square(10, 20, 12), Square(1, 2, 12), Square(27, 47, 12), Square(2, 5, 36)]
    found = cut_faces(with_faces(monkeypatch, list(faces)), 0.25)
    assert found.origin.tolist() == [FOUND] * 4
    assert corners(found.frames[0]) == ([7, 17], [24, 34])  # 12 + 2 * 3
    assert corners(found.frames[1]) == ([0, 0], [17, 17])
    assert corners(found.frames[2]) == ([22, 42], [39, 59])
    assert corners(found.frames[3]) == ([0, 3], [39, 42])  # 54 would not fit into 40 rows
    exact = cut_faces(with_faces(monkeypatch, list(faces)), 0.0)
    assert corners(exact.frames[0]) == ([10, 20], [21, 31])


def test_a_frame_without_a_face_takes_that_of_the_nearest(monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = Square(0, 0, 10), Square(20, 30, 10)
    found = cut_faces(with_faces(monkeypatch, [None, first, None, second, None, None]), 0)
    assert found.origin.tolist() == [NEIGHBOUR, FOUND, NEIGHBOUR, FOUND, NEIGHBOUR, NEIGHBOUR]
    assert [frame[0, 0, 0] for frame in found.frames] == [0, 0, 0, 20, 20, 20]  # of two, the earlier
    assert [frame[0, 0, 2] for frame in found.frames] == list(range(6))  # the pixels are its own
    frames = with_faces(monkeypatch, [None, None])
    whole = cut_faces(frames, 0.25)
    assert whole.origin.tolist() == [WHOLE, WHOLE]
    assert all(a is b for a, b in zip(whole.frames, frames, strict=True))


@pytest.fixture
def raw(tmp_path: Path, photograph: Array) -> Path:
    """A small CREMA-D; one clip shows the photograph for 0.2 s, and then nothing."""
    write_cremad(tmp_path / "raw", 3)
    frames = [resize(photograph, 360, 360)] * 6 + [np.full((360, 360, 3), 90, np.uint8)] * 6
    write_video(tmp_path / "raw" / "VideoFlash" / f"{CLIP}.flv", frames, 30, "flv")
    return tmp_path / "raw"


def go(raw: Path, out: str, **options: Any) -> Path:
    given = {**SMALL, "size": 32, "workers": 0, **options}
    return prepare.prepare("crema-d", raw, raw.parent / out, **given).path


def test_crema_d_with_faces(raw: Path, photograph: Array) -> None:
    whole, faces = go(raw, "whole"), go(raw, "faces", crop="face", margin=0.1)
    row = rows_of(faces, "key").tolist().index(CLIP)
    origin, video = rows_of(faces, "face"), rows_of(faces, "video")
    assert origin[row].tolist() == [FOUND, NEIGHBOUR]
    others = np.arange(len(origin)) != row
    assert (origin[others] == WHOLE).all()
    np.testing.assert_array_equal(video[others], rows_of(whole, "video")[others])
    np.testing.assert_array_equal(rows_of(faces, "audio"), rows_of(whole, "audio"))
    margin = round(0.1 * FACE.size)
    top, left, size = int(FACE.top) - margin, int(FACE.left) - margin, int(FACE.size) + 2 * margin
    expected = resize(photograph[top : top + size, left : left + size], 32, 32).transpose(2, 0, 1).astype(int)
    assert np.abs(video[row, :, 0] - expected).mean() < 20
    assert np.abs(rows_of(whole, "video")[row, :, 0] - expected).mean() > 50
    assert np.abs(video[row, :, 1].astype(int) - 90).max() < 8
    assert load(faces).modalities.keys() == {"audio", "video"}
    found = json.loads((faces / "manifest.json").read_text(encoding="utf-8"))
    assert (found["parameters"]["crop"], found["parameters"]["margin"]) == ("face", 0.1)
    assert "skimage" in found["versions"]
    assert "skimage" not in json.loads((whole / "manifest.json").read_text(encoding="utf-8"))["versions"]


def test_a_clip_without_a_readable_video_can_be_kept(raw: Path) -> None:
    cut(raw / "VideoFlash" / f"{CLIP}.flv", 0.3)
    out = go(raw, "kept", crop="face", incomplete="keep", max_missing=0.1)
    row = rows_of(out, "key").tolist().index(CLIP)
    present = rows_of(out, "present_video")
    assert not present[row]
    assert present.sum() == 17


def test_processes_give_the_same_bytes(raw: Path) -> None:
    one, other = go(raw, "one", crop="face"), go(raw, "other", crop="face", workers=2)
    assert (one / "face.npy").read_bytes() == (other / "face.npy").read_bytes()
    assert (one / "video.npy").read_bytes() == (other / "video.npy").read_bytes()


def test_what_is_missing_or_wrong_is_said_before_work_begins(raw: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DataError, match=r"`crop`: expected one of \['none', 'face'\]. Found 'mouth'"):
        go(raw, "out", crop="mouth")
    with pytest.raises(DataError, match=r"`margin`: expected a number from 0 to 2.*Found -1"):
        go(raw, "out", crop="face", margin=-1)
    monkeypatch.setitem(sys.modules, "skimage", None)
    with pytest.raises(MissingExtraError, match="scikit-image"):
        go(raw, "out", crop="face")
    assert not (raw.parent / "out.partial").exists()
    assert go(raw, "out").is_dir()
