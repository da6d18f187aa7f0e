"""Numbers of users arrive as they are, or are refused with the samples named: never others without a word."""

from __future__ import annotations

import re
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch

from equimodal.data import Dataset, from_arrays, load_bundle, write_bundle
from equimodal.errors import DataError, DataWarning, EquimodalError, NonFiniteError
from tests.faults.families import attempt, many

Array = npt.NDArray[Any]
N = 40
SPLIT = ["train"] * 24 + ["validation"] * 8 + ["test"] * 8
Y = np.arange(N) % 3


def dataset(x: Any, target: Any = Y, **options: Any) -> Dataset:
    return from_arrays({"x": x, "other": np.random.default_rng(9).normal(size=(N, 2))}, target, SPLIT, **options)


def inputs(data: Dataset) -> dict[str, Array]:
    return {p: getattr(data, p).batch().inputs["x"].double().numpy() for p in ("train", "validation", "test")}


# ---- offsets, units and types of inputs -----------------------------------------------------------------------------


def test_an_offset_and_a_unit_change_nothing_about_standardised_numbers(tmp_path: Path) -> None:
    pytest.importorskip("yaml")
    for number, rng in enumerate(many(60)):
        shape = [(5,), (4, 3), (2, 5, 4)][rng.integers(3)]
        plain = rng.normal(size=(N, *shape))
        unit = 10.0 ** rng.integers(-14, 15)
        offset = unit * rng.choice([0.0, 1.0, -1.0]) * 10.0 ** rng.integers(0, 9)
        moved = plain * unit + offset
        if rng.integers(2):  # whole numbers as they come from clocks and counters
            plain = np.round(plain * 1000)
            moved = plain.astype(np.int64) + int(10.0 ** rng.integers(0, 15))
        kinds = {"x": ("vector", "sequence", "image")[len(shape) - 1]}
        if number % 5:
            first, second = dataset(plain, kinds=kinds), dataset(moved, kinds=kinds)
        else:  # through a bundle on disk, mapped or not
            first = dataset(plain, kinds=kinds)
            path = tmp_path / (f"b{number}" if number % 2 else f"b{number}.npz")
            write_bundle(path, inputs={"x": moved, "other": np.ones((N, 2))}, target=Y, split=SPLIT, kinds=kinds)
            second = load_bundle(path)
        for part, values in inputs(first).items():
            np.testing.assert_allclose(inputs(second)[part], values, atol=2e-6, err_msg=f"input {number}")


def test_float32_far_from_zero_is_standardised_as_exactly_as_it_is_stored() -> None:
    for rng in many(40, seed=1):
        whole = rng.integers(0, 60, (N, 4)).astype(np.float64)
        offset = float(2 ** rng.integers(0, 24) - 60)  # every sum is exact in float32
        wide = whole - whole[:24].mean(0)
        expected = wide / wide[:24].std(0)
        found = inputs(dataset((whole + offset).astype(np.float32)))
        np.testing.assert_allclose(np.concatenate(list(found.values())), expected, atol=1e-5)


def test_what_float32_would_round_is_refused_where_nothing_is_subtracted() -> None:
    refused = right = 0
    for rng in many(60, seed=2):
        x = rng.normal(size=(N, 3)) + 10.0 ** rng.integers(0, 14)
        data, message = attempt(dataset, x, standardise={"x": "none"})
        if data is None:
            refused += 1
            assert re.search("'x'.*tell apart", message)
        else:
            right += 1
            assert (np.abs(inputs(data)["train"] - x[:24]) < 2e-3 * x[:24].std(0)).all()
    assert min(refused, right) > 10


def test_counters_that_float64_would_round_are_exact_or_refused() -> None:
    refused = right = 0
    for rng in many(40, seed=13):
        plain = rng.integers(0, 10 ** int(rng.integers(1, 9)), (N, 3))
        moved = plain + 2 ** int(rng.integers(50, 62))
        data, message = attempt(dataset, moved, kinds={"x": "vector"})
        if data is None:
            refused += 1
            assert re.search("'x'.*Subtract", message)
        else:
            right += 1
            found = inputs(data)
            for part, values in inputs(dataset(plain, kinds={"x": "vector"})).items():
                np.testing.assert_allclose(found[part], values, atol=4e-3)
    assert min(refused, right) > 5


