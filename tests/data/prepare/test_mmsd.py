"""MMSD and MMSD2.0: lists as literals, two labels, discarded posts, holes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("PIL")

from equimodal.data import load, prepare
from equimodal.errors import DataError
from tests.data.prepare.pictures import cut, manifest, picture, rows, train_one_step, words_of

TRAIN: list[list[Any]] = [
    ["910000000000000001", "<user> thanks for showing up ! # great", 1],
    ["910000000000000002", 'it \'s a nice day , "really"', 0],
    ["910000000000000003", "i am pretending … emoji_92", 1],
    ["910000000000000004", "crème brûlée by the sea", 0],
    ["910000000000000005", "this sarcasm is left out", 1],
    ["910000000000000006", "see <url>", 1],
    ["910000000000000007", "sarcasms and jokers stay", 1],
]
VALID: list[list[Any]] = [
    ["920000000000000001", "whew ... <num> miles", 1, 1],
    ["920000000000000002", "gallery of the sea", 0, 1],
]
TEST: list[list[Any]] = [["930000000000000001", "oh , good .", 1, 0], ["930000000000000002", "a nice day", 0, 0]]


def write(root: Path) -> Path:
    """The lists as in the authors' repository, one Python list per line, and the images of one folder."""
    (root / "text").mkdir(parents=True)
    for name, posts in (("train", TRAIN), ("valid2", VALID), ("test2", TEST)):
        (root / "text" / f"{name}.txt").write_text("".join(f"{post!r}\n" for post in posts), encoding="utf-8")
        for number, post in enumerate(posts):
            picture(root / "dataset_image" / f"{post[0]}.jpg", (20 * number, 7, 80))
    return root


def write_corrected(root: Path) -> Path:
    """MMSD2.0: objects, in the repository's folders."""
    folder = root / "data" / "text_json_final"
    folder.mkdir(parents=True)
    for name, posts in (("train", TRAIN[:4]), ("valid", VALID), ("test", TEST)):
        entries = [
            {"image_id": int(str(post[0])), "text": f"{post[1]} fixed", "label": 1 - int(post[-1])} for post in posts
        ]
        (folder / f"{name}.json").write_text(json.dumps(entries))
        for post in posts:
            picture(root / "data" / "dataset_image" / f"{post[0]}.jpg")
    return root


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    return write(tmp_path / "raw")


def go(raw: Path, out: str = "out", **options: Any) -> Path:
    prepare.prepare("mmsd", raw, raw.parent / out, **{"workers": 0, "size": 8, "min_count": 1, **options})
    return raw.parent / out


def test_posts_become_samples_and_those_with_certain_words_do_not(raw: Path) -> None:
    out = go(raw)
    data = load(out)
    assert data.classes == ("not sarcastic", "sarcastic")
    assert data.parts == {"train": 5, "validation": 2, "test": 2}
    assert rows(out, "key").tolist() == [
        *(f"91000000000000000{n}" for n in (1, 2, 3, 4, 7)), *(f"92000000000000000{n}" for n in (1, 2)),
        *(f"93000000000000000{n}" for n in (1, 2)),
    ]  # fmt: skip
    assert rows(out, "sarcasm").tolist() == [1, 0, 1, 0, 1, 1, 1, 0, 0]
    assert manifest(out)["notes"]["posts_discarded"] == {"train": 2}
    assert manifest(out)["notes"]["images_not_used"] == 2


def test_validation_and_test_have_labels_by_people_and_by_hashtag(raw: Path) -> None:
    assert rows(go(raw, labels="hashtag"), "sarcasm").tolist() == [1, 0, 1, 0, 1, 1, 0, 1, 0]


def test_texts_and_pictures_are_those_of_the_post(raw: Path) -> None:
    out = go(raw)
    assert words_of(out, "910000000000000002") == ["it", "'", "s", "a", "nice", "day", ",", '"', "really", '"']
    assert words_of(out, "910000000000000001")[:2] == ["<user>", "thanks"]
    assert words_of(out, "920000000000000002") == ["<unk>", "<unk>", "the", "sea"]  # words of training alone
    np.testing.assert_allclose(rows(out, "image")[3].mean((1, 2)), (60, 7, 80), atol=6)


