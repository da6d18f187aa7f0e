"""Weights of losses from how they generalise."""

from __future__ import annotations

import torch
from torch import Tensor


def blending_weights(
    training: tuple[Tensor, Tensor], validation: tuple[Tensor, Tensor], previous: Tensor, floor: float = 0.01
) -> Tensor:
    r"""Gradient blending by the overfitting-to-generalisation ratio ([Wang2020], equation 4 and proposition 1).

    .. math:: w_k \propto \frac{G_k}{O_k^2}, \quad G = L^v_0 - L^v_1, \quad O = (L^v_1 - L^t_1) - (L^v_0 - L^t_0)

    with losses before (0) and after (1) training on loss k alone. A loss that did not fall on validation data, or
    is not known (NaN), gets 0; where none fell, the weights stay.

    Args:
        training: :math:`L^t_0`, :math:`L^t_1`, (K,) each, means over samples.
        validation: :math:`L^v_0`, :math:`L^v_1`, (K,) each.
        previous: weights so far, (K,).
        floor: smallest size of O, as a share of the mean of all :math:`|L^v_0|`; without it a loss whose overfitting
            did not grow takes all the weight.

    Returns:
        w, (K,), which sum to 1.

    Example:
        >>> training, validation = (torch.tensor([0.6, 0.8]), torch.tensor([0.4, 0.5])), (
        ...     torch.tensor([0.8, 0.9]), torch.tensor([0.7, 0.85]))
        >>> blending_weights(training, validation, torch.tensor([0.5, 0.5]))
        tensor([0.9259, 0.0741])
    """
    gain = validation[0] - validation[1]
    growth = (validation[1] - training[1]) - (validation[0] - training[0])
    known = ~torch.isnan(growth)
    least = floor * torch.where(known, validation[0], 0).abs().sum() / known.sum().clamp_min(1)
    size = torch.where(known, growth, 0).abs().clamp_min(least.clamp_min(torch.finfo(gain.dtype).tiny ** 0.25))
    ratio = torch.where(known, gain, 0).clamp_min(0) / size.square()
    total = ratio.sum()
    return torch.where(total > 0, ratio / torch.where(total > 0, total, 1), previous)
