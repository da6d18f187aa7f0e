"""Samples whose modalities come from different samples: their soft labels, and the weight of the weak modality."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def misaligned_target(confidence: Tensor, labels: Tensor, weights: Tensor, classes: int) -> Tensor:
    r"""Soft label of a sample that is put together from several ([Hwang2025]).

    :math:`\hat y = \sum_m \alpha_m \tilde c_m\, e_{y_m}` with :math:`\tilde c_m = c_m / \sum_j c_j`. Where an
    :math:`\alpha_m` is above 1 the entries sum to more than 1: they are weights of a cross-entropy.

    Args:
        confidence: c, (B, M), the probability that modality m gives to the label of the sample that it is from.
        labels: :math:`y_m`, (B, M) integers, the labels of these samples.
        weights: :math:`\alpha`, (M,).
        classes: C.

    Returns:
        (B, C).

    Example:
        >>> misaligned_target(torch.tensor([[0.6, 0.2]]), torch.tensor([[0, 2]]), torch.tensor([1.0, 1.2]), 3)
        tensor([[0.7500, 0.0000, 0.3000]])
    """
    share = shares(confidence) * weights
    return (nn.functional.one_hot(labels, classes).to(share.dtype) * share[:, :, None]).sum(1)


def shares(values: Tensor) -> Tensor:
    """Non-negative numbers (B, M) divided by their sum over axis 1; equal shares where all are 0."""
    total = values.sum(1, keepdim=True)
    equal = torch.full_like(values, 1 / values.shape[1])
    return torch.where(total > 0, values / torch.where(total > 0, total, 1), equal)


def weak_weights(weights: Tensor, confidence: Tensor, prediction: Tensor, step: float) -> Tensor:
    r"""The next :math:`\alpha` ([Hwang2025], weak-modality weighting).

    For the least confident modality :math:`\hat m = \arg\min_m E[\tilde c_m]` it is
    :math:`\max(1, \alpha_{\hat m} + \eta\, \mathrm{sign}(E[\tilde c_{\hat m}] - E[\tilde p_{\hat m}]))`: it grows while
    the fused prediction follows that modality less than its confidence says. For all others it is 1.

    Args:
        weights: :math:`\alpha`, (M,).
        confidence: :math:`E[\tilde c]`, (M,).
        prediction: :math:`E[\tilde p]`, (M,), the share of the fused prediction on each modality's label.
        step: :math:`\eta > 0`.

    Returns:
        (M,); of equally confident modalities the first counts as the weak one.

    Example:
        >>> weak_weights(torch.tensor([1.0, 1.1]), torch.tensor([0.7, 0.3]), torch.tensor([0.8, 0.2]), 0.05)
        tensor([1.0000, 1.1500])
    """
    position = confidence.argmin()
    moved = (weights + step * torch.sign(confidence - prediction)).clamp_min(1)
    weak = torch.arange(len(weights), device=weights.device) == position
    return torch.where(weak, moved, torch.ones_like(moved))
