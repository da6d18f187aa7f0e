"""Rows that nobody would write on purpose: each is refused with its place and a next step, none is read wrongly."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from equimodal.data import Field, from_rows, load, loader
from equimodal.errors import BatchError, DataError, UnknownNameError

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")


def rows(count: int = 40, odd: Mapping[Any, Any] | None = None) -> list[dict[str, Any]]:
    """Vectors of two numbers; ``odd`` has what stands in row 9 instead."""
    own = [{"x": [float(i), 1.0], "ids": [1 + i % 3, 2], "y": "ab"[i % 2], "who": f"w{i // 4}"} for i in range(count)]
    if count > 9:
        own[9] |= odd or {}
    return own


def stored(path: Path, own: list[dict[str, Any]]) -> Path:
    pq.write_table(pa.Table.from_pylist(own), path, row_group_size=16)
    return path


@pytest.mark.parametrize("cache_bytes", [1 << 29, 500])  # kept in memory, or read from row groups
@pytest.mark.parametrize(
    ("column", "kind", "odd"),
    [
        ("ids", "vector", [1, None]), ("ids", Field("tokens", length=2), [None, 1]), ("x", "vector", [None, 1.0]),
        ("x", Field("sequence", length=3, decode=None), [1.0, None]),
    ],
)  # fmt: skip
def test_an_empty_place_in_a_list_never_becomes_a_number(
    column: str, kind: Any, odd: list[Any], cache_bytes: int, tmp_path: Path
) -> None:
    path = stored(tmp_path / "a.parquet", rows(odd={column: odd}))
    with pytest.raises(DataError, match=f"column '{column}', row 9: expected numbers alone. Found an empty place"):
        data = from_rows(path, "y", {column: kind}, cache_bytes=cache_bytes)
        for split in (data.train, data.validation, data.test):
            split.batch()


def test_an_empty_list_in_lists_is_refused(tmp_path: Path) -> None:
    own = [{"x": [[1.0, 2.0], None if i == 9 else [3.0, 4.0]], "y": "ab"[i % 2]} for i in range(40)]
    for field in ("sequence", Field("sequence", length=2)):
        with pytest.raises(DataError, match="row 9: expected numbers alone. Found an empty place"):
            from_rows(stored(tmp_path / "a.parquet", own), "y", {"x": field})


def test_lists_that_a_function_decodes_may_be_uneven(tmp_path: Path) -> None:
    own = [{"x": [[1.0] * (1 + i % 3), [None, 2.0]], "y": "ab"[i % 2]} for i in range(40)]
    field = Field("vector", decode=lambda content: [len(content[0]), content[1][1]], standardise="none")
    data = from_rows(stored(tmp_path / "a.parquet", own), "y", {"x": field})
    batch = data.train.batch()
    assert batch.index is not None
    assert batch.inputs["x"].tolist() == [[1 + i % 3, 2.0] for i in batch.index.tolist()]


@pytest.mark.parametrize(
    ("odd", "match"),
    [
        ({"x": [1.0, None]}, "row 9: .*something else than plain numbers .*Give decode="),
        ({"x": ["1", "2"]}, "row 9: .*something else than plain numbers"),
        ({"x": [1j, 2.0]}, "row 9: .*something else than plain numbers"),
        ({"x": [10**30, 1]}, "row 9: .*something else than plain numbers"),
        ({"x": [[1.0], [1.0, 2.0]]}, "row 9: .*no array of one shape.*Give decode="),
        ({"x": [1.0]}, r"row 9: expected shape \(2,\), as in the first row. Found \(1,\). Give decode="),
        ({"y": 3}, "column 'y', row 9: expected values of one kind for the `target`.*Found 3 .int. beside 'a'"),
        ({"y": None}, "column 'y', row 9: expected a value for the `target`"),
        ({"who": None}, "column 'who', row 9: expected a value for the `groups`"),
        ({"who": ["a", "b"]}, "column 'who', row 9: expected values of one kind for the `groups`"),
        ({5: 1}, "Found the name 5, which is no text in row 9"),
    ],
)
def test_odd_contents_of_a_list(odd: dict[Any, Any], match: str) -> None:
    own = rows(odd=odd)
    with pytest.raises(DataError, match=match):
        from_rows(own, "y", {"x": "vector"}, groups="who")


def test_targets_of_several_lengths_and_wide_numbers(tmp_path: Path) -> None:
    uneven = [{"x": [1.0], "y": [1] * (1 + i % 2)} for i in range(40)]
    with pytest.raises(DataError, match="row 1: expected values of one kind for the `target`"):
        from_rows(uneven, "y", {"x": "vector"}, task="multilabel")
    with pytest.raises(DataError, match="row 1: expected values of one kind for the `target`"):
        from_rows(stored(tmp_path / "a.parquet", uneven), "y", {"x": "vector"}, task="multilabel")
    wide = pa.table({"x": [[1.0]] * 40, "y": pa.array([2**63 + i % 2 for i in range(40)], pa.uint64())})
    pq.write_table(wide, tmp_path / "b.parquet")
    with pytest.raises(DataError, match=f"Found the labels {2**63} to {2**63 + 1}"):
        from_rows(tmp_path / "b.parquet", "y", {"x": "vector"})


def test_a_row_that_is_no_mapping_and_a_column_that_row_0_lacks() -> None:
    with pytest.raises(DataError, match="Found int in row 40 of 'list'. Make them a list of mappings"):
        from_rows([*rows(), 3], "y", {"x": "vector"})
    with pytest.raises(UnknownNameError, match="those of its row 0, in `target`: 'z'"):
        from_rows(rows(), "z", {"x": "vector"})


def test_tables_in_memory_are_pointed_to_a_list_of_mappings() -> None:
    pandas = pytest.importorskip("pandas")
    for table, step in ((pandas.DataFrame(rows()), "to_dict"), (pa.Table.from_pylist(rows()), "to_pylist")):
        with pytest.raises(DataError, match=f"Give rows.{step}"):
            from_rows(table, "y", {"x": "vector"})


def test_columns_of_one_name_and_names_that_are_no_modality(tmp_path: Path) -> None:
    twice = pa.table([pa.array([[1.0]] * 40), pa.array([[2.0]] * 40), pa.array(["a", "b"] * 20)], names=["x", "x", "y"])
    pq.write_table(twice, tmp_path / "a.parquet")
    with pytest.raises(DataError, match=r"`inputs\['x'\]`: expected one column 'x' of .*Found 2 of that name"):
        from_rows(tmp_path / "a.parquet", "y", {"x": "vector"})
    own = [{"größe m²": [float(i)], "": [1.0], "y": "ab"[i % 2]} for i in range(40)]
    with pytest.raises(DataError, match="Found 'größe m²'. Choose one, and give that of the column"):
        from_rows(own, "y", {"größe m²": "vector"})
    data = from_rows(own, "y", {"a": Field("vector", "größe m²", standardise="none"), "b": Field("vector", "")})
    assert data.train.batch([0]).inputs["a"].item() == int(data.train.rows[0])


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"rows": rows(3)}, "`split`: expected enough rows for training, validation and test. Found 3 in 2 classes"),
        (
            {"rows": [{**r, "who": "a"} for r in rows()], "groups": "who"},
            "expected enough values of .*`groups`.*Found 1",
        ),
        ({"rows": {}}, r"`rows`: expected a mapping from train, validation and test to rows. Found \[\]"),
        ({"shares": "abc"}, "`shares`: expected three numbers"),
        ({"shares": (float("nan"), 0.2, 0.1)}, "`shares`: expected three numbers"),
        ({"seed": -1}, "`seed`: expected a whole number .*Found -1"),
        ({"statistics": "all"}, "`statistics`: expected a whole number .*Found 'all'"),
        ({"cache_bytes": "1G"}, "`cache_bytes`: expected a whole number"),
        ({"inputs": {"x": {"kind": "vector", "lenght": 3}}}, r"`inputs\['x'\]`.*Did you mean 'length'"),
        ({"inputs": {"x": {"length": 3}}}, r"`inputs\['x'\]`.*kind is needed"),
        ({"inputs": {"x": {"kind": "vector", "column": 3}}}, r"`inputs\['x'\]`: `column`: expected the name"),
        ({"inputs": {"x": {"kind": "vector", "decode": "f"}}}, r"`inputs\['x'\]`: `decode`: expected a function"),
        (
            {"inputs": {"x": {"kind": "vector", "standardise": "per-x"}}},
            r"`inputs\['x'\]`: `standardise`: expected one",
        ),
    ],
)
def test_odd_arguments(options: dict[str, Any], match: str) -> None:
    arguments = {"rows": rows(), "target": "y", "inputs": {"x": "vector"}, **options}
    with pytest.raises(DataError, match=match):
        from_rows(**arguments)


def test_pictures_that_are_none_are_named(tmp_path: Path) -> None:
    pytest.importorskip("PIL")
    for content, match in ((b"no picture", "no picture"), ("gone.png", "no such file: .*gone.png")):
        own = [{"photo": content, "y": "ab"[i % 2]} for i in range(40)]
        with pytest.raises(DataError, match=rf"column 'photo', row 0: .*{match}\. Correct it, or put None there"):
            from_rows(stored(tmp_path / "a.parquet", own), "y", {"photo": "image"})


def test_files_and_folders_that_are_not_what_they_should_be(tmp_path: Path) -> None:
    stored(tmp_path / "A.PARQUET", rows())
    assert from_rows(tmp_path, "y", {"x": "vector"}).num_samples == 40
    (tmp_path / "b.tar").write_bytes(b"")
    with pytest.raises(DataError, match="Found both, as A.PARQUET and b.tar"):
        from_rows(tmp_path, "y", {"x": "vector"})
    for gone in ("none", "none.tar", "none.parquet"):
        with pytest.raises(DataError, match=f"{gone}: expected .*Found no such file. Check the path"):
            from_rows(tmp_path / gone, "y", {"x": "vector"})


@pytest.mark.parametrize("kept", [0, 100])
def test_a_damaged_cache_is_decoded_again(kept: int, tmp_path: Path) -> None:
    path, cache = stored(tmp_path / "a.parquet", rows()), tmp_path / "cache"
    options: dict[str, Any] = {"inputs": {"x": "vector"}, "cache_bytes": 8, "cache": cache}
    expected = from_rows(path, "y", **options).train.batch().inputs["x"]
    files = list(cache.glob("*.npy"))
    assert files
    for file in files:
        file.write_bytes(file.read_bytes()[:kept])
    assert np.array_equal(from_rows(path, "y", **options).train.batch().inputs["x"], expected)


def test_positions_that_are_none() -> None:
    split = from_rows(rows(), "y", {"x": "vector"}).train
    for positions in ([1.5], ["a"], [10**6], [-1], [[0, 1]]):
        with pytest.raises(BatchError, match=f"`positions`: expected whole numbers from 0 to {len(split) - 1}"):
            split.batch(positions)  # type: ignore[arg-type]
    assert split[np.int64(0)]["index"] == split[0]["index"]  # type: ignore[index]
    with pytest.raises(TypeError, match="position: expected a whole number. Found 'a'"):
        split["a"]  # type: ignore[index]


def shard(path: Path, count: int = 40, again: int = 0) -> Path:
    """A tar file of WebDataset; ``again`` rows stand in it twice."""
    with tarfile.open(path, "w") as file:
        for i in [*range(count), *range(again)]:
            for suffix, content in (("x.json", b"[1, 2]"), ("y.txt", b"ab"[i % 2 : i % 2 + 1])):
                entry = tarfile.TarInfo(f"{i:03d}.{suffix}")
                entry.size = len(content)
                file.addfile(entry, io.BytesIO(content))
    return path


@pytest.mark.parametrize("harm", ["between rows", "inside a header", "in the middle"])
def test_a_tar_file_that_is_cut_off_is_not_taken_for_a_short_one(harm: str, tmp_path: Path) -> None:
    path = shard(tmp_path / "a.tar")
    fields = {"x": Field("vector", "x.json")}
    assert from_rows(path, "y.txt", fields).num_samples == 40
    content = path.read_bytes()
    row = 4 * tarfile.BLOCKSIZE  # two files, each a header and a block
    if harm == "in the middle":
        path.write_bytes(content[: 20 * row] + b"x" * 512 + content[20 * row + 512 :])
    else:
        path.write_bytes(content[: 20 * row + (100 if harm == "inside a header" else 0)])
    with pytest.raises(DataError, match=f"no end mark at byte {20 * row}: it is cut off or damaged"):
        from_rows(path, "y.txt", fields)


def test_rows_that_stand_twice_in_a_tar_file(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="expected one file of each name. Found 000.x.json twice"):
        from_rows(shard(tmp_path / "a.tar", again=3), "y.txt", {"x": Field("vector", "x.json")})


def test_a_worker_process_says_what_one_process_says() -> None:
    def checked(content: list[float]) -> list[float]:
        if content[0] == 20:
            raise ValueError("no such number")
        return content

    data = from_rows(rows(), "y", {"x": Field("vector", decode=checked, standardise="none")}, split=[0] * 30 + [1] * 10)
    messages = []
    for workers in (0, 2):
        with pytest.raises(DataError) as said:
            list(loader(data.train, 5, seed=0, num_workers=workers))
        messages.append(str(said.value))
    assert messages[0] == messages[1]
    assert messages[0].startswith("`rows`: column 'x', row 20: ")


def test_rows_without_a_target(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="`target`: expected one. Found none.*--target COLUMN"):
        load(stored(tmp_path / "a.parquet", rows()), inputs={"x": "vector"})


def picky(content: Any) -> Any:
    """Knows no more than what begins with a number below 20."""
    return {i: [float(i), 1.0] for i in range(20)}[int(content[0])]


def sulky(content: Any) -> Any:
    raise OverflowError


class Rows:
    """A map-style dataset that fails at a row."""

    def __len__(self) -> int:
        return 40

    def __getitem__(self, row: int) -> dict[str, Any]:
        if self.failing and row == 7:
            raise ConnectionError("no answer")
        return rows()[row]

    failing = False


@pytest.mark.parametrize("workers", [0, 1])
def test_an_error_of_a_function_names_row_column_modality_and_itself(workers: int) -> None:
    """In a worker process, too, where PyTorch would answer for it; the way to it is in a note."""
    field = Field("vector", "x", decode=picky, standardise="none")
    data = from_rows(rows(), "y", {"sound": field}, split=[0] * 30 + [1] * 10)
    expected = (
        r"^`rows`: column 'x', row 20: expected `decode` of modality 'sound' to make an array of the content. Found "
        r"KeyError: 20. Correct the function, or put None there if the row has no sound."
    )
    with pytest.raises(DataError, match=expected) as caught:
        list(loader(data.train, 10, num_workers=workers, shuffle=False))
    assert str(caught.value).endswith("has no sound.")
    told = [*getattr(caught.value, "__notes__", []), repr(caught.value.__cause__)]
    assert "KeyError" in "".join(told)
    assert not workers or "in picky" in told[0]


def test_an_error_without_a_text() -> None:
    with pytest.raises(DataError, match="row 0: expected `decode` of modality 'x' .*Found OverflowError. Correct"):
        from_rows(rows(), "y", {"x": Field("vector", decode=sulky)}, split=[0] * 30 + [1] * 10)


def wordy(content: Any) -> Any:
    raise ValueError("one line\n  and another")


def empty(content: Any) -> Any:
    return None


def growing(content: Any) -> Any:
    return [0.0] * (2 if content[0] == 0 else 3)


@pytest.mark.parametrize(
    ("decode", "match"),
    [
        (wordy, "row 0: .*Found ValueError: one line and another. Correct the function"),
        (
            empty,
            "row 0: expected `decode` of modality 'x' .*Found something else than plain numbers .*. Correct the func",
        ),
        (growing, "row 1: expected shape .2,., as in the first row. Found .3,.. Correct `decode`, so"),
    ],
)
def test_who_gave_a_function_is_not_told_to_give_one(decode: Any, match: str) -> None:
    with pytest.raises(DataError, match=match):
        data = from_rows(rows(), "y", {"x": Field("vector", decode=decode)}, split=[0] * 30 + [1] * 10)
        list(loader(data.train, 10, shuffle=False))


@pytest.mark.parametrize("content", [{}, {"bytes": b"", "path": None}, {"path": ""}, {"byte": b"1"}])
def test_a_mapping_without_a_picture(content: dict[str, Any]) -> None:
    with pytest.raises(
        DataError, match=r"`rows`: column 'x', row 0: .*Found a mapping of .* with neither bytes nor path"
    ):
        from_rows([{"x": content, "y": i % 2} for i in range(40)], "y", {"x": "image"})


@pytest.mark.parametrize("workers", [0, 1])
def test_a_collection_that_fails_at_a_row(workers: int, monkeypatch: pytest.MonkeyPatch) -> None:
    field = Field("vector", standardise="none", decode=list)
    data = from_rows(Rows(), "y", {"x": field}, split=[0] * 30 + [1] * 10)
    monkeypatch.setattr(Rows, "failing", True)
    with pytest.raises(DataError, match="Found nothing .ConnectionError: no answer. in row 7 of 'Rows'"):
        list(loader(data.train, 10, num_workers=workers, shuffle=False))
