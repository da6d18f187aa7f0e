"""Parquet: row groups are read once per epoch, columns that nobody needs never; the order; what is refused."""

from __future__ import annotations

import pickle
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from equimodal.batch import Tokens
from equimodal.data import Field, from_arrays, from_rows, load, loader
from equimodal.data._splits import Blocks
from equimodal.data.records._parquet import ParquetReader
from equimodal.errors import DataError, MissingExtraError, NonFiniteError, UnknownNameError
from tests.data.records.helpers import dataset, rows, written

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")
VECTORS = {"a": "vector", "b": "vector"}


def numbers(path: Path, count: int = 600, group: int = 50, **more: Any) -> Path:
    """Vectors of 3 numbers, some of which are absent, and a column that nobody needs."""
    values = [None if i % 11 == 5 else [i, -i, i % 7] for i in range(count)]
    columns = {
        "a": pa.array(values, pa.list_(pa.float32())), "b": np.arange(count),
        "y": np.arange(count) % 3, "heavy": ["x" * 100] * count,
        "part": np.repeat(["train", "validation", "test"], [count - 40, 20, 20]), **more,
    }  # fmt: skip
    pq.write_table(pa.table(columns), path, row_group_size=group)
    return path


def bytes_as_numbers(content: bytes) -> Any:
    return np.frombuffer(content, np.uint8)


def small(path: Path, blocks: int, **options: Any) -> Any:
    """A dataset that keeps about so many row groups."""
    size = ParquetReader(path).block_bytes(["a", "b"])
    return from_rows(path, "y", VECTORS, split="part", cache_bytes=size * (blocks + 1), **options)


