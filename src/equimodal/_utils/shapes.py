"""Shapes that broadcast from the left."""

from __future__ import annotations

from torch import Tensor


def line_up(values: Tensor, like: Tensor) -> Tensor:
    """``values``, whose axes are the first ones of ``like``, with axes of size 1 up to the number of those of ``like``.

    Example:
        >>> import torch
        >>> line_up(torch.ones(4), torch.ones(4, 3, 5)).shape
        torch.Size([4, 1, 1])
    """
    return values[(..., *(None,) * (like.ndim - values.ndim))]
