"""Classification: loss, score, targets."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

from equimodal import Classification, Task
from equimodal.errors import TargetError
from equimodal.tasks import score
from tests import formulas

Z = torch.randn(6, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
Y = torch.tensor([0, 2, 1, 1, 0, 2])


def test_it_is_a_task() -> None:
    assert isinstance(Classification(2), Task)


def test_loss_against_numpy() -> None:
    log_p = formulas.log_softmax(Z.numpy(), axis=1)
    picked = log_p[np.arange(6), Y.numpy()]
    assert float(Classification(3).loss(Z, Y)) == pytest.approx(-picked.mean(), rel=1e-12)
    w = np.array([1.0, 2.0, 4.0])
    weighted = Classification(3, class_weight=w.tolist())
    assert float(weighted.loss(Z, Y)) == pytest.approx(-(w[Y.numpy()] * picked).sum() / w[Y.numpy()].sum(), rel=1e-12)
    smooth = Classification(3, label_smoothing=0.3)
    assert float(smooth.loss(Z, Y)) == pytest.approx(-(0.7 * picked + 0.3 * log_p.mean(1)).mean(), rel=1e-12)
    q = torch.softmax(Z.flip(0), 1)
    assert float(Classification(3).loss(Z, q)) == pytest.approx(-(q.numpy() * log_p).sum(1).mean(), rel=1e-12)


def test_score_is_additive() -> None:
    task = Classification(3)
    whole = [t.double() for t in task.score_terms(Z, Y)]
    parts = [task.score_terms(Z[:2], Y[:2]), task.score_terms(Z[2:], Y[2:])]
    assert torch.equal(whole[0], parts[0][0] + parts[1][0])
    assert torch.equal(whole[1], parts[0][1] + parts[1][1])
    assert float(score(task, Z, Y)) == pytest.approx(float((Z.argmax(1) == Y).double().mean()), abs=1e-7)
    assert float(task.score(torch.eye(3), torch.tensor([0, 1, 1]))) == pytest.approx(2 / 3)
    soft = torch.nn.functional.one_hot(Y, 3).double()
    assert torch.equal(task.score(Z, soft), task.score(Z, Y))


def test_probabilities_are_float32_at_least() -> None:
    assert Classification(3).probabilities(Z.half()).dtype == torch.float32
    assert torch.equal(Classification(3).probabilities(Z), torch.softmax(Z, 1))


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.int32, torch.int64])
def test_integer_targets_of_any_width(dtype: torch.dtype) -> None:
    task = Classification(3, class_weight=[1.0, 2.0, 3.0])
    y = Y.to(dtype)
    task.check_target(y)
    assert torch.equal(task.loss(Z, y), task.loss(Z, Y))
    assert torch.equal(task.residual(Z, y), task.residual(Z, Y))
    assert torch.equal(task.score(Z, y), task.score(Z, Y))


@pytest.mark.parametrize(
    ("target", "found"),
    [
        (None, "Found None"),
        (torch.tensor([0, 3, 1, -1]), r"\[-1, 3\] in rows \[1, 3\]"),
        (torch.tensor([0.0, 1.0]), r"torch.float32 \(2,\).*\.long\(\)"),
        (torch.zeros(4, 2), r"\(4, 2\)"),
        (torch.zeros(4, 3, dtype=torch.int64), r"\(4, 3\)"),
        (torch.tensor([True, False]), "torch.bool"),
        (torch.tensor([0, -100]), r"\[-100\]"),
    ],
)
def test_bad_targets(target: Any, found: str) -> None:
    with pytest.raises(TargetError, match=found):
        Classification(3).check_target(target)


def test_good_targets() -> None:
    Classification(3).check_target(Y)
    Classification(3).check_target(torch.softmax(Z, 1))


@pytest.mark.parametrize("size", [4, 400])  # few are looked at in Python, many by an operation
@pytest.mark.parametrize("dtype", [torch.int64, torch.int32, torch.int8])
def test_one_label_outside_is_found_among_few_and_many(size: int, dtype: torch.dtype) -> None:
    for bad in (-1, 3, -100):
        target = (torch.arange(size) % 3).to(dtype)
        Classification(3).check_target(target)
        target[size // 2] = bad
        with pytest.raises(TargetError, match=rf"(?s){bad}"):
            Classification(3).check_target(target)
    Classification(3).check_target(torch.zeros(0, dtype=dtype))


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        ({"num_classes": 1}, "num_classes"),
        ({"num_classes": 2.0}, "num_classes"),
        ({"num_classes": True}, "num_classes"),
        ({"num_classes": 3, "label_smoothing": 1.0}, "label_smoothing"),
        ({"num_classes": 3, "label_smoothing": -0.1}, "label_smoothing"),
        ({"num_classes": 3, "label_smoothing": math.nan}, "label_smoothing"),
        ({"num_classes": 3, "class_weight": [1.0, 2.0]}, "class_weight"),
        ({"num_classes": 3, "class_weight": [1.0, 2.0, 0.0]}, "class_weight"),
        ({"num_classes": 3, "class_weight": [1.0, 2.0, math.nan]}, "class_weight"),
    ],
)
def test_bad_arguments(arguments: dict[str, Any], name: str) -> None:
    with pytest.raises(TargetError, match=f"`{name}`"):
        Classification(**arguments)
