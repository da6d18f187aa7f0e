"""Contents, files and threads that are easily read wrongly: what comes out is what pyarrow says, or an error."""

from __future__ import annotations

import io
import os
import shutil
import sys
import tarfile
import threading
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from equimodal.data import Field, from_rows, loader
from equimodal.data.records._block_cache import Block, BlockCache
from equimodal.errors import DataError, NonFiniteError

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")
COUNT, LITTLE = 60, 30_000  # bytes of a cache that keeps a few row groups, and nothing in memory as a whole


def npy(array: Any) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def written(path: Path, column: Any, **options: Any) -> Path:
    own = {"x": column, "y": np.arange(COUNT) % 2, "part": np.arange(COUNT) % 4 % 3, "a": np.arange(COUNT) / 7}
    pq.write_table(pa.table(own), path, row_group_size=7, **options)
    return path


def opened(rows: Any, kind: Any, length: int | None = None, cache_bytes: int = LITTLE, **options: Any) -> Any:
    inputs: dict[str, Any] = {
        "x": Field(kind, length=length, standardise="none", **options.pop("field", {})),
        "a": "vector",
    }
    return from_rows(rows, "y", inputs, split="part", cache_bytes=cache_bytes, **options)


@pytest.mark.parametrize("cache_bytes", [1 << 10, 1 << 20])
@pytest.mark.parametrize("nested", [False, True])
def test_the_first_content_that_is_not_empty_says_the_shape(nested: bool, cache_bytes: int, tmp_path: Path) -> None:
    own = [[[i, 1.5]] * (i % 4 if nested else 0 if i < 20 else 1) for i in range(COUNT)]
    path = written(tmp_path / "a.parquet", pa.array(own, pa.list_(pa.list_(pa.float32()))))
    for rows in (path, pq.read_table(path).to_pylist()):
        data = opened(rows, "sequence", 2, cache_bytes)
        for batch in loader(data.train, 5):
            tokens: Any = batch.inputs["x"]
            assert batch.index is not None
            for place, row in enumerate(batch.index.tolist()):
                assert tokens.values[place][tokens.mask[place]].tolist() == own[row][:2]


@pytest.mark.parametrize("form", ["lists", "npy", "padded", "decoded"])
@pytest.mark.parametrize("wrong", [1.5, float("nan"), float("inf"), 1e19])
def test_quantities_are_no_tokens(form: str, wrong: float, tmp_path: Path) -> None:
    """They are not cut to whole numbers."""
    own: list[Any] = [np.array([1.0, wrong if i == 38 else 2.0]) for i in range(COUNT)]
    column = [npy(a) for a in own] if form == "npy" else [a.tolist() for a in own]
    decode = {"decode": np.asarray} if form == "decoded" else {}
    with pytest.raises(DataError, match=r"a.parquet: column 'x', row 38: expected token ids, whole numbers from 0"):
        opened(
            written(tmp_path / "a.parquet", column), "tokens", 2 if form == "padded" else None, 2000, field=decode
        ).test.batch()


@pytest.mark.parametrize(
    "odd", [np.ones(2, complex), np.ones(2, [("a", "f4")]), np.array(["1", "2"]), np.array([1, 2], "M8[s]")]
)
@pytest.mark.parametrize("row", [0, 38])
def test_contents_of_npy_files_that_are_no_plain_numbers(odd: Any, row: int, tmp_path: Path) -> None:
    own = [npy(odd if i == row else np.ones(2)) for i in range(COUNT)]
    with pytest.raises(DataError, match=f"row {row}: expected content of kind 'vector'. Found something else than pla"):
        opened(written(tmp_path / "a.parquet", own), "vector").test.batch()


@pytest.mark.parametrize("empty", [0, slice(0, COUNT)])
def test_a_content_that_is_claimed_and_not_there(empty: Any, tmp_path: Path) -> None:
    own = np.array([npy(np.ones(2))] * COUNT, object)
    own[empty] = None
    path = written(tmp_path / "a.parquet", pa.array(own.tolist(), pa.binary()))
    with pytest.raises(DataError, match="row 0: expected a content, since `present` says that there is one"):
        opened(path, "vector", present={"x": np.ones(COUNT, bool)})


@pytest.mark.parametrize("kind", [pa.binary_view(), pa.large_binary(), pa.dictionary(pa.int32(), pa.binary())])
def test_other_forms_of_bytes(kind: Any, tmp_path: Path) -> None:
    own = [npy(np.full(2, i % 9, "f4")) if i % 5 else None for i in range(COUNT)]
    plain = pa.array(own, pa.binary())
    column = plain.dictionary_encode() if "dict" in str(kind) else plain.cast(kind)
    data = opened(written(tmp_path / "a.parquet", column), "vector")
    for batch in loader(data.train, 5):
        assert batch.index is not None
        expected = np.where(batch.index % 5 != 0, batch.index % 9, 0)
        np.testing.assert_array_equal(batch.inputs["x"], np.repeat(expected[:, None], 2, 1))


