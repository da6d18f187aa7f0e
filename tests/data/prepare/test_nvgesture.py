"""NVGesture from lists and avi files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from equimodal.data import load, prepare
from equimodal.data.prepare.datasets._nvgesture import Parameters
from equimodal.errors import DataError, UnknownNameError
from tests.data.prepare.cremad import rows_of
from tests.data.prepare.media import cut, write_video

pytest.importorskip("av")
pytest.importorskip("cv2")
SMALL = {"frames": 4, "resize": 32, "size": 24}
START, END = 3, 11  # of the gesture in every video


def moving(level: int) -> list[np.ndarray]:
    """14 smooth frames (48, 64) that move 2 pixels to the right per frame, brighter with every frame."""
    x, y = np.meshgrid(np.arange(64), np.arange(48))
    return [
        np.repeat(
            (90 + level + 3 * t + 40 * np.sin((x - 2 * t) / 5) * np.cos(y / 7))
            .clip(0, 255)
            .astype(np.uint8)[..., None],
            3,
            2,
        )
        for t in range(14)
    ]


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> tuple[bytes, bytes]:
    folder = tmp_path_factory.mktemp("videos")
    color = write_video(folder / "c.avi", moving(0), 30, "mpeg4").read_bytes()
    depth = write_video(folder / "d.avi", [np.full((48, 64, 3), 10 * t, np.uint8) for t in range(14)], 30, "mjpeg")
    return color, depth.read_bytes()


@pytest.fixture
def raw(tmp_path: Path, videos: tuple[bytes, bytes]) -> Path:
    """25 classes; training of subjects 1 to 4, test of subject 5."""
    folder = tmp_path / "raw"
    lines: dict[str, list[str]] = {"train": [], "test": []}
    for label in range(1, 26):
        for subject in range(1, 6):
            place = f"./Video_data/class_{label:02}/subject{subject}_r0"
            (folder / place).mkdir(parents=True)
            (folder / place / "sk_color.avi").write_bytes(videos[0])
            (folder / place / "sk_depth.avi").write_bytes(videos[1])
            lines["test" if subject == 5 else "train"].append(
                f"path:{place} depth:sk_depth:{START}:{END} color:sk_color:{START}:{END} "
                f"duo_left:duo_left:161:254 label:{label}"
            )
    for part, own in lines.items():
        (folder / f"nvgesture_{part}_correct_cvpr2016.lst").write_text("old", encoding="utf-8")
        (folder / f"nvgesture_{part}_correct_cvpr2016_v2.lst").write_text("\n".join(own) + "\n", encoding="utf-8")
    return folder


def go(raw: Path, **options: Any) -> prepare.Report:
    return prepare.prepare("nvgesture", raw, raw.parent / "out", workers=0, **{**SMALL, **options})


def test_lists_decide_labels_parts_and_people(raw: Path) -> None:
    report = go(raw)
    data = load(report.path)
    assert report.samples == 125
    assert data.parts == {"train": 75, "validation": 25, "test": 25}
    assert data.protocol.verified
    assert "subject" in data.protocol.validation
    assert len(data.classes) == 25
    key, label, subject = (rows_of(report.path, n) for n in ("key", "gesture", "subject"))
    assert all(k == f"Video_data/class_{n + 1:02}/{s}_r0@00003" for k, n, s in zip(key, label, subject, strict=True))
    assert set(subject[data.test.rows.numpy()]) == {"subject5"}
    found = json.loads((report.path / "manifest.json").read_text(encoding="utf-8"))
    assert found["notes"]["lists"]["train"] == "nvgesture_train_correct_cvpr2016_v2.lst"


def test_frames_are_the_middle_ones_of_the_gesture(raw: Path) -> None:
    out = go(raw).path
    color, depth = rows_of(out, "color"), rows_of(out, "depth")
    assert color.dtype == np.uint8
    assert color.shape == (125, 3, 4, 24, 24)
    assert depth.dtype == np.uint8
    assert depth.shape == (125, 1, 4, 24, 24)
    # frames 3 to 10 are the gesture, of which 5, 6, 7 and 8 are in the middle
    np.testing.assert_allclose(depth[0, 0, :, 12, 12], [50, 60, 70, 80], atol=3)
    expected = moving(0)[5][:, :, 0]
    np.testing.assert_allclose(color[0, 1, 0].mean(), expected.mean(), atol=6)
    batch = load(out).test.batch([0])
    np.testing.assert_allclose(batch.inputs["depth"][0, 0, :, 12, 12], depth[4, 0, :, 12, 12] / 255, rtol=1e-5)


def test_computed_flow_is_the_movement(raw: Path) -> None:
    out = go(raw).path
    flow = rows_of(out, "flow")
    assert flow.dtype == np.float16
    assert flow.shape == (125, 2, 4, 24, 24)
    # 2 of 64 pixels per frame are 1 of 32
    assert abs(np.median(flow[0, 0]) - 1.0) < 0.3
    assert abs(np.median(flow[0, 1])) < 0.3
    np.testing.assert_array_equal(flow[0, :, 2], flow[0, :, 3])
    batch = load(out).test.batch([0])
    np.testing.assert_allclose(batch.inputs["flow"][0], flow[4].astype(np.float32) / 20, rtol=1e-5, atol=1e-7)


def test_given_flow(raw: Path) -> None:
    rng = np.random.default_rng(0)
    given: dict[str, list[np.ndarray]] = {"train": [], "test": []}
    for part, count in (("train", 100), ("test", 25)):
        folder = raw / "Video_data" / "flow_data" / part
        folder.mkdir(parents=True)
        for line in range(count):
            given[part].append(rng.uniform(-1, 1, (32, 32, 2, 8)).astype(np.float32))
            np.save(folder / f"{line}.npy", given[part][-1])
    np.save(raw / "Video_data" / "flow_data" / "train" / "7.npy", np.zeros((32, 31, 2, 8)))
    (raw / "Video_data" / "flow_data" / "train" / "8.npy").write_bytes(b"none")
    report = go(raw, flow="given", max_missing=0.05)
    assert report.missing == 2
    flow, key = rows_of(report.path, "flow"), rows_of(report.path, "key").tolist()
    row = key.index("Video_data/class_01/subject3_r0@00003")  # line 2 of the training list
    expected = given["train"][2][4:28, 4:28, :, 2:6].transpose(2, 3, 0, 1)
    np.testing.assert_allclose(flow[row], expected, atol=1e-3)
    assert not load(report.path).card.modalities["flow"].transforms


def test_holes_and_short_videos(raw: Path) -> None:
    (raw / "Video_data/class_01/subject1_r0/sk_depth.avi").unlink()
    cut(raw / "Video_data/class_03/subject2_r0/sk_color.avi", 0.4)
    path = raw / "nvgesture_train_correct_cvpr2016_v2.lst"
    lines = path.read_text(encoding="utf-8").splitlines()
    lines[2] = lines[2].replace(f":{START}:{END}", ":9:17")
    lines[7] = lines[7].replace(f":{START}:{END}", ":3:5")
    path.write_text("\n".join(lines), encoding="utf-8")
    report = go(raw, max_missing=0.05)
    found = json.loads((report.path / "manifest.json").read_text(encoding="utf-8"))
    reasons = {(p["sample"].split("/")[2], p["array"]): p["reason"] for p in found["unreadable"]}
    assert report.missing == 4
    assert reasons["subject1_r0@00003", "depth"] == "no such file"
    assert ("subject2_r0@00003", "color") in reasons
    assert ("subject2_r0@00003", "flow") in reasons
    assert reasons["subject3_r0@00009", "depth"] == "has 14 frames; frames 11 to 14 are asked for"
    assert reasons["subject4_r0@00003", "depth"] == "the list gives 2 frames, and 4 are asked for"


def test_somebody_in_both_lists_is_said_so(raw: Path) -> None:
    train, test = (raw / f"nvgesture_{p}_correct_cvpr2016_v2.lst" for p in ("train", "test"))
    lines = train.read_text(encoding="utf-8").splitlines()
    train.write_text("\n".join(lines[:-1]), encoding="utf-8")
    test.write_text(test.read_text(encoding="utf-8") + lines[-1], encoding="utf-8")
    assert load(go(raw).path).protocol.shared == {"subject": 1}


@pytest.mark.parametrize(
    "line",
    [
        "path:./Video_data/class_01/subject1_r0 depth:sk_depth:1:2 label:1",
        "path:./Video_data/class_01/subject1_r0 depth:sk_depth:1:2 color:sk_color:1 label:1",
        "path:./Video_data/class_01/subject1_r0 depth:sk_depth:1:2 color:sk_color:1:2 label:26",
        "path:./Video_data/class_01/someone depth:sk_depth:1:2 color:sk_color:1:2 label:2",
    ],
)
def test_wrong_lines_are_refused(raw: Path, line: str) -> None:
    path = raw / "nvgesture_train_correct_cvpr2016_v2.lst"
    path.write_text("\n" + line, encoding="utf-8")
    with pytest.raises(DataError, match=r"_v2.lst: line 2: expected path:"):
        go(raw)


def test_wrong_parameters_and_folders_are_refused(raw: Path) -> None:
    with pytest.raises(UnknownNameError, match="Did you mean 'given'"):
        Parameters(flow="giben")  # type: ignore[arg-type]
    with pytest.raises(DataError, match="`size`: expected at most `resize`"):
        Parameters(size=300)
    with pytest.raises(DataError, match="`frames`"):
        Parameters(frames=0)
    for path in raw.glob("nvgesture_test*"):
        path.unlink()
    with pytest.raises(DataError, match=r"expected nvgesture_test\*.lst. Found none"):
        go(raw)


def test_defaults_are_the_sizes_of_the_paper() -> None:
    arrays = prepare.get("nvgesture")(Path(), Parameters()).arrays()
    assert {n: a.shape for n, a in arrays.items()} == {
        "color": (3, 64, 224, 224),
        "flow": (2, 64, 224, 224),
        "depth": (1, 64, 224, 224),
    }