def test_the_corrected_version_has_its_own_texts_and_labels(tmp_path: Path) -> None:
    raw = write_corrected(tmp_path / "raw")
    out = go(raw, version="mmsd2")
    assert rows(out, "sarcasm").tolist() == [0, 1, 0, 1, 0, 0, 1, 1]
    assert words_of(out, "930000000000000002") == ["a", "nice", "day", "fixed"]
    assert load(out).parts == {"train": 4, "validation": 2, "test": 2}


def test_a_line_is_read_and_never_run(raw: Path, tmp_path: Path) -> None:
    trap = tmp_path / "trap"
    path = raw / "text" / "train.txt"
    lines = [
        f"__import__('pathlib').Path({str(trap)!r}).touch()",
        "['910000000000000009', 'no label']",
        "['x', 'no number', 1]",
        "['910000000000000010', 'label', 2]",
        "['910000000000000011', 'cut off",
        "[" * 10_000,
    ]
    path.write_text(path.read_text(encoding="utf-8") + "\n".join(lines) + "\n", encoding="utf-8")
    with pytest.raises(DataError, match=r"Found 6 of 15 .*train.txt: line 8: expected \['ID', 'text', label\]"):
        go(raw)
    assert not trap.exists()
    out = go(raw, max_missing=0.5)
    assert [p["reason"].split(":")[0] for p in manifest(out)["missing"]] == [f"line {n}" for n in range(8, 14)]


def test_a_post_that_is_listed_twice_is_refused(raw: Path) -> None:
    path = raw / "text" / "test2.txt"
    path.write_text(path.read_text(encoding="utf-8") + f"{[TRAIN[0][0], 'again', 1, 1]!r}\n", encoding="utf-8")
    with pytest.raises(DataError, match=r"test2.txt: line 3: expected a post that is listed once. Found 9100"):
        go(raw)


def test_holes_are_listed_and_left_out(raw: Path) -> None:
    (raw / f"dataset_image/{TRAIN[1][0]}.jpg").unlink()
    cut(picture(raw / f"dataset_image/{TEST[0][0]}.jpg", size=(60, 60)))
    with pytest.raises(DataError, match=r"Found 2 of 9 .*manifest.json lists them"):
        go(raw)
    out = go(raw, max_missing=0.3)
    reasons = {e["sample"]: e["reason"] for e in manifest(out)["unreadable"]}
    assert reasons[TRAIN[1][0]] == "no such file"
    assert "truncated" in reasons[TEST[0][0]]
    assert len(rows(out, "key")) == 7


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[{", "expected JSON. Found"),
        ('{"a": 1}', "expected a list of .* Found dict"),
        ('[{"image_id": 1, "text": "x", "label": "yes"}]', "entry 1: expected"),
    ],
)
def test_malformed_json_is_refused(content: str, message: str, tmp_path: Path) -> None:
    raw = write_corrected(tmp_path / "raw")
    (raw / "data/text_json_final/valid.json").write_text(content)
    with pytest.raises(DataError, match=message):
        go(raw, version="mmsd2")


def test_two_runs_give_the_same_bytes_and_the_bundle_trains(raw: Path) -> None:
    first = manifest(go(raw, "a"))["fingerprint"]
    assert manifest(go(raw, "b"))["fingerprint"] == first
    train_one_step(raw.parent / "a", 30522)


def test_a_wrong_folder_is_answered_with_what_is_there(raw: Path) -> None:
    with pytest.raises(DataError, match=r"expected text_json_final of MMSD .* Found dataset_image/, text/"):
        go(raw, version="mmsd2")
    (raw / "text" / "valid2.txt").unlink()
    with pytest.raises(DataError, match=r"expected text/valid2.txt of MMSD"):
        go(raw)


def test_parameters_are_checked(raw: Path) -> None:
    with pytest.raises(DataError, match="`version`: expected one of"):
        go(raw, version="3")
    with pytest.raises(DataError, match="`labels`: expected 'people' with version='mmsd2'"):
        go(raw, version="mmsd2", labels="hashtag")
