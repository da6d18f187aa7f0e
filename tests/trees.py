"""Comparison of nested values."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def assert_same_tree(a: Any, b: Any) -> None:
    """Equal nestings of tensors and plain values."""
    if isinstance(a, dict):
        assert a.keys() == b.keys()
        for key in a:
            assert_same_tree(a[key], b[key])
    elif isinstance(a, (list, tuple)):
        assert len(a) == len(b)
        for x, y in zip(a, b, strict=True):
            assert_same_tree(x, y)
    elif isinstance(a, Tensor):
        assert torch.equal(a, b)
    else:
        assert a == b
