"""Which modalities are ahead, by the correlation of predictions, and the pull of a quadratic constraint."""

from __future__ import annotations

import torch
from torch import Tensor


def correlation(sums: Tensor, count: Tensor) -> Tensor:
    r"""Pearson's correlation from sums over samples; 0 where prediction or target is constant.

    .. math:: \rho = \frac{n \sum xy - \sum x \sum y}{\sqrt{n \sum x^2 - (\sum x)^2} \sqrt{n \sum y^2 - (\sum y)^2}}

    Args:
        sums: (..., 5): :math:`\sum x, \sum y, \sum xy, \sum x^2, \sum y^2`, in float64 where there is one.
        count: n, a scalar.

    Returns:
        (...), in [-1, 1].

    Example:
        >>> x, y = torch.tensor([0.0, 1.0, 2.0]), torch.tensor([1.0, 3.0, 5.0])
        >>> correlation(torch.stack([x.sum(), y.sum(), x @ y, x @ x, y @ y]), torch.tensor(3))
        tensor(1.)
    """
    x, y, xy, xx, yy = sums.unbind(-1)
    noise = 8 * torch.finfo(sums.dtype).eps  # what is left of a constant's variance
    own, other = count * xx - x.square(), count * yy - y.square()
    varies = (own > noise * count * xx) & (other > noise * count * yy)
    found = (count * xy - x * y) / torch.where(varies, own * other, 1).sqrt()
    return torch.where(varies, found, 0).clamp(-1, 1)


def superior(values: Tensor) -> Tensor:
    """The larger of two groups of numbers, split where the squares within the groups are least (2-means).

    Args:
        values: (M,).

    Returns:
        (M,) booleans; all are ``False`` where all values are equal.

    Example:
        >>> superior(torch.tensor([0.1, 0.9, 0.2])).tolist(), superior(torch.ones(3)).tolist()
        ([False, True, False], [False, False, False])
    """
    ordered = values.sort().values
    costs = []
    for cut in range(1, len(values)):
        parts = ordered[:cut], ordered[cut:]
        costs.append(torch.stack([(part - part.mean()).square().sum() for part in parts]).sum())
    if not costs:
        return torch.zeros_like(values, dtype=torch.bool)
    threshold = ordered.gather(0, torch.stack(costs).argmin()[None] + 1)
    return (values >= threshold) & (values > ordered[0])
