"""Parts of a dataset: by hash, and from the lists of a paper."""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal, get_args

from equimodal.data.prepare.readers import read_text
from equimodal.errors import DataError

Part = Literal["train", "validation", "test"]
PARTS: tuple[Part, ...] = get_args(Part)


def hash_order(name: str, keys: Iterable[str]) -> list[str]:
    """Keys in the order of the SHA-256 of ``NAME KEY``.

    A hash instead of a generator: the order is the same with every version of everything, and a missing key moves few
    others.
    """
    return sorted(keys, key=lambda key: hashlib.sha256(f"{name} {key}".encode()).hexdigest())


def hash_parts(name: str, keys: Iterable[str], one_in: int) -> dict[str, Part]:
    """Key -> part: in :func:`hash_order`, one in so many for testing, as many for validation, at least one each.

    Example:
        >>> sorted(hash_parts("name", ["a", "b", "c"], one_in=10).values())
        ['test', 'train', 'validation']
    """
    order = hash_order(name, keys)
    share = max(1, round(len(order) / one_in))
    parts: dict[str, Part] = dict.fromkeys(order, "train")
    parts.update(dict.fromkeys(order[:share], "test"))
    parts.update(dict.fromkeys(order[share : 2 * share], "validation"))
    return parts


def carve(name: str, classes: Mapping[str, Any], shares: Mapping[Part, float]) -> dict[str, Part]:
    """Key -> part: of each class the shares of ``validation`` and ``test``, in :func:`hash_order`; the rest trains.

    Args:
        name: of the dataset, with the seed.
        classes: key -> class.
        shares: part -> share of the samples of a class; one sample at least stays in training.
    """
    members = defaultdict(list)
    for key, label in classes.items():
        members[label].append(key)
    parts: dict[str, Part] = {}
    for keys in members.values():
        left = hash_order(name, keys)
        for part, share in shares.items():
            count = max(0, min(round(share * len(keys)), len(left) - 1))
            parts.update(dict.fromkeys(left[:count], part))
            left = left[count:]
        parts.update(dict.fromkeys(left, "train"))
    return parts


def read_listed(folder: str) -> dict[str, tuple[Part, str]]:
    """Image, relative to the source -> part and label, from ``train.jsonl``, ``dev.jsonl`` and ``test.jsonl``.

    This is the form of MMBT and QMF: one JSON object per line with ``img`` and ``label``.

    Raises:
        DataError: a file is missing or malformed, or an image is in two parts.
    """
    listed: dict[str, tuple[Part, str]] = {}
    for part, stem in zip(PARTS, ("train", "dev", "test"), strict=True):
        path = Path(folder) / f"{stem}.jsonl"
        if not path.is_file():
            raise DataError(f"`lists`: expected a folder with train.jsonl, dev.jsonl and test.jsonl. Found no {path}.")
        for number, line in enumerate(read_text(path).splitlines(), 1):
            if not line.strip():
                continue
            try:
                entry = json.loads(line)
                image, label = entry["img"].removeprefix("./"), str(entry["label"])
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                raise DataError(
                    f'{path}: line {number}: expected an object such as {{"img": "data/1.jpg", "label": "positive"}}. '
                    f"Found {line[:60]!r}."
                ) from error
            if listed.setdefault(image, (part, label))[0] != part:
                raise DataError(f"{path}: line {number}: expected an image that is in one list. Found {image} in two.")
    return listed
