"""What is left of a target, and who is behind, with numbers worked out by hand."""

from __future__ import annotations

import pytest
import torch

from equimodal.errors import MethodError
from equimodal.functional import lagging, residual_target


def test_residual_target_by_hand() -> None:
    """Class 1 with p = .5 and .25: 1 - .8 (.5 + .25) = .4; other classes stay 0; below 0 it is clipped."""
    y = torch.tensor([[0.0, 1.0], [1.0, 0.0]], dtype=torch.float64)
    p = [torch.tensor([[0.5, 0.5], [0.9, 0.1]]).double(), torch.tensor([[0.75, 0.25], [0.8, 0.2]]).double()]
    assert residual_target(y, p, 0.8).tolist()[0] == pytest.approx([0.0, 0.4], abs=1e-12)
    assert residual_target(y, p, 0.8).tolist()[1] == [0.0, 0.0]  # 1 - .8 * 1.7 < 0
    assert torch.equal(residual_target(y, p, 0.0), y)
    assert torch.equal(residual_target(y, [], 0.5), y)


def test_a_target_carries_no_gradient() -> None:
    p = torch.tensor([[0.5, 0.5]], requires_grad=True)
    assert not residual_target(torch.tensor([[1.0, 0.0]]), [p], 0.5).requires_grad


@pytest.mark.parametrize(
    ("scores", "ratio", "margin", "expected"),
    [
        ([0.6, 0.5], 1.0, 0.01, [False, True]),
        ([0.6, 0.595], 1.0, 0.01, [False, False]),  # a dead zone
        ([0.5, 0.5], 1.0, 0.0, [False, False]),  # equal: nobody
        ([0.6, 0.5], 1.3, 0.01, [False, False]),  # .6 - .65 < 0
        ([0.9, 0.5, 0.85], 1.0, 0.1, [False, True, False]),
        ([0.2, 0.5, 0.9], 1.0, 0.1, [True, True, False]),
    ],
)
def test_who_is_behind(scores: list[float], ratio: float, margin: float, expected: list[bool]) -> None:
    assert lagging(scores, ratio, margin) == expected


def test_one_modality_is_behind_nobody() -> None:
    with pytest.raises(MethodError, match="`scores`: expected at least 2"):
        lagging([0.5])
