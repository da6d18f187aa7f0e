"""Shapes that broadcast from the left, and tensors in parts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor


def line_up(values: Tensor, like: Tensor) -> Tensor:
    """``values``, whose axes are the first ones of ``like``, with axes of size 1 up to the number of those of ``like``.

    Example:
        >>> line_up(torch.ones(4), torch.ones(4, 3, 5)).shape
        torch.Size([4, 1, 1])
    """
    return values[(..., *(None,) * (like.ndim - values.ndim))]


def joined(parts: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """The tensors of each name one after the other; a part without a name has zeros there, as many as it has rows.

    Example:
        >>> joined([{"a": torch.ones(2), "b": torch.ones(2)}, {"a": torch.ones(1)}])["b"]
        tensor([1., 1., 0.])
    """
    return {
        name: torch.cat([p[name] if name in p else torch.zeros_like(next(iter(p.values()))) for p in parts])
        for name in dict.fromkeys(name for part in parts for name in part)
    }
