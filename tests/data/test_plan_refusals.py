"""Plans that are refused, with what is wrong and the next step."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from equimodal.data import loader
from equimodal.errors import DataError, UnknownNameError
from tests.data.test_loader import rows as indices_of
from tests.data.test_plan import dataset, made


@pytest.mark.parametrize(
    ("rows", "options", "match"),
    [
        (
            {"a": [0, 11], "b": [0, 1]},
            {},
            r"`rows\['a'\]`: expected positions 0 to 10 in .* or -1.*\[11\] in rows \[1\]",
        ),
        ({"a": [0, -2], "b": [0, 1]}, {}, r"`rows\['a'\]`.*Found \[-2\]"),
        ({"a": [0, 1], "b": [0]}, {}, r"`rows`: expected equally many .*\{'a': 2, 'b': 1\}"),
        ({"a": [0, 1, -1], "b": [0, 1, -1]}, {}, r"1 row\(s\) without any, first \[2\]"),
        ({"a": [0]}, {}, r"expected positions for every modality, \['a', 'b'\]. Found none for \['b'\].*give -1"),
        ({"a": [], "b": []}, {}, "at least one row"),
        ({"a": [0.5], "b": [0]}, {}, r"`rows\['a'\]`: expected integers .*float32 \(1,\)"),
        ({"a": [[0]], "b": [0]}, {}, r"expected integers \(n,\).*\(1, 1\)"),
        ({"a": [True], "b": [0]}, {}, "bool"),
        ({"a": ["first"], "b": [0]}, {}, r"`rows\['a'\]`: expected integers, one per row. Found list"),
        ([0, 1], {}, "`rows`: expected modality -> positions. Found list"),
        ({"a": [0, 1], "b": [0, 1]}, {"target": [0]}, "`target`: expected 2 entries, one per row. Found 1"),
        ({"a": [0, 1], "b": [0, 1]}, {"target": [0, -1]}, r"`target`: expected positions 0 to 10.*Found \[-1\]"),
        ({"a": [0, 1], "b": [0, 1]}, {"groups": [0]}, "`groups`: expected 2 entries"),
        ({"a": [0, 1], "b": [0, 1]}, {"groups": [0.0, 1.0]}, "`groups`: expected integers"),
        (None, {"target": [0]}, "expected None with `rows=None`"),
    ],
)
def test_wrong_plans(rows: Any, options: dict[str, Any], match: str) -> None:
    batches = made()
    before = batches.state_dict()
    with pytest.raises(DataError, match=match):
        batches.plan(rows, **options)
    assert batches.state_dict() == before


def test_a_batch_that_cannot_be_filled() -> None:
    batches = made(drop_last=True)
    with pytest.raises(DataError, match="enough rows for a batch of one group, with `drop_last`. Found 6 rows"):
        batches.plan({"a": range(6), "b": range(6)}, groups=[0, 0, 0, 1, 1, 1])


def test_unknown_modality_and_other_splits() -> None:
    data = dataset()
    with pytest.raises(UnknownNameError, match=r"modality in `rows` 'A'. Did you mean 'a'"):
        made().plan({"A": [0], "b": [0]})
    for split, kind in ((data.validation, "ValidationSplit"), (data.test, "TestSplit")):
        with pytest.raises(TypeError, match=f"`plan`: expected a TrainSplit. Found {kind}"):
            loader(split, 2).plan({"a": [0], "b": [0]})


def test_the_plan_is_a_copy() -> None:
    own: Tensor = torch.tensor([0, 1])
    batches = made()
    batches.plan({"a": own, "b": own})
    own += 5
    assert indices_of(batches) == [[3, 4]]
