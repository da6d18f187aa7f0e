"""Datasets of Hugging Face: their features, parts, and selections."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from equimodal.data import Field, from_rows, loader
from equimodal.errors import DataError
from tests.data.records.helpers import SIZE, picture, rows, table

datasets = pytest.importorskip("datasets")
pytest.importorskip("PIL")
INPUTS: dict[str, Any] = {"image": Field("image", size=SIZE, standardise="none"), "grid": "sequence"}


def made(own: Any = None) -> Any:
    """Pictures as their library stores them, an array of two axes, classes with names."""
    own = rows() if own is None else own
    features = datasets.Features(
        {
            "image": datasets.Image(),
            "grid": datasets.Array2D((2, 3), "float32"),
            "part": datasets.Value("string"),
            "label": datasets.ClassLabel(names=["yes", "no"]),
        }
    )
    columns = {
        "image": [None if r["image"] is None else {"bytes": r["image"], "path": None} for r in own],
        "grid": [[[i, 1, 2], [3, 4, 5]] for i in range(len(own))],
        "part": [r["part"] for r in own],
        "label": [r["label"] for r in own],
    }
    return datasets.Dataset.from_dict(columns, features=features)


def test_features(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.Image, "decode_example", None)  # nothing is decoded but what a batch holds
    data = from_rows(made(), "label", INPUTS, split="part")
    assert data.classes == ("yes", "no")
    assert data.modalities["grid"].shape == (2, 3)
    batch = data.test.batch()
    assert batch.index is not None
    assert batch.present is not None
    assert batch.target is not None
    for place, row in enumerate(batch.index.tolist()):
        assert int(batch.target[place]) == 1 - row % 2
        assert bool(batch.present["image"][place]) == bool(row % 5)
        if row % 5:
            assert batch.inputs["image"][place, :, 0, 0].tolist() == [row, 2 * row, 255 - row]
    assert len(list(loader(data.train, 8, num_workers=1))) == 3


def test_parts_and_selections() -> None:
    whole = made()
    parts = datasets.DatasetDict(
        {"train": whole.shuffle(seed=0).select(range(24)), "validation": whole.select(range(3, 15)), "test": whole}
    )
    data = from_rows(parts, "label", {**INPUTS, "grid": Field("sequence", standardise="none")})
    assert data.parts == {"train": 24, "validation": 12, "test": 48}
    expected = whole.shuffle(seed=0).select(range(24)).with_format("numpy")["grid"][:]
    np.testing.assert_array_equal(data.train.batch().inputs["grid"].numpy(), np.stack(list(expected)))
    assert data.validation.batch().inputs["grid"][:, 0, 0].tolist() == list(range(3, 15))
    without = whole.filter(lambda row: row["image"] is not None)
    kept = from_rows(without, "label", {"image": INPUTS["image"]}, split="part")
    assert all(kept.presence[p]["image"] == 1 for p in kept.parts)
    assert torch.equal(kept.train.batch([0]).inputs["image"][0, :, 0, 0], torch.tensor([1.0, 2.0, 254.0]))


@pytest.mark.parametrize("form", ["datasets", "list", "parquet"])
@pytest.mark.parametrize("decode", [None, SIZE])
def test_a_picture_without_bytes_and_path_is_absent(form: str, decode: int | None, tmp_path: Path) -> None:
    """As some of their tools write a missing file, beside plain nulls; nobody decodes it."""
    empty = {"bytes": None, "path": None}
    own = [{"image": picture(i), "label": i % 2, "part": i // 2 % 3, "a": float(i)} for i in range(24)]
    contents: list[Any] = [
        empty if i % 4 == 1 else None if i % 4 == 2 else {**empty, "bytes": picture(i)} for i in range(24)
    ]
    source: Any = [{**r, "image": c} for r, c in zip(own, contents, strict=True)]
    if form != "list":
        pa = pytest.importorskip("pyarrow")
        kinds = {"image": pa.struct([("bytes", pa.binary()), ("path", pa.string())])}
        arrow = pa.table({c: pa.array([r[c] for r in source], kinds.get(c)) for c in source[0]})
        source = datasets.Dataset(arrow)
        if form == "parquet":
            pytest.importorskip("pyarrow.parquet").write_table(arrow, tmp_path / "a.parquet", row_group_size=7)
            source = tmp_path / "a.parquet"
    field = Field("image", size=SIZE, standardise="none", decode=None if decode is None else dark)
    data = from_rows(source, "label", {"image": field, "a": Field("vector", standardise="none")}, split="part")
    for split in (data.train, data.validation, data.test):
        batch = split.batch()
        assert batch.index is not None
        assert batch.present is not None
        there = [i % 4 not in (1, 2) for i in batch.index.tolist()]
        assert batch.present["image"].tolist() == there
        if decode is None:
            assert batch.inputs["image"][:, 0, 0, 0].tolist() == [i * t for i, t in zip(batch.index.tolist(), there)]
    with pytest.raises(DataError, match="row 1: expected a content, since `present` says that there is one"):
        own_flags = {"image": np.ones(24, int)}
        from_rows(source, "label", {"image": field}, split="part", present=own_flags).train.batch()


def dark(content: dict[str, Any]) -> Any:
    """Black, of whatever there is; it is never asked for what is absent."""
    assert content["bytes"] is not None
    return np.zeros((3, SIZE, SIZE))


def test_what_is_refused() -> None:
    with pytest.raises(DataError, match="Found IterableDataset, whose rows come one after the other"):
        from_rows(made().to_iterable_dataset(), "label", INPUTS)
    own = rows()
    own[9]["label"] = None
    with pytest.raises(DataError, match="column 'label', row 9: expected a value for the `target`. Found none in 1"):
        from_rows(made(own), "label", INPUTS, split="part")
    hidden = made().remove_columns("label").add_column("label", [-1 if i == 4 else i % 2 for i in range(48)])
    hidden = hidden.cast_column("label", datasets.ClassLabel(names=["yes", "no"]))
    with pytest.raises(DataError, match="column 'label', row 4: expected a value"):  # as the hub hides test labels
        from_rows(hidden, "label", INPUTS, split="part")
    broken = rows()
    broken[8]["image"] = picture(8)[:40]
    data = from_rows(made(broken), "label", INPUTS, split="part")
    with pytest.raises(DataError, match="column 'image', row 8: expected content of kind 'image'. Found no"):
        data.train.batch()


def test_pictures_in_other_forms() -> None:
    from PIL import Image

    picture_of = Image.open(io.BytesIO(picture(3)))
    own = [{"a": v, "y": i % 2, "part": i // 2} for i, v in enumerate([picture_of, picture(3)] * 3)]
    data = from_rows(own, "y", {"a": Field("image", size=SIZE, standardise="none")}, split="part")
    assert torch.equal(data.train.batch().inputs["a"][0], data.train.batch().inputs["a"][1])
    assert table(rows()).num_rows == 48
