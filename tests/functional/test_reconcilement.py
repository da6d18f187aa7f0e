"""What a modality learns beside the others: numbers by hand."""

from __future__ import annotations

import math

import pytest
import torch

from equimodal.functional import known_share

LOG = math.log


def test_by_hand() -> None:
    """p = (3/4, 1/4), the others say (1/5, 4/5)."""
    output = torch.tensor([[LOG(3.0), 0.0]], dtype=torch.float64)
    others = torch.tensor([[0.0, LOG(4.0)]], dtype=torch.float64)
    first = known_share(output, others, torch.tensor([0]))
    assert float(first) == pytest.approx(0.2 * LOG(0.75), abs=1e-12)
    assert float(known_share(output, others, torch.tensor([1]))) == pytest.approx(0.8 * LOG(0.25), abs=1e-12)
    both = known_share(output, others, torch.tensor([0]), "full")
    assert float(both) == pytest.approx(0.2 * LOG(0.75) + 0.8 * LOG(0.25), abs=1e-12)


def test_soft_targets_are_averages_of_classes() -> None:
    g = torch.Generator().manual_seed(0)
    output, others = torch.randn(2, 4, 3, generator=g, dtype=torch.float64)
    soft = torch.tensor([0.2, 0.5, 0.3], dtype=torch.float64).expand(4, 3)
    of_class = [known_share(output, others, torch.full((4,), c)) for c in range(3)]
    assert torch.allclose(known_share(output, others, soft), 0.2 * of_class[0] + 0.5 * of_class[1] + 0.3 * of_class[2],
                          atol=1e-12)  # fmt: skip
    assert torch.allclose(known_share(output, others, soft, "full"), torch.stack(of_class).sum(0), atol=1e-12)
