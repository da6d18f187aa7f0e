"""What one modality learns beside the ensemble of the others."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor


def known_share(
    output: Tensor, others: Tensor, target: Tensor, residual: Literal["true_class", "full"] = "true_class"
) -> Tensor:
    r"""Log-likelihood of a modality, weighted by what the ensemble of the others says already.

    Subtracting it from the cross-entropy of p = softmax(output) leaves what the others F do not know:
    :math:`\sum_c y_c\, \mathrm{softmax}(F)_c \log p_c`, or, with the whole of the functional gradient y - softmax(F),
    :math:`\sum_c \mathrm{softmax}(F)_c \log p_c`.

    Args:
        output: (B, C) logits of the modality.
        others: (B, C) logits of the ensemble of the others; without a graph.
        target: (B,) classes, or (B, C) probabilities.
        residual: the true class alone, or all classes.

    Returns:
        (B,), at most 0.

    Example:
        >>> known_share(torch.zeros(1, 2), torch.tensor([[0.0, 200.0]]), torch.tensor([1]))
        tensor([-0.6931])
    """
    weights = torch.softmax(others, dim=1)
    if residual == "true_class":
        hard = not target.is_floating_point()
        weights = weights * (torch.nn.functional.one_hot(target, output.shape[1]) if hard else target)
    return (weights * torch.log_softmax(output, dim=1)).sum(1)
