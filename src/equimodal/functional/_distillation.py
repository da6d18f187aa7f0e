"""Distances between a student and its teacher."""

from __future__ import annotations

import torch
from torch import Tensor


def distillation(teacher: Tensor, student: Tensor, temperature: float = 1.0) -> Tensor:
    r"""Divergence of a student's classes from its teacher's, :math:`T^2\, KL(p^T \| p)` ([Hinton2015]).

    :math:`p = \mathrm{softmax}(u / T)` over axis 1, and the same of the teacher, which is a constant.

    Args:
        teacher: logits, (B, C, ...).
        student: logits, same shape; gets the gradient.
        temperature: T > 0.

    Returns:
        (B, ...), in nats, in float32 at least.

    Example:
        >>> distillation(torch.zeros(1, 2), torch.zeros(1, 2))
        tensor([0.])
    """
    dtype = torch.promote_types(student.dtype, torch.float32)
    log_t = torch.log_softmax(teacher.detach().to(dtype) / temperature, 1)
    log_s = torch.log_softmax(student.to(dtype) / temperature, 1)
    return temperature**2 * (log_t.exp() * (log_t - log_s)).sum(1)
