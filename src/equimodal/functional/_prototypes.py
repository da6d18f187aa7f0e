"""Class prototypes: how features are classified by them, and how much each modality needs their pull."""

from __future__ import annotations

import torch
from torch import Tensor

_LEAST = 1e-6


def prototype_logits(features: Tensor, prototypes: Tensor, seen: Tensor) -> Tensor:
    r"""Logits by distance, :math:`u_k = -\|z - c_k\|_2` ([Fan2023], equation 8).

    Distances are at least 1e-6, without a gradient there: a sample that is its own prototype has no direction to it.

    Args:
        features: z, (B, d).
        prototypes: c, (C, d), float32 at least.
        seen: (C,) booleans; a class without a prototype has the logit :math:`-\infty`.

    Returns:
        (B, C).

    Example:
        >>> prototype_logits(torch.zeros(1, 2), torch.tensor([[3.0, 4.0], [0.0, 0.0]]), torch.tensor([True, True]))
        tensor([[-5.0000e+00, -1.0000e-06]])
    """
    gap = features.to(prototypes.dtype)[:, None] - prototypes
    distance = gap.square().sum(2).clamp_min(_LEAST**2).sqrt()
    return torch.where(seen, -distance, -torch.inf)


def pmr_coefficients(scores: Tensor, known: Tensor | None = None) -> tuple[Tensor, Tensor]:
    r"""How much each modality lags, and how much it leads ([Fan2023], equations 10 to 12).

    :math:`\beta_m = \mathrm{clip}(s_{max} / s_m - 1, 0, 1)`, :math:`\gamma_m = \mathrm{clip}(s_m / s_{min} - 1, 0, 1)`.
    Of two modalities one of each is 0, and the other two are equal, as in the paper.

    Args:
        scores: s, (M,), positive.
        known: (M,) booleans; a modality without a score has 0 and 0. Default: all.

    Returns:
        :math:`\beta` and :math:`\gamma`, (M,) each, in [0, 1].

    Example:
        >>> pmr_coefficients(torch.tensor([0.2, 0.3]))
        (tensor([0.5000, 0.0000]), tensor([0.0000, 0.5000]))
    """
    known = torch.ones_like(scores, dtype=torch.bool) if known is None else known
    safe = scores.clamp_min(1e-12)
    most = torch.where(known, safe, 0).amax()
    least = torch.where(known, safe, torch.inf).amin()
    lag, lead = (most / safe - 1).clamp(0, 1), (safe / least - 1).clamp(0, 1)
    return torch.where(known, lag, 0.0), torch.where(known, lead, 0.0)
