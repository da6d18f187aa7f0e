"""Leads and strengths by hand."""

from __future__ import annotations

import math

import pytest
import torch

from equimodal.functional import leads, regulation_strength


def test_leads_by_hand() -> None:
    scores = torch.tensor([-1.0, -2.0, -4.0], dtype=torch.float64)
    assert leads(scores, torch.tensor([True, True, True])).tolist() == [2.0, 2.0, 0.0]
    assert leads(scores, torch.tensor([True, True, False])).tolist() == [1.0, 0.0, 0.0]
    assert leads(torch.full((3,), -0.7), torch.ones(3, dtype=torch.bool)).tolist() == [0.0, 0.0, 0.0]


def test_strength_by_hand() -> None:
    found = regulation_strength(torch.tensor([0.0, 1.0], dtype=torch.float64), 0.9).tolist()
    assert found == pytest.approx([0.0, math.exp(0.9 * math.tanh(1.0))], abs=1e-12)
    assert regulation_strength(torch.tensor([0.5]), 0.0).tolist() == [1.0]
