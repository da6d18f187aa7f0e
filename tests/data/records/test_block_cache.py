"""Blocks that are kept: what is gathered of them, how often each is read, and the bytes that they take."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from equimodal._utils.arrays import npy_of
from equimodal.data import Field, from_rows, loader
from equimodal.data.records._arrow import npy_contents, one_by_one
from equimodal.data.records._block_cache import Block, BlockCache
from equimodal.data.records._contents import Contents
from equimodal.errors import DataError

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")
STARTS = np.array([0, 5, 6, 14, 20, 21, 30])


def npy(array: Any) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def cache(kinds: list[Any], count: int) -> tuple[BlockCache, list[int]]:
    """A cache of blocks whose row r has the number 10 r, in the type of each block; ``None``: as contents."""
    read: list[int] = []

    def block(number: int) -> Block:
        read.append(number)
        own = np.arange(STARTS[number], STARTS[number + 1])
        if kinds[number] is None:
            return Block(np.ones(len(own), bool), content=lambda place: 10 * own[place])
        there = own % 7 != 3
        return Block(there, (10 * own[there])[:, None].astype(kinds[number]))

    found = BlockCache(STARTS, block, np.dtype(np.float64))
    found.resize(count)
    return found, read


def gathered(blocks: BlockCache, rows: Any) -> Any:
    out = np.full(len(rows), -1.0)
    for which, places, numeric in blocks.gathers(rows):
        where: Any = slice(None) if which is None else which
        if numeric:
            values = blocks.numbers(places)[0][:, 0].astype(float)
            out[where] = np.where(blocks.filled(places), values, np.nan)
        else:
            out[where] = blocks.contents(places)
    return out


@pytest.mark.parametrize("count", [1, 2, 4, 6])
@pytest.mark.parametrize(
    "kinds",
    [["f4"] * 6, [None] * 6, ["i2", None, "i2", "f4", None, ">i4"], ["u1", "f8", "u1", "u2", "u1", "f4"]],
    ids=["numbers", "contents", "mixed", "types"],
)
def test_gathered_rows_are_those_of_the_blocks(kinds: list[Any], count: int) -> None:
    blocks, read = cache(kinds, count)
    random = np.random.default_rng(0)
    for _ in range(60):
        rows = random.integers(0, 30, int(random.integers(1, 25)))
        read.clear()
        found = gathered(blocks, rows)
        number = np.searchsorted(STARTS, rows, side="right") - 1
        gap = (rows % 7 == 3) & np.array([kinds[n] is not None for n in number])
        limit = np.where([kinds[n] == "u1" for n in number], 256, 1 << 40)
        np.testing.assert_array_equal(found, np.where(gap, np.nan, 10 * rows % limit))
        assert len(read) == len(set(read))  # none twice for one batch


@pytest.mark.parametrize("size", [1, 7, 13, 40])
def test_a_block_is_read_once_in_an_order_of_windows(size: int) -> None:
    blocks, read = cache(["f4"] * 6, 2)
    random = np.random.default_rng(1)
    windows = [np.concatenate([np.arange(STARTS[b], STARTS[b + 1]) for b in pair]) for pair in ((3, 0), (5, 2), (1, 4))]
    order = np.concatenate([random.permutation(own) for own in windows])
    for start in range(0, len(order), size):
        gathered(blocks, order[start : start + size])
    assert sorted(read) == list(range(6))
    read.clear()
    gathered(blocks, np.array([5, 20]))
    assert read == []


@pytest.mark.parametrize(
    "make",
    [
        lambda i: np.array([i, -i, 0.5], "f4"), lambda i: np.array([i, 2 * i], ">i2"),
        lambda i: np.full((2, 3, 4), i, "u1"), lambda i: np.arange(6.0).reshape(2, 3) * i,
    ],
)  # fmt: skip
@pytest.mark.parametrize("skip", [0, 3])
def test_npy_contents_are_seen_as_one_array(make: Callable[[int], Any], skip: int) -> None:
    own = pa.array([npy(make(i)) for i in range(9)], pa.binary()).slice(skip)
    found = npy_contents(own)
    assert found is not None
    assert found.dtype == make(0).dtype
    np.testing.assert_array_equal(found, np.stack([make(i) for i in range(skip, 9)]))
    contents = one_by_one(own)
    assert [contents(i) for i in range(len(own))] == own.to_pylist()


@pytest.mark.parametrize(
    "odd",
    [
        npy(np.zeros(3, "f8")), npy(np.zeros(2, "f4")), npy(np.zeros(3, "i4")), npy(np.zeros(3, "f4")) + b"x", b"",
        npy(np.zeros(3, "f4"))[:-1], b"\x93NUMPY\x01\x00\xff\xff", npy(np.array(["a" * 3])), b"x" * 140,
    ],
)  # fmt: skip
@pytest.mark.parametrize("place", [0, 4])
def test_other_contents_are_no_array(odd: bytes, place: int) -> None:
    own = [npy(np.ones(3, "f4")) for _ in range(6)]
    own[place] = odd
    assert npy_contents(pa.array(own, pa.binary())) is None


def test_an_array_by_columns_is_not_seen_as_one_by_rows() -> None:
    own = [np.asfortranarray(np.arange(6.0).reshape(2, 3) * i) for i in range(5)]
    assert npy_contents(pa.array([npy(a) for a in own], pa.binary())) is None
    rows = [{"x": npy(a), "y": i % 2} for i, a in enumerate(own * 8)]
    data = from_rows(rows, "y", {"x": Field("sequence", standardise="none")})
    batch = data.train.batch()
    assert batch.index is not None
    for place, row in enumerate(batch.index.tolist()):
        np.testing.assert_array_equal(batch.inputs["x"][place], own[row % 5])


def npy_file(path: Path, count: int = 240, odd: Any = None, among: slice = slice(130, 131)) -> Path:
    """Pictures and vectors as contents of .npy files, a column of each beside it that holds the same as lists."""
    random = np.random.default_rng(0)
    image, wide = random.integers(0, 256, (count, 3, 8, 8), dtype=np.uint8), random.normal(size=(count, 5)).astype("f4")
    there = np.arange(count) % 6 != 2
    contents = [npy(w) for w in wide]
    if odd is not None:
        contents[among] = [npy(odd)] * len(contents[among])
    columns = {
        "image": [npy(i) if t else None for i, t in zip(image, there, strict=True)], "wide": contents,
        "image lists": [i.tolist() if t else None for i, t in zip(image, there, strict=True)], "wide lists": list(wide),
        "y": np.arange(count) % 2, "part": np.repeat([0, 1, 2], [count - 40, 20, 20]),
    }  # fmt: skip
    table = pa.table(columns)
    kind = pa.list_(pa.list_(pa.list_(pa.uint8())))
    place = table.schema.get_field_index("image lists")
    pq.write_table(table.set_column(place, "image lists", table.column(place).cast(kind)), path, row_group_size=30)
    return path


def test_npy_contents_of_parquet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = npy_file(tmp_path / "a.parquet")
    calls: list[int] = []

    def counted(content: bytes, what: str) -> Any:
        calls.append(len(content))
        return npy_of(content, what)

    monkeypatch.setattr("equimodal.data.records._field.npy_of", counted)
    inputs = {"image": "image", "wide": "vector"}
    lists = {m: Field(kind, f"{m} lists") for m, kind in inputs.items()}  # type: ignore[arg-type]
    stored, other = (from_rows(path, "y", f, split="part", cache_bytes=60_000) for f in (inputs, lists))
    assert stored._store.blocks is not None
    batches = [list(loader(d.train, 16, seed=0, shuffle=False)) for d in (stored, other)]
    assert not calls  # all of a row group are seen as one array
    for one, two in zip(*batches, strict=True):
        assert one.present is not None
        for m in inputs:
            torch.testing.assert_close(one.inputs[m], two.inputs[m])
    assert sum(len(b) for b in loader(stored.train, 16, seed=0, num_workers=1)) == 200
    assert stored._store.sources["wide"].fetch(torch.arange(0)).shape == (0, 5)


def test_npy_contents_of_hugging_face(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    path = npy_file(tmp_path / "a.parquet")
    inputs = {"image": "image", "wide": "vector"}
    stored = datasets.Dataset(pq.read_table(path))
    one, other = (from_rows(own, "y", inputs, split="part") for own in (stored, path))
    for m in inputs:
        torch.testing.assert_close(one.train.batch().inputs[m], other.train.batch().inputs[m])


def test_npy_contents_of_several_types_and_shapes(tmp_path: Path) -> None:
    field = {"wide": Field("vector", standardise="none")}
    path = npy_file(tmp_path / "a.parquet", odd=np.array([1.5, -2, 0, 3, 4]))  # float64, which float32 holds
    batch = from_rows(path, "y", field, split="part").train.batch([129, 130, 131])
    assert batch.inputs["wide"][1].tolist() == [1.5, -2, 0, 3, 4]
    for among in (slice(130, 131), slice(120, 150)):  # one row, and a whole row group
        path = npy_file(tmp_path / "b.parquet", odd=np.zeros(1, "f4"), among=among)
        with pytest.raises(DataError, match=rf"'wide', row {among.start}: expected shape \(5,\), as in .*1,"):
            from_rows(path, "y", field, split="part").train.batch()


def test_numbers_that_repeat_take_the_bytes_that_they_have_in_memory(tmp_path: Path) -> None:
    count, width = 800, 500
    values = pa.FixedSizeListArray.from_arrays(
        pa.array(np.repeat(np.array([1, 2], np.float32), count * width // 2)), width
    )
    table = pa.table({"x": values, "y": np.arange(count) % 2})
    pq.write_table(table, tmp_path / "a.parquet", row_group_size=50)  # 100,000 bytes of numbers each
    assert (tmp_path / "a.parquet").stat().st_size < 50_000
    field = {"x": Field("vector", standardise="none")}
    with pytest.raises(DataError, match="expected row groups of at most 90000 bytes.*Found one of 100000"):
        from_rows(tmp_path / "a.parquet", "y", field, cache_bytes=90_000)
    data = from_rows(tmp_path / "a.parquet", "y", field, cache_bytes=350_000)
    assert data._store.blocks is not None
    assert data._store.blocks.window == 2
    contents: Any = data._store.sources["x"]
    contents = contents._rows_of
    assert isinstance(contents, Contents)
    data.train.batch()
    assert contents._blocks is not None
    assert contents._blocks._values is not None
    assert contents._blocks._values.nbytes == 2 * 100_000  # and one more while it is read
