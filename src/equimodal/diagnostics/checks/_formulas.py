"""Formulas of the checks: numbers in, numbers out."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from itertools import combinations
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

Interval = tuple[float, float]
Floats = NDArray[np.float64]


def wilson(successes: float, samples: float, level: float = 0.95) -> Interval:
    r"""Interval of a share ([Wilson1927]_), also near 0 and 1.

    .. math:: \frac{1}{1 + z^2/n}\left(p + \frac{z^2}{2n} \pm z\sqrt{\frac{p(1-p)}{n} + \frac{z^2}{4n^2}}\right)

    Args:
        successes: how many; a share times ``samples`` will do.
        samples: n, above 0.
        level: of the interval.

    References:
        .. [Wilson1927] Probable inference, the law of succession, and statistical inference, JASA 22.

    Example:
        >>> [round(end, 4) for end in wilson(8, 10)]
        [0.4902, 0.9433]
    """
    z, p = NormalDist().inv_cdf(0.5 + level / 2), successes / samples
    middle, width = p + z * z / (2 * samples), z * math.sqrt(p * (1 - p) / samples + z * z / (4 * samples**2))
    return max(0.0, (middle - width) / (1 + z * z / samples)), min(1.0, (middle + width) / (1 + z * z / samples))


def newcombe(first: tuple[float, float], second: tuple[float, float], level: float = 0.95) -> Interval:
    r"""Interval of the difference of two independent shares, from the Wilson interval of each ([Newcombe1998]_).

    Args:
        first: (share, samples).
        second: (share, samples).
        level: of the interval.

    References:
        .. [Newcombe1998] Interval estimation for the difference between independent proportions, Statistics in
            Medicine 17, method 10.

    Example:
        >>> [round(end, 4) for end in newcombe((56 / 70, 70), (48 / 80, 80))]
        [0.0524, 0.3339]
    """
    (p, n), (q, m) = first, second
    (p_low, p_high), (q_low, q_high) = wilson(p * n, n, level), wilson(q * m, m, level)
    low = p - q - math.sqrt((p - p_low) ** 2 + (q_high - q) ** 2)
    return low, p - q + math.sqrt((p_high - p) ** 2 + (q - q_low) ** 2)


def mean_interval(values: Sequence[float], level: float = 0.95) -> Interval:
    """Interval of a mean, by Student's t; infinite with fewer than two values.

    Example:
        >>> [round(end, 2) for end in mean_interval([1.0, 2.0, 3.0, 4.0])]
        [0.45, 4.55]
    """
    count = len(values)
    if count < 2:
        return -math.inf, math.inf
    mean, error = float(np.mean(values)), float(np.std(values, ddof=1)) / math.sqrt(count)
    half = student(0.5 + level / 2, count - 1) * error
    return mean - half, mean + half


def student(probability: float, freedom: int) -> float:
    """Quantile of Student's t: exact for one and two degrees of freedom, else to 1 % or better.

    Three and more by four terms of the expansion around the normal distribution (Abramowitz and Stegun, 26.7.5).

    Example:
        >>> [round(student(0.975, n), 2) for n in (1, 2, 3, 5, 30)]
        [12.71, 4.3, 3.18, 2.57, 2.04]
    """
    if freedom == 1:
        return math.tan(math.pi * (probability - 0.5))
    if freedom == 2:
        a = 2 * probability - 1
        return a * math.sqrt(2 / (1 - a * a))
    z, v = NormalDist().inv_cdf(probability), freedom
    return (
        z
        + (z**3 + z) / (4 * v)
        + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * v**2)
        + (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / (384 * v**3)
        + (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / (92160 * v**4)
    )


def shapley(value: Callable[[tuple[str, ...]], Floats], names: Sequence[str]) -> dict[str, Floats]:
    r"""Shapley value of each player, for one game or many at once.

    .. math:: \phi_m = \sum_{S \not\ni m} \frac{|S|!\,(M - |S| - 1)!}{M!} \left(v(S \cup m) - v(S)\right)

    Args:
        value: subset in the order of ``names`` -> v(S), of any shape; also of the empty one.
        names: the players.

    Example:
        >>> gain = {(): 0.0, ("a",): 0.5, ("b",): 0.25, ("a", "b"): 1.0}
        >>> {m: v.item() for m, v in shapley(lambda s: np.array(gain[s]), "ab").items()}
        {'a': 0.625, 'b': 0.375}
    """
    size = len(names)
    known = {s: value(s) for k in range(size + 1) for s in combinations(names, k)}
    found = {}
    for m in names:
        others = [n for n in names if n != m]
        total = np.zeros_like(known[()], dtype=np.float64)
        for k in range(size):
            share = math.factorial(k) * math.factorial(size - k - 1) / math.factorial(size)
            for s in combinations(others, k):
                total = total + share * (known[tuple(n for n in names if n in {*s, m})] - known[s])
        found[m] = total
    return found


def calibration_error(confidence: Floats, right: Floats, bins: int = 15) -> float:
    r"""Expected calibration error, :math:`\sum_b \frac{n_b}{n} |\mathrm{acc}_b - \mathrm{conf}_b|` ([Guo2017]_).

    Args:
        confidence: (n,) in [0, 1].
        right: (n,) 1 where the prediction was right, else 0.
        bins: of equal width.

    References:
        .. [Guo2017] On calibration of modern neural networks, ICML 2017, arXiv 1706.04599.

    Example:
        >>> round(calibration_error(np.array([0.9, 0.9]), np.array([1.0, 0.0])), 3)
        0.4
    """
    place = np.minimum((confidence * bins).astype(int), bins - 1)
    gaps = [abs(float(np.sum((right - confidence)[place == b]))) for b in range(bins)]
    return sum(gaps) / len(confidence)


def arriving_share(factor: float, ratio: float) -> float:
    r"""How much of a factor on a gradient reaches the weights, :math:`\log r / \log s`: 1 all of it, 0 nothing.

    Args:
        factor: s, what the gradient was multiplied with; not 1.
        ratio: r, the length of the update with the factor over its length without.

    Example:
        >>> arriving_share(0.5, 0.5), arriving_share(0.5, 1.0)
        (1.0, 0.0)
    """
    share = math.log(ratio) / math.log(factor)
    return share + 0.0  # no "-0.0"


def drop(scores: Sequence[float | None], last: int) -> tuple[float, int]:
    """How far a curve is below its best earlier value at the position ``last``, and where that was.

    Example:
        >>> drop([0.5, 0.75, 0.625], 2)
        (0.125, 1)
    """
    known = [(v, e) for e, v in enumerate(scores[: last + 1]) if v is not None]
    if not known or scores[last] is None:
        return 0.0, last
    best, epoch = max(known, key=lambda pair: (pair[0], -pair[1]))
    return best - float(scores[last] or 0.0), epoch


def shared_share(labels: Sequence[object], known: Sequence[object]) -> float:
    """Share of ``labels`` that are in ``known`` too.

    Example:
        >>> shared_share(["a", "b"], ["b", "c"])
        0.5
    """
    inside = set(known)
    return sum(v in inside for v in labels) / len(labels) if labels else 0.0


def best_by(scores: Mapping[str, float]) -> str:
    """The name with the highest score; the first of equal ones."""
    return max(scores, key=lambda name: scores[name])
