"""Correlation from sums against NumPy, and the two groups of 2-means against all splits."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from equimodal.functional import correlation, superior

F64 = torch.float64


def test_correlation_against_numpy() -> None:
    g = torch.Generator().manual_seed(0)
    x, y = torch.randn(2, 50, 3, generator=g, dtype=F64)
    x, y = x + 0.5 * y, 100 + 3 * y
    sums = torch.stack([x.sum(0), y.sum(0), (x * y).sum(0), (x * x).sum(0), (y * y).sum(0)], -1)
    found = correlation(sums, torch.tensor(50.0, dtype=F64))
    for d in range(3):
        expected = np.corrcoef(x[:, d].numpy(), y[:, d].numpy())[0, 1]
        assert found[d].item() == pytest.approx(expected, abs=1e-11)


def test_a_constant_correlates_with_nothing() -> None:
    x, y = torch.full((7,), 0.1, dtype=F64), torch.arange(7.0, dtype=F64)
    for a, b in ((x, y), (y, x), (x, x)):
        sums = torch.stack([a.sum(), b.sum(), a @ b, a @ a, b @ b])
        assert correlation(sums, torch.tensor(7.0, dtype=F64)).item() == 0.0


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([0.9, 0.1], [True, False]),
        ([0.1, 0.9, 0.85, 0.2], [False, True, True, False]),
        ([0.0, 0.1, 0.2, 5.0], [False, False, False, True]),
        ([1.0, 1.0], [False, False]),
        ([3.0], [False]),
    ],
)
def test_two_groups(values: list[float], expected: list[bool]) -> None:
    assert superior(torch.tensor(values)).tolist() == expected
