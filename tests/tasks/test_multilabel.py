"""Labels that are there or not: loss and score by hand, targets."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

from equimodal import MultiLabel
from equimodal.errors import TargetError

Z = torch.tensor([[1.0, -2.0], [0.5, 3.0], [-1.0, 0.2]], dtype=torch.float64)
Y = torch.tensor([[1, 0], [0, 1], [1, 1]])


def test_loss_by_hand() -> None:
    p = 1 / (1 + np.exp(-Z.numpy()))
    y, w = Y.numpy(), np.array([3.0, 0.5])
    plain = -(y * np.log(p) + (1 - y) * np.log(1 - p)).mean()
    weighted = -(w * y * np.log(p) + (1 - y) * np.log(1 - p)).mean()
    assert float(MultiLabel(2).loss(Z, Y)) == pytest.approx(plain, rel=1e-13)
    assert float(MultiLabel(2, pos_weight=[3.0, 0.5]).loss(Z, Y)) == pytest.approx(weighted, rel=1e-13)


def test_score_by_hand() -> None:
    # found (0,0), (1,0), (1,1), (2,1); true (0,0), (1,1), (2,0), (2,1): 3 common of 4 and 4
    assert float(MultiLabel(2).score(Z, Y)) == pytest.approx(6 / 8)
    assert math.isnan(float(MultiLabel(2).score(-Z.abs(), torch.zeros_like(Y))))


def test_metrics_against_references() -> None:
    pytest.importorskip("torchmetrics")
    from sklearn.metrics import average_precision_score, f1_score

    g = torch.Generator().manual_seed(1)
    z, y = torch.randn(60, 3, generator=g), torch.randint(0, 2, (60, 3), generator=g)
    task = MultiLabel(3)
    found = {n: float(v) for n, v in task.metrics()(task.probabilities(z), y).items()}
    guess, truth = (z > 0).numpy().astype(int), y.numpy()  # arrays: old versions of scikit-learn take no tensors
    assert found == {
        "micro_f1": pytest.approx(f1_score(truth, guess, average="micro"), abs=1e-6),
        "macro_f1": pytest.approx(f1_score(truth, guess, average="macro"), abs=1e-6),
        "accuracy": pytest.approx((guess == truth).mean(), abs=1e-6),
        "mean_average_precision": pytest.approx(average_precision_score(truth, z.numpy(), average="macro"), abs=1e-6),
    }


@pytest.mark.parametrize("dtype", [torch.bool, torch.uint8, torch.int64, torch.float32])
def test_targets_of_any_type(dtype: torch.dtype) -> None:
    task = MultiLabel(2)
    task.check_target(Y.to(dtype))
    assert torch.equal(task.loss(Z, Y.to(dtype)), task.loss(Z, Y))
    assert torch.equal(task.residual(Z, Y.to(dtype)), task.residual(Z, Y))


@pytest.mark.parametrize(
    ("target", "found"),
    [
        (torch.tensor([[0, 2], [1, 1]]), r"\[2\] in rows \[0\]"),
        (torch.tensor([[0.0, 1.0], [math.nan, 1.0]]), r"\[nan\] in rows \[1\]"),
        (torch.tensor([0, 1]), r"torch.int64 \(2,\)"),
        (torch.zeros(2, 3), r"\(2, 3\)"),
        (torch.tensor([[-1, 0]]), r"\[-1\]"),
    ],
)
def test_bad_targets(target: Any, found: str) -> None:
    with pytest.raises(TargetError, match=found):
        MultiLabel(2).check_target(target)


def test_bad_arguments() -> None:
    for arguments, name in (((0,), "num_labels"), ((2.0,), "num_labels"), ((2, [1.0]), "pos_weight"),
                            ((2, [1.0, -1.0]), "pos_weight"), ((2, [1.0, math.inf]), "pos_weight")):  # fmt: skip
        with pytest.raises(TargetError, match=f"`{name}`"):
            MultiLabel(*arguments)
    with pytest.raises(TargetError, match=r"\(3, 3\) for \(3, 2\)"):
        MultiLabel(2).loss(Z, torch.zeros(3, 3))