def test_the_order_of_blocks() -> None:
    blocks = Blocks(np.arange(0, 101, 10), 3)
    rows = torch.arange(0, 100, 2)
    order = torch.randperm(50, generator=torch.Generator().manual_seed(0))
    found = blocks.order(rows, order, torch.Generator().manual_seed(1))
    assert sorted(found.tolist()) == list(range(50))
    windows = [np.unique(rows[found[start : start + 15]] // 10).tolist() for start in range(0, 45, 15)]
    assert [len(w) for w in windows] == [3, 3, 3]
    assert len({b for w in windows for b in w}) == 9
    first = found[:15].tolist()
    assert first == [i for i in order.tolist() if i in set(first)]  # rows of a window are as random as all are
    other = blocks.order(rows, order, torch.Generator().manual_seed(2))
    assert not torch.equal(found, other)


@pytest.mark.parametrize(("window", "batch"), [(3, 32), (3, 200), (8, 32)])
def test_row_groups_are_read_once_per_epoch_and_only_needed_columns(
    window: int, batch: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bytes_of = pa.array([None if i % 11 == 5 else bytes([i % 256]) * 3 for i in range(600)], pa.binary())
    path = numbers(tmp_path / "a.parquet", a=bytes_of)
    inputs: dict[str, Any] = {"a": Field("vector", decode=bytes_as_numbers), "b": "vector"}
    size = ParquetReader(path).block_bytes(["a", "b"])
    data = from_rows(path, "y", inputs, split="part", cache_bytes=size * (window + 1))
    assert data._store.blocks is not None
    assert data._store.blocks.window == window
    read: list[tuple[str, int]] = []
    plain = pq.ParquetFile.read_row_group

    def counted(self: Any, number: int, columns: Any = None, **options: Any) -> Any:
        read.extend((column, number) for column in (columns or self.schema_arrow.names))
        return plain(self, number, columns, **options)

    monkeypatch.setattr(pq.ParquetFile, "read_row_group", counted)
    train = pickle.loads(pickle.dumps(data.train))  # another process, which has read nothing yet
    batches = loader(train, batch, seed=0)
    for epoch in range(3):
        read.clear()
        assert sum(len(b) for b in batches) == 560
        # also where a batch is the last of some row groups and the first of others
        assert len(read) == len(set(read))
        assert set(read) <= {(c, n) for c in "ab" for n in range(12)}
        assert len(read) == 24 if epoch == 0 else len(read) >= 2 * (12 - window)  # the others are there still
    order = np.concatenate([b.index for b in batches])
    near = np.abs(np.diff(order // 50))
    assert (near > 0).mean() > 0.5  # rows of several row groups are next to each other


def test_numbers_in_memory_and_in_blocks_are_the_same(tmp_path: Path) -> None:
    path = numbers(tmp_path / "a.parquet")
    lazily, kept = small(path, 3), from_rows(path, "y", VECTORS, split="part")
    assert kept._store.blocks is None
    raw = np.array([[i, -i, i % 7] if i % 11 != 5 else [0, 0, 0] for i in range(600)], np.float32)
    there = np.arange(600) % 11 != 5
    plain = from_arrays(
        {"a": raw, "b": np.arange(600.0)[:, None]},
        np.arange(600) % 3,
        np.repeat([0, 1, 2], [560, 20, 20]),
        present={"a": there},
    )  # the same statistics
    for data in (lazily, kept):
        one, other = data.test.batch(), plain.test.batch()
        assert one.present is not None
        assert other.present is not None
        own = one.present["a"]
        torch.testing.assert_close(one.inputs["a"][own], other.inputs["a"][own])
        assert torch.equal(own, other.present["a"])
        assert torch.equal(data.test.target, plain.test.target)
        mean, scale = plain.standardisation("a")
        np.testing.assert_allclose(data.standardisation("a")[0], mean, rtol=1e-6)
        np.testing.assert_allclose(data.standardisation("a")[1], scale, rtol=1e-6)
    assert not lazily.train.batch([5]).inputs["a"].any()


def test_statistics_are_of_training_rows_that_have_something(tmp_path: Path) -> None:
    values = [[1.0], None, [3.0], [100.0], [-100.0]]
    pq.write_table(pa.table({"a": values, "y": [0, 1, 1, 0, 0], "part": [0, 0, 0, 1, 2]}), tmp_path / "a.parquet")
    rows_of = [{"a": v, "b": [0.5], "y": y, "part": p} for v, y, p in zip(values, [0, 1, 1, 0, 0], [0, 0, 0, 1, 2])]
    fields: dict[str, Any] = {"a": "vector", "b": Field("vector", standardise="none")}
    data = from_rows(rows_of, "y", fields, split="part")
    mean, scale = data.standardisation("a", np.float64)
    assert float(mean[0]) == 2.0
    assert float(scale[0]) == 1.0


def test_tokens_of_several_lengths(tmp_path: Path) -> None:
    own = rows()
    lazily = dataset("parquet", tmp_path, own, cache_bytes=1 << 11)
    kept = dataset("parquet", tmp_path, own)
    assert type(lazily._store.sources["words"]) is not type(kept._store.sources["words"])
    for one, other in zip(lazily.train.batch().inputs["words"], kept.train.batch().inputs["words"], strict=True):
        assert torch.equal(one, other)
    batches = loader(lazily.train, 6, seed=0)
    batches.plan({"image": [-1] * 8, "sound": [-1] * 8, "words": list(range(8))})
    for batch in batches:
        assert isinstance(batch.inputs["words"], Tokens)
        assert batch.present is not None
        assert not batch.present["image"].any()


def test_parts_from_files_a_folder_and_a_draw(tmp_path: Path) -> None:
    own = rows()
    files = {}
    for part in ("train", "validation", "test"):
        folder = tmp_path / part
        folder.mkdir()
        files[part] = written("parquet", folder, [r for r in own if r["part"] == part])
    inputs: dict[str, Any] = {"sound": "vector", "words": Field("tokens", length=2)}
    data = from_rows(files, "label", inputs)
    assert data.parts == {"train": 24, "validation": 12, "test": 12}
    carved = from_rows({"train": files["train"], "test": files["test"]}, "label", inputs,
                       validation={"carve": 0.25, "seed": 0, "by": "class"})  # fmt: skip
    assert carved.parts == {"train": 18, "validation": 6, "test": 12}
    both = from_rows([files["train"], files["test"]], "label", inputs, shares=(0.5, 0.25, 0.25))
    assert both.parts == {"train": 18, "validation": 8, "test": 10}
    assert both.train.class_counts == {"no": 9, "yes": 9}
    grouped = from_rows([files["train"], files["test"]], "label", inputs, groups="who")
    assert grouped.protocol.disjoint
    with pytest.raises(DataError, match=r"expected a mapping from train, validation and test to rows. Found \['a'"):
        from_rows({"a": files["train"]}, "label", inputs)


def test_a_parquet_file_by_its_path(tmp_path: Path) -> None:
    path = written("parquet", tmp_path)
    inputs = {"image": {"kind": "image", "size": 8}, "words": {"kind": "tokens", "length": 2}}
    assert load(path, target="label", split="part", inputs=inputs).modalities["image"].shape == (3, 8, 8)
    pytest.importorskip("pandas")
    table = load(path, target="label", split="part", columns={"image": "ignore", "words": "ignore"})
    assert list(table.modalities) == ["table", "sound"]
    with pytest.raises(DataError, match="expected neither `card` nor `protocol` for rows"):
        load(path, target="label", inputs=inputs, protocol="given")
    with pytest.raises(UnknownNameError, match="option of dataset .*'splitt'. Did you mean 'split'"):
        load(path, target="label", inputs=inputs, splitt="part")


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"target": "lable"}, "Unknown column of .*rows.parquet in `target`: 'lable'. Did you mean 'label'"),
        ({"inputs": {"sond": "vector"}}, "in `inputs.*'sond'. Did you mean 'sound'"),
        ({"inputs": {"words": "sequence"}}, "column 'words', row 1: expected 1 entries, as in the first row. Found 2"),
        ({"inputs": {"label": "vector"}}, "row 0: expected content of kind 'vector'. Found str .*Give decode="),
        ({"inputs": {"image": "volume"}}, "row 1: expected content of kind 'volume'. Found bytes"),
        ({"inputs": {"sound": "sound"}}, "`kind`: expected one of .* Found 'sound'"),
        ({"inputs": {}}, "`inputs`: expected a mapping"),
        ({"inputs": {"sound": Field("vector"), "image": 3}}, r"`inputs\['image'\]`: expected a kind"),
        ({"split": "label"}, "`split`: row 0: expected train, validation or test. Found 'no'"),
        ({"present": {"sond": [True]}}, r"`present`: expected modalities of `inputs` \['sound'\]. Found \['sond'\]"),
        ({"present": {"sound": [True]}}, r"`present\['sound'\]`: expected a column of .* or 48 values. Found \(1,\)"),
        ({"cache_bytes": 8}, r"expected row groups of at most 8 bytes in the columns \['sound'\].*row_group_size=1\)"),
        ({"classes": ["no"]}, r"`target`: expected names of `classes` \['no'\]. Found \['yes'\]"),
        ({"shares": (1, 0, 0), "split": None}, "`shares`: expected three numbers"),
    ],
)
def test_refusals(options: dict[str, Any], match: str, tmp_path: Path) -> None:
    path = written("parquet", tmp_path)
    arguments: dict[str, Any] = {"target": "label", "inputs": {"sound": "vector"}, "split": "part", **options}
    with pytest.raises((DataError, UnknownNameError), match=match):
        from_rows(path, **arguments)


def test_a_configuration_names_rows(tmp_path: Path) -> None:
    pytest.importorskip("lightning")
    from equimodal.studies.setup import DataConfig, build_data

    path = written("parquet", tmp_path)
    options = {"split": "part", "inputs": {"image": {"kind": "image", "size": 8}, "who": "vector"}}
    data = build_data(DataConfig(str(path), target="label", options=options, missing="image=0.5"))
    assert data.name == "rows"
    assert list(data.modalities) == ["image", "who"]
    assert 0.2 < data.presence["train"]["image"] < 0.7
    again = build_data(DataConfig(str(path), target="label", options=options, missing="image=0.5"))
    assert again.fingerprint == data.fingerprint
    other = build_data(DataConfig(str(path), target="label", options={**options, "seed": 1}, missing="image=0.4"))
    assert other.fingerprint != data.fingerprint


def test_presence_that_the_file_contradicts(tmp_path: Path) -> None:
    path = numbers(tmp_path / "a.parquet")
    with pytest.raises(DataError, match="column 'a', row 5: expected a content, since `present` says"):
        small(path, 3, present={"a": np.ones(600, bool)})


def test_contents_that_no_training_could_use() -> None:
    def made(content: Any, field: Any, **options: Any) -> Any:
        own = [{"x": content(i), "y": i % 2} for i in range(40)]
        return from_rows(own, "y", {"x": field}, **options)

    with pytest.raises(DataError, match=r"'x': expected token ids, whole numbers from 0. Found -3, first"):
        made(lambda i: [1, -3], "tokens").train.batch()
    with pytest.raises(NonFiniteError, match="'x': expected finite numbers"):
        made(lambda i: [1.0, float("nan")], "vector")
    with pytest.raises(
        DataError, match=r"column 'x', row \d+: expected shape \(2,\), as in the first row. Found \(1,\)"
    ):
        made(lambda i: [1.0] * (2 - (i == 20)), Field("vector", standardise="none")).train.batch()
    with pytest.raises(DataError, match="column 'x', row .*Found ZeroDivisionError: division by zero") as caught:
        made(lambda i: [1.0], Field("vector", decode=lambda content: 1 / 0))
    assert isinstance(caught.value.__cause__, ZeroDivisionError)
    for option in ("statistics", "cache_bytes"):
        with pytest.raises(DataError, match=f"`{option}`: expected a whole number of at least 1. Found 0"):
            made(lambda i: [1.0], "vector", **{option: 0})


def test_a_map_style_dataset_is_looked_through_once() -> None:
    class Samples(torch.utils.data.Dataset[Any]):
        asked = 0

        def __len__(self) -> int:
            return 60

        def __getitem__(self, row: int) -> dict[str, Any]:
            self.asked += 1
            own = {"x": torch.full((3,), float(row)), "y": torch.tensor(row % 3)}
            return {**own, "image": np.full((1, 8, 8), row, np.uint8) if row % 2 else None}

    samples = Samples()
    fields = {"x": Field("vector", standardise="none"), "image": Field("image", standardise="none")}
    data = from_rows(samples, "y", fields)
    assert samples.asked == 1 + 60 + 2  # its columns; targets and gaps; a shape of each modality
    assert data.train.class_counts == {"0": 14, "1": 14, "2": 14}
    batch = data.test.batch()
    assert batch.index is not None
    assert torch.equal(batch.inputs["x"][:, 0], batch.index.float())
    assert torch.equal(batch.inputs["image"][:, 0, 0, 0], (batch.index * (batch.index % 2)).float())


@pytest.mark.parametrize("cached", [False, True])
def test_several_columns_make_a_vector(cached: bool, tmp_path: Path) -> None:
    price = [None if i % 7 == 3 else i / 2 for i in range(60)]
    columns = {"price": price, "count": np.arange(60), "on": np.arange(60) % 2 == 0, "y": np.arange(60) % 2,
               "words": [[1, 2]] * 60, "part": np.arange(60) // 20}  # fmt: skip
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table(columns), path, row_group_size=9)
    numbers_of = Field("vector", ["price", "count", "on"], standardise="none")
    inputs: dict[str, Any] = {"numbers": numbers_of, "words": "tokens"}
    more: dict[str, Any] = {"cache": tmp_path / "cache", "cache_bytes": 4000} if cached else {}
    data = from_rows(path, "y", inputs, split="part", **more)
    batch = data.train.batch()
    assert batch.present is not None
    assert batch.present["numbers"].tolist() == [i % 7 != 3 for i in range(20)]
    expected = [[i / 2, i, i % 2 == 0] if i % 7 != 3 else [0, 0, 0] for i in range(20)]
    assert torch.equal(batch.inputs["numbers"], torch.tensor(expected).float())
    with pytest.raises(DataError, match="'numbers': expected numbers of at most 250 bytes.*Found 1440. Give more"):
        from_rows(path, "y", inputs, split="part", cache_bytes=1000)
    with pytest.raises(DataError, match=r"column 'words': expected single numbers.*Found contents of shape \(2,\)"):
        from_rows(path, "y", {"a": Field("vector", ["price", "words"])}, split="part")
    with pytest.raises(DataError, match="`column`: expected several columns for a vector of numbers only"):
        Field("image", ["price", "count"])


def test_streams_and_other_things_are_refused(tmp_path: Path) -> None:
    stream = (row for row in rows())
    with pytest.raises(DataError, match="Found generator, whose rows come one after the other.*Write the rows once"):
        from_rows(stream, "label", {"sound": "vector"})
    for wrong, match in (
        (tmp_path / "none.parquet", "Found no such file"), (tmp_path, "expected a folder of .parquet or of .tar"),
        (tmp_path / "a.csv", "Found the suffix '.csv'"), ([], "expected at least one row"),
        ([1, 2], "Found int in row 0"),
    ):  # fmt: skip
        with pytest.raises(DataError, match=match):
            from_rows(wrong, "label", {"sound": "vector"})
    (tmp_path / "broken.parquet").write_bytes(b"PAR1 nothing")
    with pytest.raises(DataError, match="expected a Parquet file. Found one that cannot be read"):
        from_rows(tmp_path / "broken.parquet", "label", {"sound": "vector"})
    (tmp_path / "broken.tar").write_bytes(b"no tar file" * 100)
    with pytest.raises(DataError, match="expected an uncompressed tar file of WebDataset"):
        from_rows(tmp_path / "broken.tar", "label", {"sound": "vector"})


def test_what_is_not_installed_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = written("parquet", tmp_path)
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(MissingExtraError, match=r'pip install "equimodal\[rows\]"'):
        from_rows(path, "label", {"words": Field("tokens", length=2)})
    assert from_rows(rows(), "label", {"words": Field("tokens", length=2)}).num_samples == 48
