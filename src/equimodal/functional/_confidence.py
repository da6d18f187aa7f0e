"""How sure a prediction is of the truth."""

from __future__ import annotations

from torch import Tensor


def true_probability(probabilities: Tensor, target: Tensor) -> Tensor:
    r"""Probability of the true class, :math:`p_y`, or :math:`\sum_c q_c p_c` of a soft target q.

    Args:
        probabilities: p, (B, C) or (B, C, *pixels).
        target: class indices (B, *pixels), or q in the shape of ``probabilities``.

    Returns:
        (B, *pixels), in [0, 1].

    Example:
        >>> true_probability(torch.tensor([[0.7, 0.3], [0.2, 0.8]]), torch.tensor([0, 1]))
        tensor([0.7000, 0.8000])
    """
    if target.is_floating_point():
        return (probabilities * target.to(probabilities.dtype)).sum(1)
    return probabilities.gather(1, target.long().unsqueeze(1)).squeeze(1)


def true_label_probability(probabilities: Tensor, target: Tensor) -> Tensor:
    r"""Probability of what is true of each label, :math:`y p + (1 - y)(1 - p)`.

    Args:
        probabilities: p that the label is there, (B, L).
        target: y, (B, L), from 0 to 1.

    Returns:
        (B, L), in [0, 1].

    Example:
        >>> true_label_probability(torch.tensor([[0.7, 0.3]]), torch.tensor([[1, 0]]))
        tensor([[0.7000, 0.7000]])
    """
    y = target.to(probabilities.dtype)
    return y * probabilities + (1 - y) * (1 - probabilities)
