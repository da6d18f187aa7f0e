"""The transform `normalise`, kinds with four axes, and that transforms leave what they were given as it was."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from equimodal.data import Modality, from_arrays, load_bundle
from equimodal.data._schema import Node
from equimodal.data._transforms import apply, read_transform
from equimodal.errors import DataError

F32 = np.dtype(np.float32)
NORMALISE = {"normalise": {"mean": [1.0, 2.0], "std": [2.0, 0.5]}}


def transform(value: Any) -> Any:
    return read_transform(Node(value, "card", "transforms[0]"))


@pytest.mark.parametrize("axes", [(4,), (4, 5), (3, 4, 5)])
def test_each_channel_has_its_own_mean_and_deviation(axes: tuple[int, ...]) -> None:
    x = np.random.default_rng(0).normal(size=(3, 2, *axes)).astype(np.float32)
    kept = x.copy()
    y = apply([transform(NORMALISE)], x, F32)
    np.testing.assert_allclose(y[:, 0], (x[:, 0] - 1) / 2, rtol=1e-6)
    np.testing.assert_allclose(y[:, 1], (x[:, 1] - 2) / 0.5, rtol=1e-6)
    np.testing.assert_array_equal(x, kept)


@pytest.mark.parametrize(
    ("value", "match"),
    [
        ({"mean": [1], "std": [1, 2]}, "as many deviations above 0 as means"),
        ({"mean": [1], "std": [0]}, "as many deviations above 0 as means"),
        ({"mean": [1]}, "normalise.std"),
        ({"mean": [1], "sdt": [1]}, "Did you mean 'std'"),
    ],
)
def test_wrong_values_are_refused(value: Any, match: str) -> None:
    with pytest.raises(DataError, match=match):
        transform({"normalise": value})


def test_other_numbers_of_channels_are_refused() -> None:
    with pytest.raises(DataError, match=r"one entry per channel of samples of shape \(3, 4\). Found 2"):
        apply([transform(NORMALISE)], np.zeros((5, 3, 4), np.float32), F32)


@pytest.mark.parametrize("name", ["scale: 2", "offset: 1", "clip", "sqrt", "log1p", "normalise", "centre_on"])
@pytest.mark.parametrize("dtype", ["float32", "uint8"])
@pytest.mark.parametrize("first", [[], ["reshape"], ["flatten"], ["transpose"]])
def test_arrays_in_memory_stay_as_they_were(name: str, dtype: str, first: list[str]) -> None:
    values: dict[str, Any] = {
        "scale: 2": {"scale": 2}, "offset: 1": {"offset": 1}, "clip": {"clip": [1, 2]}, "sqrt": "sqrt",
        "log1p": "log1p", "normalise": NORMALISE, "centre_on": {"centre_on": {"axis": 0, "index": 1}},
        "reshape": {"reshape": [2, 6]}, "flatten": {"flatten": 1}, "transpose": {"transpose": [0, 2, 1]},
    }  # fmt: skip
    x = (np.arange(60).reshape(5, 2, 2, 3) % 7).astype(dtype)
    kept = x.copy()
    steps = [transform(values[n]) for n in [*first, name, "sqrt"]]
    once, again = apply(steps, x, F32), apply(steps, x.copy(), F32, own=True)
    np.testing.assert_array_equal(x, kept)
    np.testing.assert_array_equal(once, again)


def test_a_video_is_loaded_normalised_from_a_folder(tmp_path: Path) -> None:
    frames = np.random.default_rng(0).integers(0, 255, (9, 2, 3, 60, 60), dtype=np.uint8)
    np.save(tmp_path / "video.npy", frames)
    np.save(tmp_path / "y.npy", np.arange(9) % 2)
    np.save(tmp_path / "part.npy", np.repeat([0, 1, 2], [4, 2, 3]))
    card = {
        "name": "clips",
        "modalities": {"video": {"array": "video", "kind": "video", "transforms": [NORMALISE]}},
        "targets": {"y": {"array": "y", "task": "classification", "classes": ["a", "b"]}},
        "protocols": {"p": {"array": "part", "train": 0, "validation": 1, "test": 2}},
    }
    data = load_bundle(tmp_path, card)
    assert data.modalities["video"].shape == (2, 3, 60, 60)
    expected = (frames[6:].astype(np.float64) - np.array([1, 2])[:, None, None, None]) / np.array([2, 0.5])[
        :, None, None, None
    ]
    np.testing.assert_allclose(data.test.batch().inputs["video"], expected, rtol=1e-5)


def test_kinds_with_four_axes() -> None:
    assert Modality("v", (3, 8, 16, 16), "video").size == 6144
    assert Modality("v", (1, 8, 16, 16), "volume").shape == (1, 8, 16, 16)
    with pytest.raises(DataError, match=r"one video of shape \(C, T, H, W\)"):
        Modality("v", (3, 16, 16), "video")
    data = from_arrays(
        {"v": np.zeros((6, 1, 2, 3, 4)), "a": np.eye(6)}, [0, 1] * 3,
        ["train", "train", "validation", "validation", "test", "test"], kinds={"v": "video"},
    )  # fmt: skip
    assert data.modalities["v"].kind == "video"
