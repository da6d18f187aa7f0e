"""Losses beyond cross-entropy with their gradients with respect to the output, in closed form."""

from __future__ import annotations

import torch
from torch import Tensor

from equimodal.errors import MethodError


def binary_cross_entropy_residual(logits: Tensor, target: Tensor, positive_weight: Tensor | None = None) -> Tensor:
    r"""Gradient of the mean binary cross-entropy with respect to the logits.

    With :math:`L = -\frac1n \sum \left( w\, y \log \sigma(z) + (1 - y) \log(1 - \sigma(z)) \right)` over all n entries,
    :math:`r = \left( (1 - y + w y)\, \sigma(z) - w y \right) / n`.

    Args:
        logits: z, any shape.
        target: y in [0, 1], same shape.
        positive_weight: w, broadcast against z; ``None`` is 1.

    Returns:
        r, same shape; differentiable with respect to ``logits``.
    """
    y = target.to(logits.dtype)
    positive = y if positive_weight is None else y * positive_weight.to(logits.dtype)
    return ((1 - y + positive) * torch.sigmoid(logits) - positive) / logits.numel()


def gaussian_nll(mean: Tensor, log_variance: Tensor, target: Tensor, bound: float = 14.0) -> Tensor:
    r"""Negative log-likelihood of a Gaussian with predicted mean and variance, without the constant.

    :math:`\frac1n \sum \frac12 \left( s + (y - \mu)^2 e^{-s} \right)` with s the log-variance, clamped to
    [-bound, bound] because a single s far below pushes the loss to infinity.

    Args:
        mean: :math:`\mu`, any shape.
        log_variance: s, same shape.
        target: y, same shape.
        bound: 14: variances between 8e-7 and 1.2e6 times the square of the target's unit.

    Returns:
        scalar.

    Example:
        >>> gaussian_nll(torch.zeros(1), torch.zeros(1), torch.full((1,), 2.0))
        tensor(2.)
    """
    s = log_variance.clamp(-bound, bound)
    return 0.5 * (s + (target - mean).square() * torch.exp(-s)).mean()


def gaussian_nll_residual(
    mean: Tensor, log_variance: Tensor, target: Tensor, bound: float = 14.0
) -> tuple[Tensor, Tensor]:
    r"""Gradient of :func:`gaussian_nll` with respect to mean and log-variance.

    :math:`r_\mu = (\mu - y) e^{-s} / n`, :math:`r_s = \frac12 (1 - (y - \mu)^2 e^{-s}) / n`, the latter 0 where s is
    clamped.

    Returns:
        two tensors of the mean's shape, differentiable with respect to mean and log-variance.
    """
    s = log_variance.clamp(-bound, bound)
    precision = torch.exp(-s)
    error = mean - target
    inside = (log_variance.abs() <= bound).to(mean.dtype)
    return error * precision / mean.numel(), 0.5 * inside * (1 - error.square() * precision) / mean.numel()


def soft_dice(
    probability: Tensor, truth: Tensor, *, over_batch: bool = True, smooth: float = 1e-5
) -> tuple[Tensor, Tensor]:
    r"""Soft Dice per class, :math:`D = \frac{2 \sum p\,y + \epsilon}{\sum p + \sum y + \epsilon}`, and its gradient.

    .. math:: \frac{\partial D}{\partial p} = \frac{2 y - D}{\sum p + \sum y + \epsilon}

    Args:
        probability: p, (B, K, *pixels).
        truth: y, same shape, 0 or 1.
        over_batch: sums run over the pixels of the whole batch (K values); else over each sample's (B x K values).
        smooth: :math:`\epsilon > 0`: what is empty and predicted as empty has D = 1.

    Returns:
        D, (1, K) or (B, K), and dD/dp, shape of p; both differentiable with respect to ``probability``.

    Example:
        >>> d, _ = soft_dice(torch.tensor([[[1.0, 1.0]]]), torch.tensor([[[1.0, 0.0]]]), smooth=1e-9)
        >>> round(float(d), 4)
        0.6667
    """
    if probability.shape != truth.shape or probability.ndim < 3:
        raise MethodError(
            "`probability`, `truth`: expected equal shapes (B, K, *pixels). "
            f"Found {tuple(probability.shape)} and {tuple(truth.shape)}."
        )
    axes = [*([0] if over_batch else []), *range(2, probability.ndim)]
    total = (probability + truth).sum(axes, keepdim=True) + smooth
    dice = (2 * (probability * truth).sum(axes, keepdim=True) + smooth) / total
    return dice.flatten(1), (2 * truth - dice) / total


def softmax_backward(probability: Tensor, gradient: Tensor) -> Tensor:
    r"""Gradient with respect to the logits of something whose gradient with respect to softmax over axis 1 is given.

    :math:`p_c \left( g_c - \sum_k p_k g_k \right)`.
    """
    return probability * (gradient - (probability * gradient).sum(dim=1, keepdim=True))
