"""Noise with given random numbers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from equimodal.diagnostics import Corruption, Spread

ZERO_TO_ONE = Spread(torch.ones(3), torch.zeros(3), torch.ones(3))


def hit(kind: Any, x: Any, numbers: Any, level: float = 0.5, spread: Spread = ZERO_TO_ONE) -> Any:
    """``x`` with this kind of noise, drawn by hand."""
    return Corruption(kind, "m", [spread]).apply(x, [np.asarray(numbers, np.float32)], level)


def kornia() -> None:
    """Skip where it is not installed."""
    pytest.importorskip("kornia")
