"""MVSA-Single: the rule for two labels, encodings, split at random and by lists, holes."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("PIL")

from equimodal.data import load, prepare
from equimodal.errors import DataError
from tests.data.prepare.pictures import cut, manifest, picture, rows, train_one_step, words_of

# the nine pairs of labels, and what the rule makes of them
RULE = {
    ("positive", "positive"): "positive",
    ("neutral", "positive"): "positive",
    ("positive", "neutral"): "positive",
    ("negative", "negative"): "negative",
    ("neutral", "negative"): "negative",
    ("negative", "neutral"): "negative",
    ("neutral", "neutral"): "neutral",
    ("positive", "negative"): None,
    ("negative", "positive"): None,
}
TWEETS = [
    b"RT @x: Beautiful day! #sun http://t.co/1",
    b"so sad \xa1\xad http:/\xa1\xad",  # GB 18030, as about every eighth published text
    "Crème brûlée ❤".encode(),
    b"caf\xe9 at 8",  # Latin-1
]


def write(root: Path, copies: int = 10) -> Path:
    """``copies`` tweets with each pair of labels, numbered from 1 as in the published archive."""
    lines, number = ["ID\ttext,image"], 0
    for _ in range(copies):
        for text, image in RULE:
            number += 1
            picture(root / "data" / f"{number}.jpg", (number % 200, 40, 90))
            (root / "data" / f"{number}.txt").write_bytes(TWEETS[number % 4] + b"\n")
            lines.append(f"{number}\t{text},{image}")
    (root / "labelResultAll.txt").write_bytes("\r\n".join(lines).encode() + b"\r\n")
    return root


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    return write(tmp_path / "raw")


def go(raw: Path, out: str = "out", **options: Any) -> Path:
    small = {"workers": 0, "size": 8, "shorter": 0, "min_count": 1}
    prepare.prepare("mvsa-single", raw, raw.parent / out, **{**small, **options})
    return raw.parent / out


def test_two_labels_become_one_or_the_tweet_is_left_out(raw: Path) -> None:
    out = go(raw)
    data = load(out)
    assert data.classes == ("negative", "neutral", "positive")
    pairs = list(RULE)
    for key, label in zip(rows(out, "key"), rows(out, "sentiment"), strict=True):
        assert data.classes[label] == RULE[pairs[(int(key) - 1) % 9]]
    assert Counter(rows(out, "sentiment").tolist()) == {2: 30, 0: 30, 1: 10}
    reasons = [entry["reason"] for entry in manifest(out)["ignored"]]
    assert Counter(reasons) == {"text positive, image negative": 10, "text negative, image positive": 10}


def test_both_labels_are_targets_of_their_own(raw: Path) -> None:
    out = go(raw)
    row = rows(out, "key").tolist().index("00002")  # neutral, positive
    assert (rows(out, "sentiment_of_text")[row], rows(out, "sentiment_of_image")[row]) == (1, 2)
    assert load(out, target="sentiment_of_text").classes == ("negative", "neutral", "positive")


def test_only_equal_labels_on_request(raw: Path) -> None:
    out = go(raw, labels="agree")
    assert Counter(rows(out, "sentiment").tolist()) == {0: 10, 1: 10, 2: 10}


def test_the_random_split_is_stratified_and_follows_the_seed(raw: Path) -> None:
    out = go(raw)
    split, label = rows(out, "split"), rows(out, "sentiment")
    for part in ("validation", "test"):
        assert np.bincount(label[split == part]).tolist() == [3, 1, 3]
    data = load(out)
    assert data.protocol.name == "random"
    assert data.parts == {"train": 56, "validation": 7, "test": 7}
    other = go(raw, "other", seed=1)
    assert (rows(other, "split") != split).any()
    np.testing.assert_array_equal(rows(other, "sentiment"), label)


def test_texts_are_decoded_and_their_encodings_counted(raw: Path) -> None:
    out = go(raw)
    assert words_of(out, "00001") == ["so", "sad", "…", "http", ":", "/", "…"]
    assert words_of(out, "00002") == ["crème", "brûlée", "❤"]
    assert words_of(out, "00003") == ["café", "at", "8"]
    found = manifest(out)["notes"]["encodings"]
    used = [int(key) % 4 for key in rows(out, "key")]
    expected = {"cp1252": used.count(3), "gb18030": used.count(1), "utf-8": used.count(0) + used.count(2)}
    assert found == expected


def test_the_centre_of_the_picture_is_stored(raw: Path) -> None:
    picture(raw / "data" / "1.jpg", (9, 180, 70), size=(64, 32))
    out = go(raw, shorter=16)
    pixels = rows(out, "image")[0]
    assert pixels.shape == (3, 8, 8)
    np.testing.assert_allclose(pixels.mean((1, 2)), (9, 180, 70), atol=6)


def test_holes_are_listed_and_left_out(raw: Path) -> None:
    (raw / "data/1.jpg").unlink()
    cut(picture(raw / "data/2.jpg", size=(60, 60)))
    (raw / "data/3.txt").write_bytes(b"")
    (raw / "data/4.txt").write_bytes(b" \r\n")
    (raw / "data/5.txt").unlink()
    picture(raw / "data/999.jpg")
    (raw / "data/notes.doc").write_bytes(b"x")
    with (raw / "labelResultAll.txt").open("ab") as file:
        file.write(b"91\tpositive\r\n92\tpositive,angry\r\n")
    with pytest.raises(DataError, match=r"at most 1.00%"):
        go(raw)
    out = go(raw, max_missing=0.2)
    found = manifest(out)
    reasons = {entry["path"]: entry["reason"] for entry in found["unreadable"]}
    assert reasons["data/1.jpg"] == reasons["data/5.txt"] == "no such file"
    assert "truncated" in reasons["data/2.jpg"]
    assert reasons["data/3.txt"] == "an empty file"
    assert reasons["data/4.txt"] == "a text of white space"
    assert [p["reason"].split(":")[0] for p in found["missing"]] == ["line 92", "line 93"]
    assert found["counts"]["missing"] == 7
    ignored = {entry["path"]: entry["reason"] for entry in found["ignored"]}
    assert ignored["data/999.jpg"] == "not in labelResultAll.txt"
    assert ignored["data/notes.doc"] == "expected .jpg or .txt"
    assert not {"00001", "00002", "00003", "00004", "00005"} & set(rows(out, "key").tolist())


def test_a_tweet_without_text_or_picture_can_be_kept(raw: Path) -> None:
    (raw / "data/1.jpg").unlink()
    (raw / "data/2.txt").unlink()
    out = go(raw, max_missing=0.1, incomplete="keep")
    assert manifest(out)["counts"] | {"ignored": 0} == {
        "expected": 70, "samples": 70, "incomplete": 2, "missing": 0, "ignored": 0,
    }  # fmt: skip
    keys = rows(out, "key").tolist()
    assert [keys[i] for i in np.flatnonzero(~rows(out, "present_image"))] == ["00001"]
    assert [keys[i] for i in np.flatnonzero(~rows(out, "present_text"))] == ["00002"]
    train_one_step(out, 30522)


def lists(raw: Path, parts: dict[str, list[tuple[int, str]]]) -> str:
    """As in the repository of QMF."""
    folder = raw.parent / "lists"
    folder.mkdir(exist_ok=True)
    for part, entries in parts.items():
        text = "".join(
            json.dumps({"id": str(n), "label": label, "text": "x", "img": f"data/{n}.jpg"}) + "\n"
            for n, label in entries
        )
        (folder / f"{part}.jsonl").write_text(text)
    return str(folder)


def test_lists_of_a_paper_take_the_place_of_the_random_split(raw: Path) -> None:
    train = [(1, "positive"), (4, "negative"), (7, "neutral"), (10, "positive")]
    folder = lists(raw, {"train": train, "dev": [(13, "negative")], "test": [(16, "neutral"), (19, "positive")]})
    out = go(raw, lists=folder)
    data = load(out)
    assert data.protocol.name == "listed"
    assert data.parts == {"train": 4, "validation": 1, "test": 2}
    split = dict(zip(rows(out, "key").tolist(), rows(out, "split").tolist(), strict=True))
    assert split["00013"] == "validation"
    assert split["00016"] == split["00019"] == "test"


def test_lists_that_do_not_fit_are_refused(raw: Path) -> None:
    good = {"train": [(1, "positive")], "dev": [(4, "negative")], "test": [(7, "neutral")]}
    folder = lists(raw, {**good, "test": [(7, "positive")]})
    with pytest.raises(DataError, match=r"expected the label of labelResultAll.txt, 'neutral', for data/7.jpg"):
        go(raw, lists=folder)
    lists(raw, {**good, "test": [(7, "neutral"), (555, "neutral")]})
    with pytest.raises(DataError, match=r"data/555.jpg: listed, and not in labelResultAll.txt"):
        go(raw, lists=folder)
    (Path(folder) / "dev.jsonl").unlink()
    with pytest.raises(DataError, match=r"expected a folder with train.jsonl, dev.jsonl and test.jsonl"):
        go(raw, lists=folder)


def test_mvsa_multiple_is_refused(raw: Path) -> None:
    (raw / "labelResultAll.txt").write_text(
        "ID\ttext,image\ttext,image\ttext,image\n1\tneutral,positive\tneutral,neutral\tpositive,neutral\n"
    )
    with pytest.raises(DataError, match="MVSA-Multiple has three pairs of labels"):
        go(raw)


def test_a_tweet_with_two_labels_is_refused(raw: Path) -> None:
    with (raw / "labelResultAll.txt").open("ab") as file:
        file.write(b"1\tnegative,negative\r\n")
    with pytest.raises(DataError, match=r"line 92: expected one pair of labels for 1"):
        go(raw)


def test_two_runs_give_the_same_bytes_and_the_bundle_trains(raw: Path) -> None:
    first = manifest(go(raw, "a"))["fingerprint"]
    assert manifest(go(raw, "b"))["fingerprint"] == first
    assert train_one_step(raw.parent / "a", 30522).parts["train"] == 56


def test_a_wrong_folder_is_answered_with_what_is_there(tmp_path: Path) -> None:
    write(tmp_path / "archive" / "MVSA_Single", copies=1)
    with pytest.raises(DataError, match=r"expected data of MVSA-Single. Found MVSA_Single/. Give .*MVSA_Single as"):
        prepare.prepare("mvsa-single", tmp_path / "archive", tmp_path / "out", workers=0)
