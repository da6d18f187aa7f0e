"""Parts of datasets: by hash, and from lists of papers."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from equimodal.data.prepare.datasets._splits import carve, hash_order, hash_parts, read_listed
from equimodal.errors import DataError


def test_the_order_is_that_of_sha256() -> None:
    # the first digits of: printf "split a" | sha256sum, and so on
    digits = {"a": "1c2e6fa8", "b": "ea2f1df2", "c": "c07cff14", "d": "f62733e0"}
    assert hash_order("split", digits) == sorted(digits, key=lambda key: digits[key])
    assert hash_order("split", reversed(list(digits))) == hash_order("split", digits)


def test_one_in_so_many_goes_to_test_and_validation() -> None:
    # by the digits above: a, c, b, d
    assert hash_parts("split", "abcd", one_in=10) == {"a": "test", "c": "validation", "b": "train", "d": "train"}
    assert list(hash_parts("split", "abcd", one_in=2).values()) == ["test", "test", "validation", "validation"]
    assert hash_parts("split", "a", one_in=2) == {"a": "test"}


def test_each_class_gives_its_share_and_keeps_one_for_training() -> None:
    classes = {f"{label}{n}": label for label, count in (("x", 20), ("y", 10), ("z", 1)) for n in range(count)}
    parts = carve("name", classes, {"test": 0.1, "validation": 0.2})
    assert set(parts) == set(classes)
    found = Counter((classes[key], part) for key, part in parts.items())
    assert found == {
        ("x", "train"): 14, ("x", "test"): 2, ("x", "validation"): 4,
        ("y", "train"): 7, ("y", "test"): 1, ("y", "validation"): 2,
        ("z", "train"): 1,
    }  # fmt: skip
    assert carve("name", dict(reversed(classes.items())), {"test": 0.1, "validation": 0.2}) == parts
    assert carve("other", classes, {"test": 0.1, "validation": 0.2}) != parts


def test_lists_are_objects_with_image_and_label(tmp_path: Path) -> None:
    (tmp_path / "train.jsonl").write_text('{"img": "./data/1.jpg", "label": "positive"}\n\n')
    (tmp_path / "dev.jsonl").write_text('{"img": "data/2.jpg", "label": 3, "text": "x"}\n')
    (tmp_path / "test.jsonl").write_text("")
    assert read_listed(str(tmp_path)) == {"data/1.jpg": ("train", "positive"), "data/2.jpg": ("validation", "3")}
    for line in ("nonsense", "[1]", '{"img": 5, "label": "x"}', '{"img": "a"}'):
        (tmp_path / "test.jsonl").write_text(line)
        with pytest.raises(DataError, match=r"test.jsonl: line 1: expected an object such as"):
            read_listed(str(tmp_path))
