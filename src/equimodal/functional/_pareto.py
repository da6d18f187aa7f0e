"""Two gradients of one encoder, made into one step that serves both losses."""

from __future__ import annotations

import torch
from torch import Tensor


def pareto_weights(gram: Tensor) -> Tensor:
    r"""Weights of two gradients in the common direction ([Wei2024], equations 5 and 6).

    Where they agree, :math:`\langle g_0, g_1 \rangle > 0`, both get 1/2. Else :math:`w g_0 + (1 - w) g_1` is the
    shortest convex combination, :math:`w = \langle g_1 - g_0, g_1 \rangle / \|g_0 - g_1\|^2`. Two zero gradients get
    1/2 each.

    Args:
        gram: (2, 2) inner products of the two gradients.

    Returns:
        (w, 1 - w), (2,).

    Example:
        >>> pareto_weights(torch.tensor([[1.0, -0.5], [-0.5, 1.25]]))  # of (1, 0) and (-1/2, 1)
        tensor([0.5385, 0.4615])
    """
    distance = gram[0, 0] + gram[1, 1] - 2 * gram[0, 1]
    shortest = (gram[1, 1] - gram[0, 1]) / distance.clamp_min(torch.finfo(gram.dtype).tiny)
    w = torch.where((gram[0, 1] > 0) | (distance <= 0), 0.5, shortest.clamp(0, 1))
    return torch.stack([w, 1 - w])


def norm_restoration(gram: Tensor, weights: Tensor, maximum: float = 10.0) -> Tensor:
    r"""Factor that gives the common direction the length of the sum of the gradients ([Wei2024], equation 8).

    With :math:`h = 2 w_0 g_0 + 2 w_1 g_1` and :math:`G = g_0 + g_1` it is :math:`\|G\| / \|h\|` where that is above
    1, else 1. Of opposite gradients h is 0, so the factor is bounded; of zero gradients it is 1.

    Args:
        gram: (2, 2) inner products of the two gradients.
        weights: w, (2,).
        maximum: largest factor.

    Returns:
        Scalar in [1, ``maximum``].

    Example:
        >>> gram = torch.tensor([[1.0, -0.5], [-0.5, 1.25]])
        >>> norm_restoration(gram, pareto_weights(gram))
        tensor(1.0078)
    """
    direction = 4 * (weights @ gram @ weights).clamp_min(0)
    total = gram.sum().clamp_min(0)
    ratio = total / direction.clamp_min(torch.finfo(gram.dtype).tiny)
    return torch.where(total > 0, ratio.sqrt().clamp(1, maximum), 1.0)