def test_what_float32_does_not_hold_is_refused_without_a_warning(tmp_path: Path) -> None:
    own = [npy(np.full(2, 1e300 if i > 30 else 1, "f8" if i > 30 else "f4")) for i in range(COUNT)]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for cache_bytes in (LITTLE, 1 << 20):
            with pytest.raises(NonFiniteError):
                list(loader(opened(written(tmp_path / "a.parquet", own), "vector", None, cache_bytes).train, 5))
        with pytest.raises(NonFiniteError):
            opened(written(tmp_path / "b.parquet", [[1e300]] * COUNT), "vector", None, 1 << 20)


@pytest.mark.parametrize("several", [False, True])
@pytest.mark.parametrize("change", ["replaced", "overwritten", "deleted", "cut"])
def test_a_file_that_changes_while_it_is_read(change: str, several: bool, tmp_path: Path) -> None:
    """One of the same layout would give other numbers, and no error."""
    options = {"compression": "none", "use_dictionary": False}
    folder, plain = tmp_path / "rows", np.arange(COUNT)[:, None].repeat(40, 1)
    folder.mkdir()
    path = written(folder / "a.parquet", list(plain / 1.0), **options)
    if several:
        written(folder / "b.parquet", list(plain / 1.0), **options)
    data = opened(folder, "vector", None, 7000)
    batches = loader(data.train, 5)
    assert all((b.inputs["x"][:, 0] == b.index % COUNT).all() for b in batches)  # type: ignore[operator]
    other = written(tmp_path / "a.parquet", list(2.0 * plain), **options)
    os.utime(other, ns=(0, path.stat().st_mtime_ns + 10**9))
    if change == "replaced":
        other.replace(path)
    elif change == "overwritten":
        shutil.copy2(other, path)
    elif change == "deleted":
        path.unlink()
    else:
        os.truncate(path, 300)
    with pytest.raises(DataError, match=r"a\.parquet: expected a"):
        list(batches)


def test_a_tar_file_that_changes_while_it_is_read(tmp_path: Path) -> None:
    def tar(path: Path, factor: int) -> Path:
        with tarfile.open(path, "w") as file:
            for i in range(COUNT):
                for suffix, content in (("x.npy", npy(np.full(2, factor * i))), ("y.cls", str(i % 2).encode())):
                    member = tarfile.TarInfo(f"{i:03d}.{suffix}")
                    member.size = len(content)
                    file.addfile(member, io.BytesIO(content))
        return path

    path = tar(tmp_path / "a.tar", 1)
    data = from_rows(path, "y.cls", {"x": Field("vector", "x.npy", standardise="none")})
    assert (data.test.batch().inputs["x"][:, 0] == data.test.rows).all()
    other = tar(tmp_path / "b.tar", 2)
    os.utime(other, ns=(0, path.stat().st_mtime_ns + 10**9))
    other.replace(path)
    with pytest.raises(DataError, match=r"a\.tar: expected a file that stays as it is while it is read"):
        data.test.batch()


