"""How much each choice of a search mattered."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

_BINS = 3


def importance(points: Sequence[Mapping[str, Any]], scores: Sequence[float]) -> dict[str, float]:
    r"""Share of the variance of the scores that each choice explains by itself, corrected for its number of values.

    :math:`\epsilon^2 = 1 - \frac{SS_w / (n - k)}{SS_t / (n - 1)}`, not below 0 ([Kelley1935]_): :math:`SS_w` within
    the k values of the choice, :math:`SS_t` in all, over the n trials that made the choice. Numbers are sorted into
    three bins of equal size. Shares of choices that go together do not add up. A choice with one value, or with as many
    as there are trials, is left out: nothing can be said of it.

    Args:
        points: choice -> value, for each trial; trials may lack choices.
        scores: of the trials, at the same epoch.

    References:
        .. [Kelley1935] An unbiased correlation ratio measure, PNAS 21(9).

    Example:
        >>> importance([{"a": 1, "b": "x"}, {"a": 1, "b": "y"}, {"a": 2, "b": "x"}, {"a": 2, "b": "y"}],
        ...            [0.0, 0.0, 1.0, 1.0])
        {'a': 1.0, 'b': 0.0}
    """
    found: dict[str, float] = {}
    for name in dict.fromkeys(key for point in points for key in point):
        pairs = [(p[name], s) for p, s in zip(points, scores, strict=True) if name in p and math.isfinite(s)]
        groups = _groups([value for value, _ in pairs])
        y = np.array([s for _, s in pairs])
        count = len(set(groups))
        if count < 2 or len(y) <= count:
            continue
        total = float(((y - y.mean()) ** 2).sum()) / (len(y) - 1)
        if total == 0:
            found[name] = 0.0
            continue
        within = sum(float(((part - part.mean()) ** 2).sum()) for g in sorted(set(groups))
                     if len(part := y[np.array(groups) == g]))  # fmt: skip
        found[name] = max(0.0, 1 - within / (len(y) - count) / total)
    return dict(sorted(found.items(), key=lambda item: -item[1]))


def _groups(values: Sequence[Any]) -> list[str]:
    """Values as they are; of numbers with more values than bins, the bin."""
    numbers = [v for v in values if isinstance(v, (int, float)) and not isinstance(v, bool)]
    if len(numbers) < len(values) or len(set(numbers)) <= _BINS:
        return [str(v) for v in values]
    order = np.argsort(np.array(numbers), kind="stable")
    bins = np.empty(len(numbers), dtype=int)
    bins[order] = np.arange(len(numbers)) * _BINS // len(numbers)
    return [str(b) for b in bins]
