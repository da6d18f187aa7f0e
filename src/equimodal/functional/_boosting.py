"""Boosting inside one modality: what is left of a target, and which modality gets another classifier."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from equimodal.errors import MethodError


def residual_target(target: Tensor, probabilities: Sequence[Tensor], share: float) -> Tensor:
    r"""What earlier classifiers leave of the target ([Jiang2025b], residual error).

    :math:`\tilde y = \max\left(y - \lambda \sum_j y \odot p_j, 0\right)`, with :math:`p_j` the prediction of each
    earlier classifier by itself. It is no distribution: its rows sum to what is left.

    Args:
        target: y, (B, C), one-hot or probabilities.
        probabilities: :math:`p_j`, (B, C) each.
        share: :math:`\lambda \ge 0`.

    Returns:
        (B, C), detached.

    Example:
        >>> import torch
        >>> residual_target(torch.tensor([[1.0, 0.0]]), [torch.tensor([[0.6, 0.4]])], 0.5)
        tensor([[0.7000, 0.0000]])
    """
    left = target
    for p in probabilities:
        left = left - share * target * p.detach()
    return left.clamp_min(0)


def lagging(scores: Sequence[float], ratio: float = 1.0, margin: float = 0.01) -> list[bool]:
    r"""Which modalities are behind some other: :math:`\max_{j \ne m} s_j - \sigma s_m > \tau` ([Jiang2025b]).

    Args:
        scores: s, M >= 2 numbers.
        ratio: :math:`\sigma > 0`.
        margin: :math:`\tau \ge 0`, in the unit of the scores; within it nobody is behind.

    Example:
        >>> lagging([0.5, 0.3, 0.495])
        [False, True, False]
    """
    if len(scores) < 2:
        raise MethodError(f"`scores`: expected at least 2. Found {len(scores)}.")
    best = [max(s for j, s in enumerate(scores) if j != m) for m in range(len(scores))]
    return [other - ratio * own > margin for own, other in zip(scores, best, strict=True)]
