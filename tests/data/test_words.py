"""Who gave arguments is answered in the words of the arguments; who gave a card, in those of its fields."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from equimodal.data import Dataset, from_arrays, from_rows
from equimodal.errors import DataError, EquimodalError

SPLIT = [0, 0, 0, 0, 1, 1, 2, 2] * 5


def of_rows(**options: Any) -> Dataset:
    rows = [{"x": [float(i), 1.0], "y": "ab"[i // 2 % 2], "w": i // 10} for i in range(40)]
    return from_rows(rows, **{"target": "y", "inputs": {"x": "vector"}, "split": SPLIT, **options})


def of_arrays(**options: Any) -> Dataset:
    split = [0, 0, 0, 1, 1, 1]
    return from_arrays(**{"inputs": {"x": np.ones((6, 2))}, "target": [1, 0, 0, 1, 1, 0], "split": split, **options})


@pytest.mark.parametrize(
    ("made", "options", "match"),
    [
        (of_rows, {"split": [0, 0, 1, 1] * 10}, "`split`: expected every class in the training split"),
        (of_rows, {"groups": "w"}, "`split`: expected no w in more than one split.*or declare `overlapping=True`"),
        (of_rows, {"split": [1] * 40}, "`split`: expected training rows. Found none"),
        (of_rows, {"split": [0] * 40, "validation": {"carve": 2}}, "`validation`: expected a share"),
        (of_rows, {"split": [0] * 40, "validation": {"crve": 2}}, "`validation`: expected one of the fields"),
        (of_rows, {"inputs": {"x": {"kind": "tokens", "standardise": "global"}}}, r"`inputs\['x'\]`: expected 'none'"),
        (of_arrays, {"split": [0, 0, 0, 1, 1]}, "`inputs\\['x'\\]`: expected 5 samples as in `split`. Found 6"),
        (of_arrays, {"target": [0, 1, 0]}, "`target`: expected 6 samples as in `split`. Found 3"),
        (of_arrays, {"target": [0, 1, 0, 1, 1, 3], "classes": ["a", "b"]}, "one per name in `classes`. Found \\[3\\]"),
        (of_arrays, {"present": {"x": [1, 0]}}, r"`present\['x'\]`: expected 6 samples"),
        (of_arrays, {"inputs": {"x y": np.ones((6, 2))}}, "`inputs`: expected names of letters"),
        (of_arrays, {"split": [2, 2, 2, 1, 1, 1]}, "`split`: expected at least one train sample .0.*Mark some"),
        (of_arrays, {"target": [np.inf] * 6, "task": "regression"}, "`target`: expected finite numbers"),
        (of_arrays, {"standardise": {"x": "odd"}}, r"`inputs\['x'\]`: expected"),
        (of_arrays, {"target": np.zeros((6, 2, 2), int), "task": "segmentation", "classes": ["a"]}, "^`classes`: "),
    ],
)  # fmt: skip
def test_arguments_are_named_and_no_card(made: Callable[..., Dataset], options: dict[str, Any], match: str) -> None:
    with pytest.raises(EquimodalError, match=match) as caught:
        _ = made(**options).choose_task()
    assert "card" not in str(caught.value)
    assert "protocol" not in str(caught.value)


def test_a_test_part_that_nobody_named() -> None:
    with pytest.raises(DataError, match="`split` has no test part. Mark some samples as 'test'") as caught:
        _ = of_arrays().test
    assert "card" not in str(caught.value)


@pytest.mark.parametrize(
    ("split", "match"),
    [
        ([*SPLIT[:-2], 3, 3], "`split`: row 38: expected 0, 1 or 2 .*Found 3 in 2 row.s., first rows .38, 39."),
        ([*SPLIT[:-1], -1], "`split`: row 39: .*Found -1 in 1 row"),
        ([*SPLIT[:-1], None], "`split`: row 39: .*Found None in 1 row"),
        ([*map(float, SPLIT[:-1]), float("nan")], "`split`: row 39: .*Found nan in 1 row"),
        ([["train", "val", "test", "tset"][c] for c in [*SPLIT[:-2], 3, 3]], "row 38: .*Found 'tset' in 2 row"),
        ([[0, 1]] * 40, "`split`: expected one value per row. Found int64 .40, 2."),
        ([c == 2 for c in SPLIT], "`split`: .*Found True and False, which name no part"),
    ],
)
def test_a_row_of_no_part_is_not_left_out_in_silence(split: Any, match: str) -> None:
    with pytest.raises(DataError, match=match):
        of_rows(split=split)


def test_parts_as_numbers() -> None:
    assert of_rows().parts == {"train": 20, "validation": 10, "test": 10}
