from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from equimodal.data._schema import Node
from equimodal.data._transforms import apply, read_transform, reduction_axes
from equimodal.errors import DataError

X = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)


def run(x: npt.NDArray[Any], *entries: Any, integer: bool = False) -> npt.NDArray[Any]:
    nodes = [Node(e, "c.yaml", f"t[{i}]") for i, e in enumerate(entries)]
    return apply([read_transform(n) for n in nodes], x, np.dtype(np.int64 if integer else np.float32))


@pytest.mark.parametrize(
    ("entry", "expected"),
    [
        ({"scale": 0.5}, X * 0.5),
        ({"offset": -3}, X - 3.0),
        ({"clip": [2, 5]}, np.clip(X, 2, 5)),
        ("sqrt", np.sqrt(X.astype(float))),
        ({"log1p": None}, np.log1p(X.astype(float))),
        ({"reshape": [4, 3]}, X.reshape(2, 4, 3)),
        ({"reshape": [1, -1]}, X.reshape(2, 1, 12)),
        ({"transpose": [1, 0]}, X.transpose(0, 2, 1)),
        ("flatten", X.reshape(2, 12)),
        ({"centre_on": {"axis": 1, "index": 3}}, X.astype(float) - X[:, :, 3:4]),
        ({"cast": "float32"}, X),
    ],
)
def test_operations(entry: Any, expected: npt.NDArray[Any]) -> None:
    out = run(X, entry)
    assert out.dtype == np.float32
    np.testing.assert_allclose(out, expected, rtol=1e-6)


def test_operations_run_in_order_on_float_numbers() -> None:
    # uint8 would wrap around at 256
    np.testing.assert_allclose(run(X, {"scale": 100}, {"offset": 1}, "sqrt"), np.sqrt(X * 100.0 + 1), rtol=1e-6)


def test_log_of_zero_is_left_to_the_check_of_finite_numbers() -> None:
    with np.errstate(all="raise"):
        assert np.isneginf(run(X, "log")[0, 0, 0])


def test_tokens_stay_whole_numbers() -> None:
    assert run(X, {"reshape": [12]}, integer=True).dtype == np.int64


@pytest.mark.parametrize(
    ("entry", "where"),
    [
        ({"reshape": [5, 5]}, "t[0].reshape"),
        ({"transpose": [0]}, "t[0].transpose"),
        ({"transpose": [0, 2]}, "t[0].transpose"),
        ({"centre_on": {"axis": 2, "index": 0}}, "t[0].centre_on"),
        ({"centre_on": {"axis": 0, "index": 3}}, "t[0].centre_on"),
        ({"flatten": 2}, "t[0].flatten"),
    ],
)
def test_an_operation_that_does_not_fit_names_its_field(entry: Any, where: str) -> None:
    with pytest.raises(DataError) as caught:
        run(X, entry)
    assert f"c.yaml: field `{where}" in str(caught.value)


def test_reduction_axes() -> None:
    assert reduction_axes("global", (3, 4, 5)) == (0, 1, 2, 3)
    assert reduction_axes("per-channel", (3, 4, 5)) == (0, 2, 3)
    assert reduction_axes("per-feature", (6, 2)) == (0, 1)
    assert reduction_axes("per-feature", (6,)) == (0,)
