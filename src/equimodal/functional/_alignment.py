"""How much of the loss aligns the modalities, instead of fitting labels, as training goes on."""

from __future__ import annotations

import math

import torch
from torch import Tensor

_QUINTIC = (2.04623704e-1, 3.35472727e-3, 1.22989557e-4, -2.92947416e-6, 2.23835486e-8, -5.39717505e-11)


def alignment_share(epoch: int) -> float:
    r"""Share of the alignment in the loss, :math:`1 - e^{-1/t}` with t = epoch + 1: from 0.632 down to 0.

    Args:
        epoch: from 0.

    Example:
        >>> [round(alignment_share(e), 3) for e in (0, 1, 2, 99)]
        [0.632, 0.393, 0.283, 0.01]
    """
    return 1 - math.exp(-1 / (epoch + 1))


def released_alignment_share(epoch: int) -> float:
    """One minus the polynomial of degree 5 that the released script of CREMA-D has for 200 epochs; not clipped.

    It is below 0 in epochs 177 to 188, and above 1 from epoch 227 on.

    Args:
        epoch: from 0.

    Example:
        >>> [round(released_alignment_share(e), 4) for e in (0, 80, 183)]
        [0.7954, 0.4998, -0.0105]
    """
    return 1 - math.fsum(c * float(epoch) ** k for k, c in enumerate(_QUINTIC))


def divergence_from_mean(first: Tensor, second: Tensor) -> Tensor:
    r""":math:`\frac12 KL(m \| p) + \frac12 KL(m \| q)` with m = (p + q)/2: the Jensen-Shannon divergence turned around.

    It has no upper bound: where p and q are sure of different classes it grows with their logits.

    Args:
        first: logits of p, (B, C).
        second: logits of q, same shape.

    Returns:
        (B,), in nats.

    Example:
        >>> divergence_from_mean(torch.tensor([[20.0, 0.0]]), torch.tensor([[0.0, 20.0]]))
        tensor([9.3069])
    """
    log_p, log_q = torch.log_softmax(first, 1), torch.log_softmax(second, 1)
    log_m = torch.logaddexp(log_p, log_q) - math.log(2)
    return (log_m.exp() * (log_m - (log_p + log_q) / 2)).sum(1)