def test_threads_share_the_blocks(tmp_path: Path) -> None:
    own = [npy(np.full(40, i, "f4")) for i in range(COUNT)]
    field = {"decode": lambda content: np.load(io.BytesIO(content))}
    path, wrong = written(tmp_path / "a.parquet", own), list[Any]()

    def read(data: Any, seed: int) -> None:
        try:
            for _ in range(8):
                for batch in loader(data.train, 5, seed=seed):
                    assert batch.index is not None
                    wrong.extend(batch.index[(batch.inputs["x"][:, 0] != batch.index)].tolist())
        except (DataError, LookupError, RuntimeError) as error:
            wrong.append(error)

    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        for options in ({}, {"field": field}):
            data = opened(path, "vector", None, 7000, **options)
            threads = [threading.Thread(target=read, args=(data, seed)) for seed in range(4)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
    finally:
        sys.setswitchinterval(before)
    assert wrong == []


@pytest.mark.skipif(not hasattr(os, "fork"), reason="processes are not forked")
def test_a_forked_process_waits_for_no_thread_of_the_other(monkeypatch: pytest.MonkeyPatch) -> None:
    blocks = BlockCache(np.array([0, 4]), lambda _: Block(np.ones(4, bool), np.ones((4, 1))), np.dtype("f8"))
    with blocks.turn():
        mine = os.getpid()
        monkeypatch.setattr(os, "getpid", lambda: mine + 1)  # as after a fork in another thread
        with blocks.turn():
            assert [places.tolist() for _, places, _ in blocks.gathers(np.array([2]))] == [[2]]


def test_slots_take_no_larger_type_than_they_need() -> None:
    kinds = ["u1", "i2", "u1", "f4"]
    blocks = BlockCache(
        np.arange(0, 17, 4), lambda b: Block(np.ones(4, bool), np.full((4, 1), b, kinds[b])), np.dtype("f8")
    )
    blocks.resize(4)
    found = []
    for row in (0, 4, 8, 12):
        for _, places, _ in blocks.gathers(np.array([row])):
            found.append(blocks.numbers(places)[0].dtype.name)
    assert found == ["uint8", "int16", "int16", "float32"]
    values = [blocks.numbers(places)[0].tolist() for _, places, _ in blocks.gathers(np.arange(16))]
    assert values == [[[b] for b in range(4) for _ in range(4)]]


@pytest.mark.parametrize("several", [False, True])
def test_contents_that_repeat_are_counted_as_they_are_kept(several: bool, tmp_path: Path) -> None:
    """A file has them once in a row group, memory once for each row."""
    own = [bytes([i % 3]) * 10_000 for i in range(COUNT)]
    path = written(tmp_path / "a.parquet", pa.array(own, pa.binary()))
    assert pq.ParquetFile(path).metadata.row_group(1).total_byte_size < 40_000
    rows = [written(tmp_path / "b.parquet", pa.array(own, pa.binary())), path] if several else path
    field = {"decode": lambda content: np.frombuffer(content[:2], "u1")}
    with pytest.raises(DataError, match=r"expected row groups of at most 60000 bytes .* Found one of 7\d{4}\."):
        opened(rows, "vector", cache_bytes=60_000, field=field)
    pool = pa.default_memory_pool()
    before, data = pool.bytes_allocated(), opened(rows, "vector", cache_bytes=290_000, field=field)
    for batch in loader(data.train, 5):
        assert batch.index is not None
        assert (batch.inputs["x"][:, 0] == batch.index % 3).all()
        assert pool.bytes_allocated() - before < 290_000


@pytest.mark.parametrize("permutation", [None, [1, 0], [2, 1, 0]])
@pytest.mark.parametrize("cache_bytes", [30_000, 1 << 20])
def test_tensors_of_arrow_have_their_shape(permutation: Any, cache_bytes: int, tmp_path: Path) -> None:
    shape = (5, 6, 7)[: len(permutation or (0, 0))]
    kind = pa.fixed_shape_tensor(pa.float32(), shape, permutation=permutation)
    stored = np.arange(COUNT * np.prod(shape), dtype="f4").reshape(COUNT, *shape)
    flat = pa.FixedSizeListArray.from_arrays(pa.array(stored.ravel()), int(np.prod(shape)))
    path = written(tmp_path / "a.parquet", pa.ExtensionArray.from_storage(kind, flat))
    axes = permutation or list(range(len(shape)))
    data = opened(path, "sequence" if len(shape) == 2 else "image", None, cache_bytes)
    for batch in loader(data.train, 5):
        np.testing.assert_array_equal(batch.inputs["x"], stored[batch.index].transpose(0, *(axis + 1 for axis in axes)))


def test_tensors_whose_axes_are_not_agreed_on_are_no_image(tmp_path: Path) -> None:
    kind = pa.fixed_shape_tensor(pa.float32(), (5, 6, 7), permutation=[2, 0, 1])
    flat = pa.FixedSizeListArray.from_arrays(pa.array(np.zeros(COUNT * 210, "f4")), 210)
    path = written(tmp_path / "a.parquet", pa.ExtensionArray.from_storage(kind, flat))
    with pytest.raises(DataError, match=r"expected one image of shape .* Found shape \(210,\)"):
        opened(path, "image")


def test_row_groups_that_are_too_large_are_told_a_size_that_fits(tmp_path: Path) -> None:
    column = list(np.ones((COUNT, 100)))
    own = {"x": column, "y": np.arange(COUNT) % 2, "part": np.arange(COUNT) % 3, "a": np.zeros(COUNT)}
    pq.write_table(pa.table(own), tmp_path / "b.parquet", row_group_size=40)
    with pytest.raises(DataError, match=r"row_group_size=5\)"):
        opened(tmp_path / "b.parquet", "vector", cache_bytes=16_500)
    pq.write_table(pa.table(own), tmp_path / "b.parquet", row_group_size=5)
    assert opened(tmp_path / "b.parquet", "vector", cache_bytes=16_500).train._store.blocks.window > 1
