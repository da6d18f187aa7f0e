"""Rows that are read instead of mapped."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from equimodal.data._rows import rows_of
from equimodal.errors import DataError


@pytest.mark.parametrize("shape", [(20, 3), (20, 3, 80, 70), (20, 16384)])
@pytest.mark.parametrize("dtype", ["uint8", "float32", "float16", ">i4"])
def test_rows_are_those_of_the_mapped_array(tmp_path: Path, shape: tuple[int, ...], dtype: str) -> None:
    array = np.random.default_rng(0).integers(0, 200, shape).astype(dtype)
    np.save(tmp_path / "a.npy", array)
    mapped = np.load(tmp_path / "a.npy", mmap_mode="r")
    for rows in (np.array([3, 3, 19, 0]), np.array([], np.int64), np.arange(20)):
        found = rows_of(mapped, rows)
        np.testing.assert_array_equal(found, array[rows])
        assert found.dtype == array.dtype
        assert not isinstance(found.base, np.memmap)
        np.testing.assert_array_equal(rows_of(array, rows), array[rows])
    np.testing.assert_array_equal(rows_of(mapped, slice(2, 5)), array[2:5])


def test_views_and_other_orders_are_not_mistaken_for_the_file(tmp_path: Path) -> None:
    array = np.random.default_rng(0).normal(size=(12, 4096))
    np.save(tmp_path / "a.npy", array)
    np.save(tmp_path / "f.npy", np.asfortranarray(array))
    mapped = np.load(tmp_path / "a.npy", mmap_mode="r")
    np.testing.assert_array_equal(rows_of(mapped[4:], np.array([1, 0])), array[[5, 4]])
    other = np.load(tmp_path / "f.npy", mmap_mode="r")
    np.testing.assert_array_equal(rows_of(other, np.array([7, 0])), array[[7, 0]])


def test_a_file_that_was_cut_off_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "a.npy"
    np.save(path, np.zeros((10, 1 << 16)))
    mapped = np.load(path, mmap_mode="r")
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size - (1 << 18))
    assert rows_of(mapped, np.array([0])).shape == (1, 1 << 16)
    with pytest.raises(DataError, match="expected 10 samples. Found the end of the file in sample 9"):
        rows_of(mapped, np.array([9]))