def test_constant_columns_become_zero_wherever_they_are() -> None:
    for rng in many(40, seed=3):
        value = rng.normal() * 10.0 ** rng.integers(-20, 20)
        x = np.stack([np.full(N, value), rng.normal(size=N)], 1).astype([np.float32, np.float64][rng.integers(2)])
        found = inputs(dataset(x))
        assert max(np.abs(v[:, 0]).max() for v in found.values()) <= 1e-6 * max(abs(value), 1e-30)


# ---- gaps and numbers out of range ----------------------------------------------------------------------------------


@pytest.mark.parametrize("folder", [False, True])
def test_a_gap_in_any_part_is_found_before_training(tmp_path: Path, folder: bool) -> None:
    pytest.importorskip("yaml")
    for number, rng in enumerate(many(30, seed=4)):
        kind = [np.float16, np.float32, np.float64][rng.integers(3)]
        shape = [(3,), (4, 2), (1, 4, 4)][rng.integers(3)]
        x = rng.normal(size=(N, *shape)).astype(kind)
        row = int(rng.integers(N))
        x[(row, *(int(rng.integers(n)) for n in shape))] = rng.choice([np.nan, np.inf, -np.inf])
        how = {"x": str(rng.choice(["none", "global", "per-feature"]))}
        present = np.ones(N, bool)
        absent = bool(rng.integers(2))
        present[row] = not absent
        arguments: dict[str, Any] = {
            "inputs": {"x": x, "other": np.ones((N, 2))}, "target": Y, "split": SPLIT, "standardise": how,
            "present": {"x": present},
        }  # fmt: skip
        path = tmp_path / (f"b{number}" if folder else f"b{number}.npz")
        if absent:  # nobody looks at it
            write_bundle(path, **arguments)
            assert load_bundle(path).train.batch().inputs["x"].shape[0] == 24
            continue
        for build in (lambda a=arguments: from_arrays(**a), lambda a=arguments, p=path: write_bundle(p, **a)):
            with pytest.raises(NonFiniteError, match=rf"'x'.*split.*indices \[{row}\].*Fill them.*`present`"):
                build()
        assert not path.exists()


def test_targets_are_checked_like_inputs(tmp_path: Path) -> None:
    pytest.importorskip("yaml")
    for rng in many(40, seed=5):
        shape = (N,) if rng.integers(2) else (N, 2)
        target = rng.normal(size=shape) * 10.0 ** rng.integers(-3, 4)
        row = int(rng.integers(N))
        value = rng.choice([np.nan, np.inf, -np.inf])
        target[row] = value
        given: Any = target if rng.integers(2) else target.astype(np.float32)
        if np.isnan(value) and target.ndim == 1 and rng.integers(2):
            given = [None if v != v else v for v in target.tolist()]
        part = SPLIT[row]
        for build in (
            from_arrays,
            lambda *a, **k: write_bundle(tmp_path / "r", inputs=a[0], target=a[1], split=a[2], **k),
        ):
            with pytest.raises(DataError, match=rf"target.*expected finite numbers.*{part} split.*indices \[{row}\]"):
                build({"x": np.random.default_rng(0).normal(size=(N, 2))}, given, SPLIT, task="regression")


MISSING = [None, float("nan"), np.float32("nan"), np.nan, np.datetime64("NaT")]


