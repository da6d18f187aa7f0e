"""Schedules and the turned divergence: numbers by hand."""

from __future__ import annotations

import math

import pytest
import torch

from equimodal.functional import (
    alignment_share,
    divergence_from_mean,
    jensen_shannon,
    released_alignment_share,
)


def test_schedules() -> None:
    assert alignment_share(0) == pytest.approx(1 - 1 / math.e, abs=1e-15)
    assert alignment_share(3) == pytest.approx(1 - math.exp(-0.25), abs=1e-15)
    values = [1 - released_alignment_share(e) for e in (0, 80, 100, 150, 199)]
    assert values == pytest.approx([0.2046, 0.5001, 0.5391, 0.8210, 0.9156], abs=1e-3)
    assert [e for e in range(220) if released_alignment_share(e) < 0] == list(range(177, 189))


def test_divergence_by_hand() -> None:
    """p = (3/4, 1/4), q = (1/4, 3/4), m = (1/2, 1/2): log 2 of m against each is log(2/sqrt(3))."""
    p, q = (torch.tensor(v, dtype=torch.float64) for v in ([[math.log(3.0), 0.0]], [[0.0, math.log(3.0)]]))
    assert float(divergence_from_mean(p, q)) == pytest.approx(math.log(2 / math.sqrt(3)), abs=1e-12)
    assert float(divergence_from_mean(p, p)) == pytest.approx(0.0, abs=1e-12)
    far = torch.tensor([[30.0, 0.0]]).double()
    assert float(divergence_from_mean(far, far.flip(1))) > 14
    assert float(jensen_shannon(far, far.flip(1))) < math.log(2)
