"""How far a modality leads the others, and how strongly it is held back for that."""

from __future__ import annotations

import torch
from torch import Tensor


def leads(scores: Tensor, known: Tensor) -> Tensor:
    r"""Mean distance to the modalities behind: :math:`\Delta_m = \mathrm{mean}_{j: s_j < s_m} (s_m - s_j)`, else 0.

    Args:
        scores: (M,), higher is better, for example mean log-likelihoods.
        known: (M,) booleans; the others lead nobody and are not looked at.

    Example:
        >>> leads(torch.tensor([-1.0, -2.0, -4.0]), torch.tensor([True, True, True]))
        tensor([2., 2., 0.])
    """
    distance = scores[:, None] - scores[None, :]
    behind = (distance > 0) & known[:, None] & known[None, :]
    return torch.where(behind, distance, 0).sum(1) / behind.sum(1).clamp_min(1)


def regulation_strength(lead: Tensor, beta: float) -> Tensor:
    r""":math:`\exp(\beta \tanh \Delta_m)` where :math:`\Delta_m > 0`, else 0.

    Args:
        lead: :math:`\Delta`, of any shape.
        beta: 0 holds all leaders back alike.

    Example:
        >>> regulation_strength(torch.tensor([0.0, 100.0]), 1.0)
        tensor([0.0000, 2.7183])
    """
    return torch.where(lead > 0, torch.exp(beta * torch.tanh(lead)), 0)
