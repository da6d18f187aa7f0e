"""UPMC Food-101: titles or pages, folders of the official split, holes."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("PIL")

from equimodal.batch import Tokens
from equimodal.data import load, prepare
from equimodal.errors import DataError
from tests.data.prepare.pictures import (
    Colour,
    cut,
    encoded,
    manifest,
    picture,
    rows,
    train_one_step,
    vocabulary,
    words_of,
)

DISHES: dict[str, Colour] = {"apple_pie": (250, 10, 10), "pho": (10, 250, 10), "sushi": (10, 10, 250)}
# as the published files: no header, commas and quotes inside quotes, a line break inside a title, no title at all
TITLES = [
    "Grandma's Apple Pie, easy!",
    'The ""best"" dish - Recipes, Photos',
    "Soup | Food.com\nBBC Good Food",
    "",
    "jalapeño & crème",
    "plain title",
]


def write(root: Path, train: int = 6, test: int = 2) -> Path:
    """The layout of the published archive."""
    for folder, count, first in (("train", train, 0), ("test", test, 100)):
        lines = []
        for dish, colour in DISHES.items():
            for n in range(count):
                name = f"{dish}_{first + n}.jpg"
                picture(root / "images" / folder / dish / name, colour)
                lines.append(f'{name},"{TITLES[n % len(TITLES)]}",{dish}\r\n')
        path = root / "texts" / f"{folder}_titles.csv"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes("".join(lines).encode())
    return root


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    return write(tmp_path / "raw")


def go(raw: Path, out: str = "out", **options: Any) -> Path:
    prepare.prepare("food101", raw, raw.parent / out, **{"workers": 0, "size": 16, "min_count": 1, **options})
    return raw.parent / out


def test_counts_labels_and_parts(raw: Path) -> None:
    out = go(raw, validation=0.34)
    data = load(out)
    assert data.classes == ("apple_pie", "pho", "sushi")
    assert data.parts == {"train": 12, "validation": 6, "test": 6}  # 34 % of 6 are 2, of each class
    keys, dish, split = rows(out, "key"), rows(out, "dish"), rows(out, "split")
    assert sorted(keys[split == "test"]) == [f"test/{d}/{d}_{n}" for d in DISHES for n in (100, 101)]
    assert [data.classes[i] for i in dish] == [key.split("/")[1] for key in keys]
    assert all(np.bincount(dish[split == "validation"]) == 2)


def test_pixels_and_titles_are_those_of_the_files(raw: Path) -> None:
    out = go(raw)
    keys = rows(out, "key").tolist()
    for dish, colour in DISHES.items():
        pixels = rows(out, "image")[keys.index(f"train/{dish}/{dish}_3")]
        np.testing.assert_allclose(pixels.mean((1, 2)), colour, atol=6)
    assert words_of(out, "train/pho/pho_0") == ["grandma", "s", "apple", "pie", "easy"]
    assert words_of(out, "train/pho/pho_1") == ["the", "best", "dish", "recipes", "photos"]
    assert words_of(out, "train/pho/pho_2") == ["soup", "|", "food", "com", "bbc", "good", "food"]
    assert words_of(out, "train/pho/pho_3") == ["<unk>"]  # no title
    assert words_of(out, "train/pho/pho_4") == ["jalapeño", "crème"]


def test_texts_can_stay_as_they_are(raw: Path) -> None:
    out = go(raw, clean="none")
    assert words_of(out, "train/pho/pho_1") == ["the", '"', "best", '"', "dish", "-", "recipes", ",", "photos"]


def test_loading_scales_pixels(raw: Path) -> None:
    data = load(go(raw, normalise="scale"))
    image = data.train[0]["inputs"]["image"]
    assert 0 <= float(image.min()) <= float(image.max()) <= 1
    assert data.modalities["text"].kind == "tokens"
    assert data.modalities["text"].shape == (50,)
    assert "below 30522, 0 is padding" in data.modalities["text"].units


def test_a_batch_has_ids_and_a_mask_of_what_is_no_padding(raw: Path) -> None:
    data = load(go(raw, length=6))
    sample = data.test[0]["inputs"]["text"]
    assert isinstance(sample, Tokens)
    assert sample.values.dtype == torch.int64
    assert sample.mask.tolist() == [True] * 5 + [False]  # grandma s apple pie easy
    assert sample.values[5] == 0


def test_the_vocabulary_is_of_the_training_part_alone(raw: Path) -> None:
    parts = go(raw, "parts")
    chosen = rows(parts, "key")[rows(parts, "split") == "validation"][0].rpartition("/")[2]
    for name, image, word in (("train", f"{chosen}.jpg", "secretword"), ("test", "pho_100.jpg", "unheard")):
        path = raw / "texts" / f"{name}_titles.csv"
        with path.open(encoding="utf-8", newline="") as file:
            records = [[i, word if i == image else title, dish] for i, title, dish in csv.reader(file)]
        with path.open("w", encoding="utf-8", newline="") as file:
            csv.writer(file).writerows(records)
    out = go(raw)
    assert "unheard" not in vocabulary(out)
    assert "secretword" not in vocabulary(out)
    assert "easy" in vocabulary(out)
    assert words_of(out, "test/pho/pho_100") == ["<unk>"]


def test_the_split_does_not_depend_on_what_else_is_there(raw: Path) -> None:
    out = go(raw, validation=0.34)
    before = dict(zip(rows(out, "key").tolist(), rows(out, "split").tolist(), strict=True))
    shutil.rmtree(raw / "images" / "train" / "sushi")
    shutil.rmtree(raw / "images" / "test" / "sushi")
    for path in (raw / "texts").iterdir():
        text = path.read_text(encoding="utf-8")
        start = text.index("sushi_")
        path.write_text(text[:start], encoding="utf-8")
    out = go(raw, "less", validation=0.34)
    after = dict(zip(rows(out, "key").tolist(), rows(out, "split").tolist(), strict=True))
    assert after == {key: part for key, part in before.items() if "sushi" not in key}


def test_holes_are_listed_and_left_out(raw: Path) -> None:
    (raw / "images/train/pho/pho_0.jpg").unlink()
    cut(picture(raw / "images/train/pho/pho_1.jpg", size=(60, 60)))
    (raw / "images/train/pho/pho_2.jpg").write_bytes(b"")
    (raw / "images/test/sushi/sushi_100.jpg").write_bytes(b"<html>gone</html>")
    picture(raw / "images/train/pho/pho_99.jpg")  # without a title
    (raw / "images/train/pho/Thumbs.db").write_bytes(b"x")
    path = raw / "texts" / "train_titles.csv"
    again = b'pho_4.jpg,"a second title",pho\r\n'
    path.write_bytes(path.read_bytes() + again + b"pho_77.jpg,two fields\r\n../x.jpg,a title,pho\r\n")
    with pytest.raises(DataError, match=r"at most 10.00% .* Found 6 of 26 \(23.08%\); first texts/train_titles.csv"):
        go(raw, max_missing=0.1)
    report = prepare.prepare("food101", raw, raw.parent / "out", workers=0, size=16, min_count=1, max_missing=0.3)
    assert (report.samples, report.missing) == (20, 6)
    found = manifest(report.path)
    reasons = {entry["path"]: entry["reason"] for entry in found["unreadable"]}
    assert reasons["images/train/pho/pho_0.jpg"] == "no such file"
    assert "truncated" in reasons["images/train/pho/pho_1.jpg"]
    assert reasons["images/train/pho/pho_2.jpg"] == "an empty file"
    assert reasons["images/test/sushi/sushi_100.jpg"] == "a web page"
    assert found["missing"][0]["path"] == "texts/train_titles.csv"
    assert "expected image,title,class, found 2 fields" in found["missing"][0]["reason"]
    ignored = {entry["path"]: entry["reason"] for entry in found["ignored"]}
    assert ignored["images/train/pho/pho_99.jpg"] == "no title"
    assert "expected .jpg" in ignored["images/train/pho/Thumbs.db"]
    assert "pho_4.jpg a second time" in ignored["texts/train_titles.csv"]
    assert "train/pho/pho_1" not in rows(report.path, "key")
    load(report.path)


def test_a_title_in_latin_1_is_read_and_counted(raw: Path) -> None:
    path = raw / "texts" / "train_titles.csv"
    path.write_bytes(path.read_bytes().replace("jalapeño & crème".encode(), "jalapeño & crème".encode("latin-1"), 1))
    out = go(raw)
    assert manifest(out)["notes"]["not_utf8"] == {"texts/train_titles.csv: cp1252": 1}
    assert words_of(out, "train/apple_pie/apple_pie_4") == ["jalapeño", "crème"]


def test_a_csv_that_ends_inside_quotes_is_refused(raw: Path) -> None:
    path = raw / "texts" / "test_titles.csv"
    path.write_bytes(path.read_bytes() + b'sushi_9.jpg,"cut off')
    with pytest.raises(DataError, match=r"test_titles.csv: line \d+: expected comma-separated .* Download"):
        go(raw)


def test_a_dish_of_the_test_part_alone_is_refused(raw: Path) -> None:
    path = raw / "texts" / "test_titles.csv"
    path.write_bytes(path.read_bytes() + b"x_1.jpg,title,x\r\n")
    with pytest.raises(DataError, match="Found 'x' in test only"):
        go(raw)


def test_pages_are_read_from_their_files(raw: Path) -> None:
    for path in raw.glob("images/*/*/*.jpg"):
        page = raw / "texts_txt" / path.parent.name / f"{path.stem}.txt"
        page.parent.mkdir(parents=True, exist_ok=True)
        page.write_text(f"Recipe {path.stem}\n\nMix <b>well</b>.", encoding="utf-8")
    (raw / "texts_txt/pho/pho_1.txt").unlink()
    (raw / "texts_txt/pho/pho_2.txt").write_bytes(b" \n")
    out = go(raw, text="pages", max_missing=0.1)
    assert words_of(out, "train/pho/pho_0") == ["recipe", "pho", "0", "mix", "b", "well", "b"]
    reasons = {e["path"]: e["reason"] for e in manifest(out)["unreadable"]}
    assert reasons["texts_txt/pho/pho_1.txt"] == "no such file"
    assert reasons["texts_txt/pho/pho_2.txt"] == "a page without text"
    assert len(rows(out, "key")) == 22


def lists(raw: Path, parts: dict[str, list[str]]) -> str:
    folder = raw.parent / "lists"
    folder.mkdir(exist_ok=True)
    for part, images in parts.items():
        text = "".join(json.dumps({"img": i, "label": i.split("/")[2], "text": "x"}) + "\n" for i in images)
        (folder / f"{part}.jsonl").write_text(text)
    return str(folder)


def test_lists_of_a_paper_say_the_parts(raw: Path) -> None:
    train = [f"images/train/{d}/{d}_{n}.jpg" for d in DISHES for n in (0, 1, 2)]
    dev = [f"images/train/{d}/{d}_3.jpg" for d in DISHES]
    test = ["images/test/pho/pho_100.jpg", "images/test/pho/pho_555.jpg"]
    folder = lists(raw, {"train": train, "dev": dev, "test": test})
    with pytest.raises(DataError, match=r"images/test/pho/pho_555.jpg: listed, and without a text"):
        go(raw, lists=folder)
    out = go(raw, lists=folder, max_missing=0.1)
    assert load(out).parts == {"train": 9, "validation": 3, "test": 1}
    assert str(raw.parent) not in json.dumps(manifest(out)["parameters"])
    lists(raw, {"dev": [*dev, train[0]]})
    with pytest.raises(DataError, match="expected an image that is in one list"):
        go(raw, "other", lists=folder, max_missing=0.1)
    Path(folder, "dev.jsonl").write_text('{"image": "x"}\n')
    with pytest.raises(DataError, match=r"dev.jsonl: line 1: expected an object such as"):
        go(raw, "other", lists=folder, max_missing=0.1)


def test_two_runs_and_two_processes_give_the_same_bytes(raw: Path) -> None:
    first = prepare.prepare("food101", raw, raw.parent / "a", workers=0, size=16)
    second = prepare.prepare("food101", raw, raw.parent / "b", workers=2, size=16)
    assert first.fingerprint == second.fingerprint
    assert prepare.prepare("food101", raw, raw.parent / "c", workers=0, size=8).fingerprint != first.fingerprint


def test_a_changed_picture_is_detected(raw: Path) -> None:
    out = go(raw)
    assert prepare.check(out, source=raw).ok
    (raw / "images/train/pho/pho_0.jpg").write_bytes(encoded((1, 2, 3)))
    assert not prepare.check(out, source=raw).ok


def test_the_bundle_trains(raw: Path) -> None:
    data = train_one_step(go(raw), 30522)
    assert list(data.modalities) == ["image", "text"]


def test_a_wrong_folder_is_answered_with_what_is_there(raw: Path) -> None:
    with pytest.raises(DataError, match=r"expected images/train of UPMC Food-101. Found test/, train/") as caught:
        prepare.prepare("food101", raw / "images", raw.parent / "out", workers=0)
    assert "Needed:" in str(caught.value)


def test_the_folder_above_is_recognised(raw: Path) -> None:
    with pytest.raises(DataError, match=r"expected images/train .* Give .*raw as the source"):
        prepare.prepare("food101", raw.parent, raw.parent / "out", workers=0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": 0}, "`size`: expected a whole number of at least 1"),
        ({"fit": "pad"}, "`fit`: expected one of"),
        ({"shorter": 256}, "`shorter`: expected 0, or with fit='crop'"),
        ({"fit": "crop", "shorter": 8}, "`shorter`: expected 0, or with fit='crop' at least the size 16"),
        ({"clean": "all"}, "`clean`: expected one of"),
        ({"text": "both"}, "`text`: expected one of"),
        ({"validation": 1.5}, "`validation`: expected a share between 0 and 1"),
        ({"vocabulary": 3}, "`vocabulary`: expected a whole number of at least 4"),
    ],
)
def test_parameters_are_checked(options: dict[str, Any], message: str, raw: Path) -> None:
    with pytest.raises(DataError, match=message):
        go(raw, **options)
