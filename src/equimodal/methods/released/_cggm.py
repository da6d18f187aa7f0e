"""The direction term of CGGM's released code, between weights in the place of their gradients."""

from __future__ import annotations

import torch
from torch import Tensor

from equimodal.functional import direction_loss
from equimodal.methods.parts import Direction

CGGM_RELEASED = (
    "the cosine is taken between parameters, not between their gradients",
    "so the direction term has a gradient for the head's last layer only, and for no encoder; it acts one batch late",
    "for segmentation no parameter matches the names it looks for, so the magnitude part does nothing",
    "raw per-batch balance terms",
)
"""What the released code does otherwise than the paper."""


def turn_of_weights(direction: Direction, balance: Tensor, weight: float) -> Tensor:
    """Gradient of the term with respect to the weight of the head's output layer, (C, D).

    Args:
        direction: has the output layers.
        balance: B, (M,).
        weight: of the term in the loss.
    """
    fused = direction.layer.weight.detach().requires_grad_()
    with torch.enable_grad():
        own = [layer.weight.detach() for layer in direction.own.values()]
        term = direction_loss(fused, own, balance.to(fused.dtype))
    (gradient,) = torch.autograd.grad(weight * term, fused)
    return gradient
