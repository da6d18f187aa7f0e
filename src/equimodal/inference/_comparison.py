"""Is one prediction better than another on the same samples, by more than chance allows?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from equimodal.tasks import Task, counting_dtype

_LOOP = 32  # so few samples are looked at one by one


@torch.no_grad()
def group_terms(task: Task, output: Tensor, target: Tensor, groups: Tensor | None) -> tuple[Tensor, Tensor]:
    """Numerators and denominators (G, K) of the task's score, for each group of samples; on the CPU.

    Args:
        task: gives the terms, which are additive over samples.
        output: (N, C, ...).
        target: (N, ...).
        groups: (N,) codes; ``None``: every sample by itself.
    """
    numerator, denominator = _sample_terms(task, output, target)
    dtype = counting_dtype(torch.device("cpu"))
    numerator, denominator = numerator.cpu().to(dtype), denominator.cpu().to(dtype)
    if groups is None:
        return numerator, denominator
    shape = (int(groups.max()) + 1, numerator.shape[1])
    return (
        torch.zeros(shape, dtype=dtype).index_add_(0, groups, numerator),
        torch.zeros(shape, dtype=dtype).index_add_(0, groups, denominator),
    )


def _sample_terms(task: Task, output: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    def one(z: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        return task.score_terms(z[None], y[None])

    if len(output) > _LOOP and not task.dense:
        try:
            found: Any = torch.func.vmap(one)(output, target)
            return found[0], found[1]
        except (RuntimeError, ValueError):  # a task of one's own that reads values: the loop below is as exact
            pass
    pairs = [one(z, y) for z, y in zip(output, target, strict=True)]
    return torch.stack([p[0] for p in pairs]), torch.stack([p[1] for p in pairs])


Terms = tuple[Tensor, Tensor]


def score_of(terms: Terms) -> float:
    """The score of all groups together; NaN where there is nothing to judge."""
    return float(_score(terms[0].sum(0), terms[1].sum(0)))


def difference(a: Terms, b: Terms) -> tuple[float, float]:
    r"""Score of a minus score of b, and its standard error by the jackknife over groups.

    .. math:: \mathrm{SE}^2 = \frac{G-1}{G} \sum_g \left(\Delta_{-g} - \bar\Delta\right)^2

    :math:`\Delta_{-g}` is the difference without group g. For a score that is a mean over samples, each its own group,
    it is the usual standard error of the mean of paired differences. Infinite with fewer than two groups.

    Args:
        a: numerators and denominators (G, K) of one prediction.
        b: of the other, on the same samples.

    Example:
        >>> ones = torch.ones(4, 1)
        >>> difference((torch.tensor([[1.0], [1.0], [1.0], [0.0]]), ones), (torch.zeros(4, 1), ones))
        (0.75, 0.25)
    """
    found = score_of(a) - score_of(b)
    groups = len(a[0])
    if groups < 2:
        return found, float("inf")
    without = _score(a[0].sum(0) - a[0], a[1].sum(0) - a[1]) - _score(b[0].sum(0) - b[0], b[1].sum(0) - b[1])
    without = without[torch.isfinite(without)]  # without this group there is nothing to judge
    if len(without) < 2:
        return found, float("inf")
    count = len(without)
    return found, float(((count - 1) / count * (without - without.mean()).square().sum()).sqrt())


def interval_factor(groups: int) -> float:
    """Half of a 95 % interval in standard errors: Student's t with ``groups`` - 1 degrees of freedom.

    By three terms of its expansion around the normal distribution; within 4 % from three degrees of freedom on.

    Example:
        >>> [round(interval_factor(g), 2) for g in (4, 11, 1001)]
        [3.16, 2.23, 1.96]
    """
    z, v = 1.959964, max(1, groups - 1)
    return (
        z
        + (z**3 + z) / (4 * v)
        + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * v**2)
        + (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / (384 * v**3)
    )


def within_one_error(terms: Sequence[Terms], losses: Sequence[float]) -> tuple[int, list[tuple[float, float]]]:
    """The best of several predictions, and how far each is behind it, with the standard error of that.

    Args:
        terms: of each prediction, on the same samples.
        losses: of each, which break ties of the score.
    """
    best = max(range(len(terms)), key=lambda i: (score_of(terms[i]), -losses[i]))
    return best, [difference(terms[best], t) if i != best else (0.0, 0.0) for i, t in enumerate(terms)]


def _score(numerator: Tensor, denominator: Tensor) -> Tensor:
    """As ``tasks.mean_ratio``, over the last axis; rounding may leave a count near 0."""
    some = denominator > 1e-9
    ratio = torch.where(some, numerator, 0) / torch.where(some, denominator, 1)
    return ratio.sum(-1) / some.sum(-1)