def test_a_missing_label_group_or_part_is_no_name() -> None:
    for rng in many(60, seed=6):
        value = MISSING[rng.integers(len(MISSING))]
        values: Any = [str("xyz"[i % 3]) for i in range(N)] if rng.integers(2) else [int(v) for v in Y]
        rows = sorted(rng.choice(N, 3, replace=False).tolist())
        for row in rows:
            values[row] = value
        if rng.integers(2):
            values = np.array(values, dtype=object)
        where = ("target", "groups['g']", "split")[rng.integers(3)]
        arguments: dict[str, Any] = {"target": Y, "split": SPLIT}
        if where == "target":
            arguments["target"] = values
        elif where == "split":
            arguments["split"] = values
        else:
            arguments["groups"] = {"g": values}
        with pytest.raises(DataError, match=f"`{where.replace('[', '.').replace(']', '.')}`.*in 3 sample.*{rows[0]}, "):
            from_arrays({"x": np.random.default_rng(0).normal(size=(N, 2))}, **arguments)


def test_text_that_was_a_missing_value_is_no_class_unless_it_is_listed() -> None:
    for name in ("nan", "None", "<NA>", "NaT", "", " "):
        labels = np.array(["a", "b", name] * 14)[:N]
        with pytest.raises(DataError, match="looks like a missing value.*`classes`"):
            dataset(np.random.default_rng(0).normal(size=(N, 2)), labels)
    labels = np.array(["a", "b", "None"] * 14)[:N]
    assert dataset(np.ones((N, 2)), labels, classes=["a", "b", "None"]).classes == ("a", "b", "None")


def test_whole_numbers_are_labels_from_zero_or_refused_with_their_range() -> None:
    right = refused = 0
    for rng in many(60, seed=7):
        count, low, step = int(rng.integers(1, 6)), int(rng.integers(-2, 3)), int(rng.integers(1, 4))
        labels = low + step * (np.arange(N) % count)
        fits = count >= 2 and low == 0 and step == 1
        data, message = attempt(dataset, np.ones((N, 2)), labels)
        assert (data is not None) == fits
        if data is None:
            refused += 1
            assert re.search(rf"`target`.*begin at 0.*\b{abs(low)}\b|`target`.*\b{abs(low)}\b.*begin at 0", message)
        else:
            right += 1
            assert data.classes == tuple(str(i) for i in range(count))
    assert min(right, refused) >= 2


# ---- whatever holds the numbers -------------------------------------------------------------------------------------


class Table:
    """What this library knows of a data frame."""

    def __init__(self, columns: dict[str, Array]) -> None:
        self._own = columns
        self.columns = list(columns)
        self.dtypes = [c.dtype for c in columns.values()]

    def __getitem__(self, name: str) -> Array:
        return self._own[name]

    def to_numpy(self) -> Array:
        return np.stack(list(self._own.values()), 1)


def holders(x: Array) -> list[Any]:
    """``x`` (N, F), which bfloat16 can hold, in everything that people hold numbers in."""
    return [
        x, x.tolist(), list(x), torch.tensor(x), torch.tensor(x).bfloat16(), torch.tensor(x, requires_grad=True),
        torch.tensor(x).half(), np.asfortranarray(x), x.astype(">f8"), np.ma.MaskedArray(x), x[::-1][::-1],
        Table({str(i): c for i, c in enumerate(x.T)}), torch.nn.Parameter(torch.tensor(x)),
    ]  # fmt: skip


def test_numbers_are_the_same_whatever_holds_them() -> None:
    for rng in many(10, seed=8):
        x = rng.integers(-100, 100, (N, 3)) / 8.0
        expected = inputs(dataset(x))["train"]
        for holder in holders(x):
            np.testing.assert_allclose(inputs(dataset(holder))["train"], expected, atol=1e-6)


