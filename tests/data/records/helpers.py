"""The same rows in the form of every collection, as their own libraries write them."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from equimodal import Batch
from equimodal.batch import Tokens
from equimodal.data import Dataset, Field, from_rows

FORMS = ("parquet", "datasets", "webdataset", "list")
COUNT = 48
SIZE = 8


def picture(row: int) -> bytes:
    """A PNG of one colour, which says the row."""
    from PIL import Image

    buffer = io.BytesIO()
    Image.new("RGB", (SIZE, SIZE), (row, 2 * row, 255 - row)).save(buffer, "PNG")
    return buffer.getvalue()


def sound(row: int) -> npt.NDArray[np.float32]:
    """(3,) numbers that say the row."""
    return np.array([row, -row, 0.5 * row], np.float32)


def has(modality: str, row: int) -> bool:
    """Whether a row has a modality."""
    return bool(row % 4) if modality == "sound" else bool(row % 5) if modality == "image" else True


def rows() -> list[dict[str, Any]]:
    """Each row has a sequence of words; some lack the picture or the sound."""
    return [
        {
            "image": picture(i) if has("image", i) else None,
            "sound": sound(i).tolist() if has("sound", i) else None,
            "words": [i % 9 + k for k in range(1 + i % 3)],
            "label": ("no", "yes")[i % 2],
            "part": ("train", "train", "validation", "test")[i // 2 % 4],
            "who": i // 8,
        }
        for i in range(COUNT)
    ]


def table(own: Sequence[dict[str, Any]]) -> Any:
    import pyarrow as pa

    kinds = {"sound": pa.list_(pa.float32()), "words": pa.list_(pa.int64()), "image": pa.binary()}
    return pa.table({c: pa.array([r[c] for r in own], kinds.get(c)) for c in own[0]})


def written(form: str, folder: Path, own: Sequence[dict[str, Any]] | None = None, group: int = 7) -> Any:
    """Rows in a form, on disk; what :func:`from_rows` takes."""
    own = rows() if own is None else own
    if form == "list":
        return list(own)
    if form == "parquet":
        import pyarrow.parquet

        if not (folder / "rows.parquet").exists():
            pyarrow.parquet.write_table(table(own), folder / "rows.parquet", row_group_size=group)
        return folder / "rows.parquet"
    if form == "datasets":
        import datasets

        if not (folder / "rows").exists():
            datasets.Dataset(table(own)).save_to_disk(str(folder / "rows"))
        return datasets.load_from_disk(str(folder / "rows"))
    import webdataset

    if list(folder.glob("*.tar")):
        return folder
    names = {"image": "png", "sound": "sound.npy", "words": "words.json", "label": "label.txt", "part": "part.txt"}
    for shard, start in enumerate(range(0, len(own), 20)):
        with webdataset.TarWriter(str(folder / f"{shard:03d}.tar")) as writer:
            for number, row in enumerate(own[start : start + 20], start):
                content: dict[str, Any] = {names[c]: v for c, v in row.items() if c in names and v is not None}
                if "sound.npy" in content:
                    content["sound.npy"] = np.array(content["sound.npy"], np.float32)
                content["words.json"] = json.dumps(content["words.json"]).encode()
                writer.write({"__key__": f"{number:06d}", "who.cls": row["who"], **content})
    return folder


def columns(form: str) -> dict[str, str]:
    """Name of each column in a form."""
    own = {c: c for c in ("image", "sound", "words", "label", "part", "who")}
    if form == "webdataset":
        own = {"image": "png", "sound": "sound.npy", "words": "words.json", "label": "label.txt", "part": "part.txt",
               "who": "who.cls"}  # fmt: skip
    return own


def dataset(form: str, folder: Path, own: Sequence[dict[str, Any]] | None = None, **options: Any) -> Dataset:
    """The rows as a dataset: an image, a vector, tokens of several lengths."""
    name = columns(form)
    inputs = {
        "image": Field("image", name["image"], size=SIZE, standardise="none"),
        "sound": Field("vector", name["sound"], standardise="none"),
        "words": Field("tokens", name["words"], length=2),
    }
    options = {"inputs": inputs, "split": name["part"], **options}
    return from_rows(written(form, folder, own), name["label"], **options)


def check(batch: Batch) -> None:
    """Refuse a batch that does not hold what its rows hold."""
    assert batch.index is not None
    assert batch.target is not None
    image, vector, words = (batch.inputs[m] for m in ("image", "sound", "words"))
    assert isinstance(words, Tokens)
    for place, row in enumerate(batch.index.tolist()):
        assert int(batch.target[place]) == row % 2
        for m in ("image", "sound"):
            assert batch.present is not None
            assert bool(batch.present[m][place]) == has(m, row)
        colour = [row, 2 * row, 255 - row] if has("image", row) else [0, 0, 0]
        assert torch.equal(image[place], torch.tensor(colour).reshape(3, 1, 1).expand(3, SIZE, SIZE).float())
        assert vector[place].tolist() == (sound(row).tolist() if has("sound", row) else [0, 0, 0])
        ids = [row % 9 + k for k in range(1 + row % 3)][:2]
        assert words.values[place].tolist() == ids + [0] * (2 - len(ids))
        assert words.mask[place].tolist() == [True] * len(ids) + [False] * (2 - len(ids))
