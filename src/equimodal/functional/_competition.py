"""Competition between modalities: how far predictions are apart, and how alike features of one class are."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from equimodal.errors import MethodError


def jensen_shannon(first: Tensor, second: Tensor) -> Tensor:
    r"""Jensen-Shannon divergence between two categorical predictions, in nats.

    With :math:`p, q` the softmax over axis 1 and :math:`m = (p + q)/2`,
    :math:`D = \frac12 \sum_c p_c \log \frac{p_c}{m_c} + \frac12 \sum_c q_c \log \frac{q_c}{m_c}`.

    Args:
        first: logits of p, (B, C, ...).
        second: logits of q, same shape.

    Returns:
        (B, ...), between 0 and log 2, in float32 at least; differentiable with respect to both.

    Example:
        >>> far = torch.tensor([[50.0, -50.0]])
        >>> jensen_shannon(far, -far).exp(), jensen_shannon(far, far)
        (tensor([2.]), tensor([0.]))
    """
    if first.shape != second.shape or first.ndim < 2:
        raise MethodError(
            "`first`, `second`: expected logits of equal shapes (B, C, ...). Found "
            f"{tuple(first.shape)} and {tuple(second.shape)}."
        )
    dtype = torch.promote_types(first.dtype, torch.float32)
    log_p, log_q = torch.log_softmax(first.to(dtype), 1), torch.log_softmax(second.to(dtype), 1)
    log_m = torch.logaddexp(log_p, log_q) - torch.log(log_p.new_full((), 2.0))
    return 0.5 * (log_p.exp() * (log_p - log_m) + log_q.exp() * (log_q - log_m)).sum(1)


def binary_jensen_shannon(first: Tensor, second: Tensor) -> Tensor:
    """:func:`jensen_shannon` between the Bernoulli predictions of single labels, from logits of any one shape.

    Example:
        >>> binary_jensen_shannon(torch.tensor([50.0, 1.0]), torch.tensor([-50.0, 1.0])).exp()
        tensor([2., 1.])
    """
    return jensen_shannon(*(torch.stack([torch.zeros_like(z), z], 1) for z in (first, second)))


def cross_modal_contrast(
    first: Tensor, second: Tensor, positive: Tensor, valid: Tensor | None = None, temperature: float = 0.5
) -> Tensor:
    r"""Supervised contrastive loss between the features of two modalities, the mean over both directions.

    With :math:`s_{ij} = \cos(a_i, b_j)/\tau` and :math:`P_i` the samples that count as equal to i,

    .. math:: L_{a \to b} = -\frac1n \sum_i \frac{1}{|P_i|} \sum_{j \in P_i}
        \log \frac{e^{s_{ij}}}{\sum_k e^{s_{ik}}}

    Args:
        first: a, (B, d).
        second: b, (B, d).
        positive: (B, B) booleans, symmetric, true on the diagonal: which samples count as equal.
        valid: (B,) booleans, the n samples that have both modalities; default all. Others are not read.
        temperature: :math:`\tau > 0`, without unit.

    Returns:
        scalar; 0 without a valid sample.

    Example:
        >>> z = torch.eye(2)
        >>> round(float(cross_modal_contrast(z, z, torch.eye(2, dtype=torch.bool), temperature=1.0)), 4)  # log(1 + 1/e)
        0.3133
    """
    if first.ndim != 2 or first.shape != second.shape:
        raise MethodError(
            f"`first`, `second`: expected features of equal shapes (B, d). Found {tuple(first.shape)} and "
            f"{tuple(second.shape)}. Use encoders of equal width."
        )
    dtype = torch.promote_types(first.dtype, torch.float32)
    valid = torch.ones_like(first[:, 0], dtype=torch.bool) if valid is None else valid
    a, b = (nn.functional.normalize(torch.where(valid[:, None], z, 0).to(dtype), dim=1) for z in (first, second))
    similarity = (a @ b.mT / temperature).masked_fill(~valid, -torch.inf)
    pairs = (positive & valid & valid[:, None]).to(dtype)
    count = valid.sum().clamp_min(1)
    losses = []
    for s in (similarity, (b @ a.mT / temperature).masked_fill(~valid, -torch.inf)):
        s = torch.where(valid.any(), s, torch.zeros_like(s))
        log_share = torch.log_softmax(s, 1).masked_fill(~valid, 0.0)
        losses.append(-((pairs * log_share).sum(1) / pairs.sum(1).clamp_min(1)).sum() / count)
    return 0.5 * (losses[0] + losses[1])
