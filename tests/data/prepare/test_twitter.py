"""Twitter-2015 and Twitter-2017: columns of the .tsv files, targets, images shared by samples, holes."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("PIL")

from equimodal.data import load, prepare
from equimodal.errors import DataError
from tests.data.prepare.pictures import cut, manifest, picture, rows, train_one_step, words_of

HEADER = "index\t#1 Label\t#2 ImageID\t#3 String\t#3 String"
HEADER_OF_TEST = "index\t#1 ImageID\t#2 String\t#2 String"  # as published: four names over five columns
TRAIN = [
    (2, "1860693.jpg", "RT @ x : $T$ is everything # MCM", "Chuck Bass"),
    (1, "1860693.jpg", "RT @ x : Chuck Bass is everything $T$", "# MCM"),
    (0, "30.jpg", '" No way " said $T$ , " never', "Tyga"),  # quotation marks are text
    (1, "31.jpg", "Café $T$ opens", "Oklahoma"),
]
DEV = [(1, "40.jpg", "$T$ went home", "Pedro"), (2, "41.jpg", "$T$ won", "Lydia")]
TEST = [(0, "50.jpg", "$T$ lost again", "Oklahoma"), (2, "51.jpg", "Crazy hair day ! $T$", "Lydia")]


def tsv(header: str, lines: list[tuple[int, str, str, str]]) -> bytes:
    body = [f"{n}\t{label}\t{image}\t{text}\t{target}" for n, (label, image, text, target) in enumerate(lines, 1)]
    return ("\n".join([header, *body]) + "\n").encode()


def write(root: Path, year: int = 2015, folder: str = "") -> Path:
    texts = root / (folder or f"twitter{year}")
    texts.mkdir(parents=True)
    for name, header, lines in (("train", HEADER, TRAIN), ("dev", HEADER, DEV), ("test", HEADER_OF_TEST, TEST)):
        (texts / f"{name}.tsv").write_bytes(tsv(header, lines))
        for _, image, _, _ in lines:
            number = int(image.removesuffix(".jpg")) % 256
            picture(root / f"twitter{year}_images" / image, (number, 10, 99))
    return root


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    return write(tmp_path / "raw")


def go(raw: Path, out: str = "out", name: str = "twitter2015", **options: Any) -> Path:
    prepare.prepare(name, raw, raw.parent / out, **{"workers": 0, "size": 8, "min_count": 1, **options})
    return raw.parent / out


def test_every_line_is_a_sample_with_its_label(raw: Path) -> None:
    out = go(raw)
    data = load(out)
    assert data.classes == ("negative", "neutral", "positive")
    assert data.parts == {"train": 4, "validation": 2, "test": 2}
    assert rows(out, "key").tolist() == [
        "test-00002", "test-00003", "train-00002", "train-00003", "train-00004", "train-00005",
        "validation-00002", "validation-00003",
    ]  # fmt: skip
    assert rows(out, "sentiment").tolist() == [0, 2, 2, 1, 0, 1, 1, 2]


def test_two_targets_of_a_tweet_have_the_same_picture(raw: Path) -> None:
    out = go(raw)
    images = rows(out, "image")
    np.testing.assert_array_equal(images[2], images[3])
    assert rows(out, "image_name").tolist()[2:4] == ["1860693.jpg"] * 2
    np.testing.assert_allclose(images[0].mean((1, 2)), (50, 10, 99), atol=6)


def test_quotation_marks_are_text(raw: Path) -> None:
    words = words_of(go(raw), "train-00004")
    assert words == ['"', "no", "way", '"', "said", "$t$", ",", '"', "never", "<sep>", "tyga"]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, "rt @ x : $t$ is everything # mcm <sep> chuck bass"),
        ({"target": "insert"}, "rt @ x : chuck bass is everything # mcm"),
        ({"target": "omit"}, "rt @ x : $t$ is everything # mcm"),
        ({"target": "omit", "clean": "letters"}, "rt x t is everything mcm"),
    ],
)
def test_the_target_words_go_where_they_are_asked_to(options: dict[str, Any], expected: str, raw: Path) -> None:
    assert " ".join(words_of(go(raw, **options), "train-00002")) == expected


def test_a_tokenizer_folder_gets_text_and_target_as_a_pair(raw: Path, folder: str) -> None:
    out = go(raw, tokenizer=folder, length=6)
    # [CLS] pedro? no: apple and pie are all it knows; `$T$ won` is 4 unknown pieces, cut to make room for the target
    keys = rows(out, "key").tolist()
    ids = rows(out, "text")[keys.index("validation-00003")]
    assert ids.tolist() == [2, 1, 1, 3, 1, 3]
    assert rows(out, "text_length")[keys.index("validation-00003")] == 6
    assert "vocabulary.txt" not in {path.name for path in out.iterdir()}
    assert "below 7, 0 is padding" in load(out).modalities["text"].units
    saved = manifest(out)["parameters"]["tokenizer"]
    assert set(saved) == {"sha256"}
    notes = manifest(out)["notes"]
    assert (notes["vocabulary"], notes["padding"]) == (7, 0)
    assert notes["transformers"]


def test_the_official_parts_share_no_picture(raw: Path) -> None:
    protocol = load(go(raw)).protocol
    assert protocol.groups == ("image_name",)
    assert protocol.verified
    assert "disjoint in image_name (verified)" in str(protocol)


def test_a_picture_in_two_parts_is_said_with_every_number(tmp_path: Path) -> None:
    raw = write(tmp_path / "raw", 2017)
    path = raw / "twitter2017" / "dev.tsv"
    path.write_bytes(path.read_bytes() + b"3\t1\t31.jpg\t$T$ again\tOklahoma\n")
    out = go(raw, name="twitter2017")
    protocol = load(out).protocol
    assert not protocol.disjoint
    assert "OVERLAPPING: 1 image_name in more than one part" in str(protocol)
    assert manifest(out)["notes"]["images_in_several_parts"] == ["31.jpg"]


@pytest.mark.parametrize(
    ("name", "year", "folder"),
    [
        ("twitter2015", 2015, "absa_data/twitter2015"),
        ("twitter2017", 2017, "absa_data/twitter"),
        ("twitter2015", 2015, "annotations"),
    ],
)
def test_other_places_of_the_lists_are_known(name: str, year: int, folder: str, tmp_path: Path) -> None:
    raw = write(tmp_path / "raw", year, folder)
    if folder == "annotations":  # names that MIE uses
        for old, new in (("train", "train_data"), ("dev", "valid_data"), ("test", "test_data")):
            (raw / folder / f"{old}.tsv").rename(raw / folder / f"{new}.tsv")
    assert len(load(go(raw, name=name)).train) == 4


def test_holes_are_listed_and_left_out(raw: Path) -> None:
    (raw / "twitter2015_images/40.jpg").unlink()
    cut(picture(raw / "twitter2015_images/1860693.jpg", size=(60, 60)))
    picture(raw / "twitter2015_images/unused.jpg")
    path = raw / "twitter2015" / "train.tsv"
    lines = [
        "5\t3\t31.jpg\ttext\ttarget",
        "6\t1\t31.jpg\tno target",
        "7\t1\t../x.jpg\ttext\ttarget",
        "8\t2\t31.jpg\ta\tb",
    ]
    path.write_bytes(path.read_bytes() + ("\n".join(lines) + "\n\n").encode())
    with pytest.raises(DataError, match=r"Found 3 of 12 .* first twitter2015/train.tsv: line 6"):
        go(raw)
    out = go(raw, max_missing=0.6)
    found = manifest(out)
    assert found["counts"] == {"expected": 12, "samples": 6, "incomplete": 0, "missing": 6, "ignored": 0}
    assert [p["reason"][:6] for p in found["missing"]] == ["line 6", "line 7", "line 8"]
    reasons = {(e["sample"], e["path"]): e["reason"] for e in found["unreadable"]}
    assert reasons["validation-00002", "twitter2015_images/40.jpg"] == "no such file"
    for key in ("train-00002", "train-00003"):
        assert "truncated" in reasons[key, "twitter2015_images/1860693.jpg"]
    assert found["notes"]["images_not_used"] == 1


def test_ids_of_two_vocabularies_are_never_mixed(raw: Path) -> None:
    (raw / "twitter2015_images/40.jpg").unlink()
    with pytest.raises(DataError, match="at most 1.00%"):
        go(raw)
    assert (raw.parent / "out.partial").is_dir()
    picture(raw / "twitter2015_images/40.jpg")
    path = raw / "twitter2015" / "train.tsv"
    path.write_bytes(path.read_bytes().replace(b"everything", b"aardvark"))
    with pytest.raises(DataError, match=r"expected an unfinished preparation .*texts.vocabulary.txt"):
        go(raw)  # ids of every sample moved, those of test included
    shutil.rmtree(raw.parent / "out.partial")
    assert words_of(go(raw), "test-00002") == ["$t$", "<unk>", "<unk>", "<sep>", "oklahoma"]


def test_a_header_of_something_else_is_refused(raw: Path) -> None:
    (raw / "twitter2015" / "dev.tsv").write_text("text,label\nx,1\n")
    with pytest.raises(DataError, match=r"dev.tsv: line 1: expected a header with ImageID and String"):
        go(raw)


def test_two_runs_give_the_same_bytes_and_the_bundle_trains(raw: Path) -> None:
    first = manifest(go(raw, "a"))["fingerprint"]
    assert manifest(go(raw, "b"))["fingerprint"] == first
    train_one_step(raw.parent / "a", 30522)


def test_a_wrong_folder_is_answered_with_what_is_there(raw: Path) -> None:
    with pytest.raises(DataError, match=r"expected twitter2017/train.tsv .* Found twitter2015/, twitter2015_images/"):
        go(raw, name="twitter2017")
    (raw / "twitter2015" / "dev.tsv").unlink()
    with pytest.raises(DataError, match=r"expected twitter2015/dev.tsv of Twitter-2015"):
        go(raw)


def test_parameters_are_checked(raw: Path) -> None:
    with pytest.raises(DataError, match="`target`: expected one of"):
        go(raw, target="both")
    with pytest.raises(DataError, match="`tokenizer`: expected"):
        go(raw, tokenizer=str(raw / "nowhere"))
    assert not (raw.parent / "out").exists()


def test_the_manifest_names_no_place_of_this_machine(raw: Path, folder: str) -> None:
    assert str(raw.parent) not in json.dumps(manifest(go(raw, tokenizer=folder)))
