"""What each modality of a sample is worth, and how often it is seen alone for that."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from equimodal.errors import MethodError

_ROUNDING = 1e-5  # of sums of fractions that are on a bound


def shapley_values(values: Tensor) -> Tensor:
    r"""Shapley values of M players from the value of every set of them.

    .. math:: \phi_m = \sum_{S \not\ni m} \frac{|S|!\,(M-|S|-1)!}{M!} \big(v(S \cup m) - v(S)\big)

    Args:
        values: (n, 2^M); column k is of the set whose members are the bits of k, so column 0 is of nobody.

    Returns:
        (n, M). A player that adds nothing to any set gets 0; the values sum to v(all) - v(nobody).

    Example:
        >>> shapley_values(torch.tensor([[0.0, 1.0, 0.0, 2.0]]))  # v(1) = 1, v(2) = 0, v(12) = 2
        tensor([[1.5000, 0.5000]])
    """
    count = values.shape[1].bit_length() - 1 if values.ndim == 2 else 0
    if count < 1 or values.shape[1] != 2**count:
        raise MethodError(f"`values`: expected (n, 2^M), the value of every set. Found {tuple(values.shape)}.")
    shares = [math.factorial(s) * math.factorial(count - s - 1) / math.factorial(count) for s in range(count)]
    without = [[k for k in range(2**count) if not k >> m & 1] for m in range(count)]
    columns = torch.tensor(without).to(values.device, non_blocking=True)  # known on the host: nothing waits
    weights = torch.tensor(
        [[shares[k.bit_count()] for k in row] for row in without],
        dtype=values.dtype if values.is_floating_point() else None,
    ).to(values.device, non_blocking=True)
    found = [((values[:, columns[m] | 1 << m] - values[:, columns[m]]) * weights[m]).sum(1) for m in range(count)]
    return torch.stack(found, 1)


def copies_alone(worth: Tensor) -> Tensor:
    """How often a modality of a sample is seen once more, alone: 3 below -0.1, 2 up to 0.4, 1 up to 1, else 0.

    The bounds themselves are outside of the open intervals: -0.1 and 0.4 give 0, as 1 does.

    Args:
        worth: Shapley values of any shape, where a set's value is its size if its prediction is right, else 0.

    Example:
        >>> copies_alone(torch.tensor([-0.5, 0.0, 0.5, 1.0, 1.5])).tolist()
        [3, 2, 1, 0, 0]
    """
    low, middle = (worth > -0.1 + _ROUNDING) & (worth < 0.4 - _ROUNDING), (worth > 0.4 + _ROUNDING)
    return 3 * (worth < -0.1 - _ROUNDING).long() + 2 * low.long() + (middle & (worth < 1 - _ROUNDING)).long()


def weakest_share(worth: Tensor, there: Tensor, alpha: float) -> tuple[int, float]:
    r"""The modality that is worth least, and the share of samples that are to be seen once more with it alone.

    With :math:`\bar\phi_m` the means and g the difference between the lowest of them and the mean of the others, the
    share is :math:`\min(1, \tfrac23 \alpha g)`.

    Args:
        worth: :math:`\phi`, (N, M), of two modalities or more.
        there: (N, M) booleans: what has a value.
        alpha: :math:`\alpha > 0`.

    Returns:
        position of the modality, the first of equal ones, and the share.

    Example:
        >>> worth = torch.tensor([[1.0, 0.5], [0.5, 0.5]])
        >>> weakest_share(worth, torch.ones(2, 2, dtype=torch.bool), 1.5)
        (1, 0.25)
    """
    means = (worth * there).sum(0) / there.sum(0).clamp_min(1)
    weakest = int(means.argmin())
    gap = (means.sum() - means[weakest]) / (len(means) - 1) - means[weakest]
    return weakest, min(1.0, 2 / 3 * alpha * float(gap))


def bernoulli_draws(able: Tensor, share: float, generator: torch.Generator) -> Tensor:
    """Which samples are drawn, each of those that can be with the same probability and at most once.

    Args:
        able: (N,) booleans, which samples can be drawn.
        share: the probability.
        generator: of the draw.

    Returns:
        (N,) of 0 and 1.

    Example:
        >>> bernoulli_draws(torch.tensor([True, False, True]), 1.0, torch.Generator()).tolist()
        [1, 0, 1]
    """
    drawn = torch.zeros_like(able, dtype=torch.int64)
    places = able.nonzero()[:, 0]
    drawn[places] = (torch.rand(len(places), generator=generator) < share).long()
    return drawn


def distance_from_uniform(output: Tensor, labels: bool = False) -> Tensor:
    r""":math:`KL(p \| \mathrm{uniform}) = \log C - H(p)`, how much a prediction says at all, in nats.

    Args:
        output: logits (B, C).
        labels: each column is a label of its own, with :math:`KL(p_l \| (\tfrac12, \tfrac12))` summed over labels.

    Returns:
        (B,), at least 0.

    Example:
        >>> distance_from_uniform(torch.tensor([[0.0, 0.0], [50.0, 0.0]])).exp()
        tensor([1., 2.])
    """
    if labels:
        pairs = torch.stack([torch.zeros_like(output), output], 2)
        return distance_from_uniform(pairs.flatten(0, 1)).view(output.shape).sum(1)
    log_p = torch.log_softmax(output, 1)
    return math.log(output.shape[1]) + (log_p.exp() * log_p).sum(1)
