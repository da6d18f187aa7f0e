"""A dataset of text files, so that the engine can be tested in milliseconds; importable by worker processes."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from equimodal.data.prepare import (
    ArraySpec,
    Facts,
    Index,
    Item,
    Preparation,
    Problem,
    SplitSpec,
    Target,
    UnreadableError,
)

decoded: list[str] = []
"""``KEY/ARRAY`` of what this process has decoded."""


@dataclass(frozen=True)
class Parameters:
    """Of the toy.

    Args:
        width: length of a. Source: nowhere.
        factor: of b. Source: nowhere.
        delay: seconds per item. Source: nowhere.
        lists: a user's file. Source: nowhere.
    """

    width: int = 4
    factor: float = 0.5
    delay: float = 0.0
    lists: str = field(default="", metadata={"path": True})


class Toy(Preparation[Parameters]):
    """``N.a`` and ``N.b`` hold a number; words stand for what can go wrong."""

    name = "toy"
    Parameters = Parameters
    facts = Facts(
        title="Toy",
        summary="Numbers in files.",
        where=("nowhere",),
        licence="CC0",
        citation=("nobody",),
        layout="RAW/000.a, 000.b ...",
        protocols=(("official", "every third is for testing"),),
    )

    def index(self) -> Index:
        """The stems of either kind of file."""
        stems = sorted({p.stem for p in self.raw.iterdir() if p.suffix in (".a", ".b")}, reverse=True)
        items = [
            Item(stem, {"a": (f"{stem}.a",), "b": (f"{stem}.b",)}, self._columns(int(stem)))
            for stem in stems
            if stem.isdigit()
        ]
        wrong = tuple(Problem(stem, "expected a number") for stem in stems if not stem.isdigit())
        return Index(
            items=tuple(items),
            targets={"label": Target("label", classes=("even", "odd"))},
            protocols={
                "official": SplitSpec(
                    "split", ("train",), {"carve": 0.25, "seed": 0, "by": "class"}, ("test",), groups=("person",)
                )
            },
            groups=("person",),
            ignored=wrong,
            notes={"wrong": len(wrong)},
        )

    def _columns(self, number: int) -> dict[str, Any]:
        return {"label": number % 2, "split": "test" if number % 3 == 2 else "train", "person": number}

    def arrays(self) -> Mapping[str, ArraySpec]:
        """A vector and a sequence."""
        return {
            "a": ArraySpec((self.parameters.width,), "uint8", "vector", units="1", transforms=({"scale": 0.1},)),
            "b": ArraySpec((2, 3), "float32", "sequence", standardise="global"),
        }

    def decode(self, item: Item, name: str) -> npt.NDArray[Any]:
        """The number of the file, everywhere."""
        decoded.append(f"{item.key}/{name}")
        time.sleep(self.parameters.delay)
        word = self.path(item.files[name][0]).read_text(encoding="utf-8")
        if word == "bad":
            raise UnreadableError("bad content")
        if word == "die":
            os._exit(9)
        if word == "bug":
            raise ZeroDivisionError
        number = int(word.removeprefix("nan").removeprefix("wide") or 0)
        if name == "a":
            return np.full(self.parameters.width + word.startswith("wide"), number, np.uint8)
        value = np.nan if word.startswith("nan") else number * self.parameters.factor
        return np.full((2, 3), value, np.float32)


class Slices(Toy):
    """Three samples per file."""

    name = "slices"

    def index(self) -> Index:
        """As Toy, with three rows each."""
        index = super().index()
        items = [Item(i.key, i.files, {**i.columns, "slice": (0, 1, 2)}, count=3) for i in index.items]
        carve = {"carve": 0.25, "seed": 0, "by": "person"}
        protocols = {"official": SplitSpec("split", ("train",), carve, ("test",), groups=("person",))}
        return Index(tuple(items), index.targets, protocols, index.groups)

    def decode(self, item: Item, name: str) -> npt.NDArray[Any]:
        """Slice s of a file is its number plus 50 s."""
        one = super().decode(item, name)
        return np.stack([one + np.array(50 * s, one.dtype) for s in range(3)])


def write_toy(folder: Path, count: int = 24) -> Path:
    """The raw files of ``count`` samples."""
    folder.mkdir(parents=True)
    for number in range(count):
        for suffix in ("a", "b"):
            (folder / f"{number:03}.{suffix}").write_text(str(number), encoding="utf-8")
    return folder
