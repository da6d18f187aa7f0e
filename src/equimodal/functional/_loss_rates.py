"""Weights of several losses from how fast each of them falls."""

from __future__ import annotations

import torch
from torch import Tensor


def rate_weights(logits: Tensor, losses: Tensor, known: Tensor | None = None) -> Tensor:
    r"""Weights with which losses are asked to fall at one rate ([Liu2023], equation 5 and algorithm 1).

    .. math:: w_k = \frac{z_k / \ell_k}{\sum_j z_j / \ell_j}, \qquad z = \mathrm{softmax}(\xi)

    Args:
        logits: :math:`\xi`, (K,).
        losses: :math:`\ell`, (K,), above 0; 1e-8 is added.
        known: (K,) booleans; a loss that is not known has weight 0. Default all are.

    Returns:
        w, (K,), summing to 1.

    Example:
        >>> rate_weights(torch.zeros(2), torch.tensor([1.0, 3.0]))
        tensor([0.7500, 0.2500])
    """
    shares = torch.softmax(logits, 0) / (losses + 1e-8)
    if known is not None:
        shares = torch.where(known, shares, torch.zeros_like(shares))
    return shares / shares.sum().clamp_min(torch.finfo(shares.dtype).tiny)


def rate_gradient(logits: Tensor, before: Tensor, after: Tensor, known: Tensor | None = None) -> Tensor:
    r"""Gradient for the logits, after a step that changed the losses ([Liu2023], algorithm 1).

    .. math:: \nabla_\xi = z \odot (\delta - \langle z, \delta \rangle), \qquad
        \delta_k = \log \ell_k^{before} - \log \ell_k^{after}, \qquad z = \mathrm{softmax}(\xi)

    A descent step on it takes weight from losses that fell fast.

    Args:
        logits: :math:`\xi`, (K,).
        before: losses before the step, (K,), above 0.
        after: losses of the same samples after it, (K,).
        known: (K,) booleans; a loss that is not known has not changed.

    Returns:
        (K,).

    Example:
        >>> rate_gradient(torch.zeros(2), torch.tensor([2.0, 1.0]), torch.ones(2)) / torch.tensor(2.0).log()
        tensor([ 0.2500, -0.2500])
    """
    change = torch.log(before + 1e-8) - torch.log(after + 1e-8)
    if known is not None:
        change = torch.where(known, change, torch.zeros_like(change))
    z = torch.softmax(logits, 0)
    return z * (change - (z * change).sum())
