"""Coefficients of modalities from how their scores compare; all are 1 (or 0 drops) where the scores are equal."""

from __future__ import annotations

import torch
from torch import Tensor


def discrepancy_ratios(scores: Tensor, known: Tensor | None = None) -> Tensor:
    r"""How far each modality is ahead, :math:`\rho_m = \mathrm{mean}_{j \ne m}\, s_m / s_j`.

    For two modalities this is the ratio of [Peng2022], equation 8; for more, its extension in [Wei2024b], equation 6.

    Args:
        scores: s, (M,), positive.
        known: (M,) booleans; a modality without a score is compared with none, and has 1. Default: all.

    Returns:
        (M,), 1 where there is nothing to compare with.

    Example:
        >>> discrepancy_ratios(torch.tensor([0.6, 0.3]))
        tensor([2.0000, 0.5000])
        >>> discrepancy_ratios(torch.tensor([0.6, 0.3, 0.2]), torch.tensor([True, True, False]))
        tensor([2.0000, 0.5000, 1.0000])
    """
    known = torch.ones_like(scores, dtype=torch.bool) if known is None else known
    safe = scores.clamp_min(1e-12)
    compared = known[:, None] & known & ~torch.eye(len(scores), dtype=torch.bool, device=scores.device)
    count = compared.sum(1)
    total = torch.where(compared, safe[:, None] / safe, 0).sum(1)
    return torch.where(count > 0, total / count.clamp_min(1), 1.0)


def ogm_coefficients(ratios: Tensor, alpha: float) -> Tensor:
    r"""Factors on the gradients of modalities ([Peng2022], equation 10).

    :math:`k_m = 1 - \tanh(\alpha \rho_m)` where :math:`\rho_m > 1`, else 1.

    Args:
        ratios: :math:`\rho`, (M,).
        alpha: :math:`\alpha > 0`.

    Returns:
        k, (M,), in [0, 1].

    Example:
        >>> ogm_coefficients(torch.tensor([2.0, 0.5]), alpha=0.5)
        tensor([0.2384, 1.0000])
    """
    return torch.where(ratios > 1, 1 - torch.tanh(alpha * ratios), 1.0)


def relative_strengths(log_scores: Tensor, known: Tensor | None = None) -> Tensor:
    r"""How much stronger each modality is than the others, :math:`r_m = \exp(l_m - \mathrm{mean}_{j \ne m} l_j)`.

    With l the mean logarithm of the probability of the truth these are the ratios of [Li2023], equations 8 and 9.

    Args:
        log_scores: l, (M,).
        known: (M,) booleans; a modality without a score is compared with none, and has 1. Default: all.

    Returns:
        (M,), 1 where there is nothing to compare with.

    Example:
        >>> relative_strengths(torch.tensor([0.0, -0.5]))
        tensor([1.6487, 0.6065])
    """
    known = torch.ones_like(log_scores, dtype=torch.bool) if known is None else known
    safe, count = torch.where(known, log_scores, 0), known.sum()
    others = (safe.sum() - safe) / (count - 1).clamp_min(1)
    return torch.where(known & (count > 1), torch.exp(safe - others), 1.0)


def agm_coefficients(current: Tensor, target: Tensor, alpha: float, cap: float) -> Tensor:
    r"""Factors on the gradients through the responses of modalities ([Li2023], equation 11).

    :math:`\kappa_m = \exp(\alpha \min(\tau_m - r_m, \mathrm{cap}))`.

    Args:
        current: r of this batch, (M,).
        target: :math:`\tau`, r of the running means, (M,).
        alpha: :math:`\alpha > 0`.
        cap: largest difference.

    Returns:
        :math:`\kappa`, (M,), positive.

    Example:
        >>> agm_coefficients(torch.tensor([1.5, 0.5]), torch.tensor([1.0, 1.0]), alpha=1.0, cap=10.0)
        tensor([0.6065, 1.6487])
    """
    return torch.exp(alpha * (target - current).clamp_max(cap))


def opm_probabilities(ratios: Tensor, base: float, strength: float) -> Tensor:
    r"""Probability that a modality's features are dropped ([Wei2024b], equation 7).

    :math:`q_m = \mathrm{clip}(q_{base} (1 + \lambda \tanh(\rho_m - 1)), 0, 1)` where :math:`\rho_m > 1`, else 0.

    Args:
        ratios: :math:`\rho`, (M,).
        base: :math:`q_{base}`, in [0, 1].
        strength: :math:`\lambda \ge 0`.

    Returns:
        q, (M,), in [0, 1].

    Example:
        >>> opm_probabilities(torch.tensor([2.0, 0.5]), base=0.5, strength=0.5)
        tensor([0.6904, 0.0000])
    """
    probabilities = (base * (1 + strength * torch.tanh(ratios - 1))).clamp(0, 1)
    return torch.where(ratios > 1, probabilities, 0.0)


def mlb_coefficients(ratios: Tensor, alpha: float, beta: float) -> Tensor:
    r"""Factors on the gradients of modalities, for one that lags, too ([Kontras2024], section 3).

    :math:`k_m = 1 + (\beta - 1) \tanh(\alpha (\rho_m - 1))` where :math:`\rho_m > 1`, else
    :math:`1 + \tanh(\alpha (\rho_m - 1))`, with :math:`\rho_m` how far the others are ahead of m.

    Args:
        ratios: :math:`\rho`, (M,).
        alpha: :math:`\alpha > 0`.
        beta: :math:`\beta`, the largest factor; below 1 it slows a modality that lags.

    Returns:
        k, (M,), in (0, max(1, beta)).

    Example:
        >>> mlb_coefficients(torch.tensor([2.0, 0.5]), alpha=1.0, beta=2.0)
        tensor([1.7616, 0.5379])
    """
    slope = torch.tanh(alpha * (ratios - 1))
    return 1 + torch.where(ratios > 1, (beta - 1) * slope, slope)