REFUSED: list[tuple[Any, str]] = [
    ([np.ones((i % 3 + 1, 4)) for i in range(N)], "different lengths, 1 to 3.*Pad"),
    ([[0.0] * (i % 4 + 1) for i in range(N)], "different lengths, 1 to 4.*Pad"),
    (["a text"] * N, "Found texts.*tokens"),
    (np.array([["a", "b"]] * N), "Found texts.*tokens"),
    (np.zeros(N), r"one number per sample.*array\[:, None\]"),
    (list(range(N)), r"one number per sample.*array\[:, None\]"),
    (np.full((N, 2), np.datetime64("2020-01-01")), "Found times.*timedelta64"),
    (np.ones((N, 2), complex), "complex numbers.*Stack"),
    (np.array([[1.0, None]] * N, dtype=object), r"None among.*samples \[0, 1"),
    (np.ma.MaskedArray(np.ones((N, 2)), mask=np.eye(N, 2, dtype=bool)), "masked entries.*2 of them.*filled"),
    (torch.eye(N).to_sparse(), "dense tensor.*to_dense"),
    ({"a": 1}, "expected"),
    (None, "expected"),
    (3.0, "expected"),
    (Table({"a": np.ones(N), "name": np.array(["x"] * N)}), "table of numbers.*'name'"),
    (np.zeros(N, dtype=[("a", float)]), "records"),
    ([object()] * N, r"objects \(object\)"),
]


@pytest.mark.parametrize(("value", "match"), REFUSED, ids=range(len(REFUSED)))
def test_what_is_no_numbers_is_refused_by_argument_with_a_remedy(value: Any, match: str) -> None:
    with pytest.raises(DataError, match=rf"`inputs\['x'\]`: .*{match}"):
        dataset(value)
    if "one number per sample" not in match:  # which is right here
        with pytest.raises(EquimodalError, match="target"):
            dataset(np.ones((N, 2)), value, task="regression")


# ---- what the axes mean ---------------------------------------------------------------------------------------------


def test_token_ids_are_whole_numbers_from_zero() -> None:
    for rng in many(40, seed=10):
        ids = rng.integers(0, 90, (N, 6)).astype(
            [np.int32, np.int64, np.float32, np.float64, np.uint16][rng.integers(5)]
        )
        kept = dataset(ids, kinds={"x": "tokens"}).train.batch().inputs["x"]
        assert kept.dtype == torch.int64
        assert np.array_equal(kept.numpy(), ids[:24])
        bad, row = ids.astype(np.float64), int(rng.integers(N))
        bad[row, rng.integers(6)] = rng.choice([29.5, -1.0, np.nan, np.inf, 1e30])
        with pytest.raises(DataError, match=rf"'x'.*token ids.*indices \[{row}\]"):
            dataset(bad, kinds={"x": "tokens"})


def test_whole_numbers_that_may_be_token_ids_are_named() -> None:
    for rng in many(10, seed=11):
        ids = rng.integers(0, 3000, (N, 6)).astype([np.int64, np.int32, np.uint16][rng.integers(3)])
        with pytest.warns(DataWarning, match=r"`inputs\['x'\]`.*kinds=\{'x': 'tokens'\}"):
            dataset(ids)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert dataset(ids, kinds={"x": "vector"}).modalities["x"].kind == "vector"


def test_images_with_channels_last_and_masks_are_refused_or_named() -> None:
    seen = {"refused": 0, "right": 0}
    for rng in many(40, seed=12):
        channels, height = int(rng.choice([1, 2, 3, 4])), int(rng.integers(5, 30))
        width = height if rng.integers(2) else int(rng.integers(5, 30))
        first = rng.normal(size=(N, channels, height, width))
        assert dataset(first).modalities["x"].shape == (channels, height, width)
        last = np.moveaxis(first, 1, -1)
        with pytest.raises(DataError, match=r"`inputs\['x'\]`.*\(N, H, W, C\).*moveaxis"):
            dataset(last)
        with pytest.warns(DataWarning, match="'x'.*look like .H, W, C"):
            dataset(last, kinds={"x": "image"})
        masks = (first[:, 0] > 0).astype([bool, np.uint8, np.int64][rng.integers(3)])
        with pytest.raises(DataError, match=r"`inputs\['x'\]`.*masks or grey images.*array\[:, None\]"):
            dataset(masks)
        seen["refused"] += 2
        seen["right"] += 1
        assert dataset(masks[:, None]).modalities["x"].kind == "image"
    assert min(seen.values()) > 0
