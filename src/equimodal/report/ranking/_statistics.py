"""Tests and intervals for entries over several datasets."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from equimodal.errors import missing_extra

DRAWS = 4000
"""Of every bootstrap."""


def friedman_p(scores: NDArray[np.float64]) -> float:
    """p-value of no difference between the columns of ``scores`` (datasets, entries), by Friedman's test of ranks."""
    if (scores == scores[:, :1]).all():
        return 1.0  # SciPy divides by the spread of the ranks
    return float(_stats().friedmanchisquare(*scores.T).pvalue)


def critical_difference(entries: int, datasets: int, level: float = 0.95) -> float:
    r"""Difference of average ranks beyond which two entries differ, by Nemenyi's test ([Demsar2006]_, section 3.2.2).

    :math:`CD = q_\alpha \sqrt{k (k + 1) / 6 N}` for k entries and N datasets; :math:`q_\alpha` is the quantile of the
    studentized range divided by :math:`\sqrt 2`.

    References:
        .. [Demsar2006] Statistical Comparisons of Classifiers over Multiple Data Sets, JMLR 7.
    """
    q = float(_stats().studentized_range.ppf(level, entries, np.inf)) / math.sqrt(2)
    return q * math.sqrt(entries * (entries + 1) / (6 * datasets))


def wilcoxon_p(first: NDArray[np.float64], second: NDArray[np.float64]) -> float:
    """p-value of no difference between two entries, by Wilcoxon's signed-rank test over the datasets; exact for few."""
    if (first == second).all():
        return 1.0
    return float(_stats().wilcoxon(first, second, zero_method="wilcox", method="auto").pvalue)


def signed_rank_probabilities(
    differences: Sequence[float], margin: float, draws: int = DRAWS, seed: int = 0
) -> tuple[float, float, float]:
    r"""Probabilities of being better, equivalent and worse on a further dataset ([Benavoli2014]_, [Benavoli2017]_).

    The Bayesian signed-rank test: datasets have weights :math:`w \sim \mathrm{Dir}(1/2, 1, \ldots, 1)`, the first of a
    dataset without a difference, and each draw is won by the largest of the three sums of :math:`w_i w_j` over the
    pairs whose mean difference :math:`(z_i + z_j) / 2` is above the margin, within it, or below minus the margin.

    Args:
        differences: z, of the mean scores, one per dataset.
        margin: half the width of the region of practical equivalence, in the unit of the score.
        draws: of the weights.
        seed: of the draws.

    References:
        .. [Benavoli2014] A Bayesian Wilcoxon signed-rank test based on the Dirichlet process, ICML.
        .. [Benavoli2017] Time for a Change: a Tutorial for Comparing Multiple Classifiers Through Bayesian Analysis,
           JMLR 18.

    Example:
        >>> signed_rank_probabilities([0.05] * 8, margin=0.01)[0] > 0.99
        True
    """
    z = np.array([0.0, *differences])
    pairs = (z[:, None] + z[None]) / 2
    above, below = (_step(pairs - margin), _step(-pairs - margin))
    weights = np.random.default_rng(seed).dirichlet([0.5, *([1.0] * len(differences))], size=draws)
    better, worse = (np.einsum("di,ij,dj->d", weights, region, weights) for region in (above, below))
    winner = np.stack([better, 1 - better - worse, worse]).argmax(0)
    found = np.bincount(winner, minlength=3) / draws
    return float(found[0]), float(found[1]), float(found[2])


def _step(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """1 above 0, a half at it."""
    return np.heaviside(np.where(np.abs(values) < 1e-12, 0.0, values), 0.5)


def rank_intervals(
    scores: Sequence[Mapping[str, Sequence[float]]], level: float = 0.95, draws: int = DRAWS, seed: int = 0
) -> dict[str, tuple[float, float]]:
    """Entry -> interval of its average rank, by a bootstrap over datasets and, within each, over seeds.

    Args:
        scores: per dataset, entry -> score of each seed. A seed that is drawn is drawn for all entries alike.
        level: of the interval.
        draws: of the bootstrap.
        seed: of the draws.
    """
    names = list(scores[0])
    generator = np.random.default_rng(seed)
    each = []
    for dataset in scores:
        most = max(len(own) for own in dataset.values())
        chosen = generator.random((draws, most))
        means = np.stack([_resampled(np.array(dataset[name], dtype=np.float64), chosen) for name in names], 1)
        each.append(_ranks(means))
    stacked = np.stack(each)  # (datasets, draws, entries)
    picked = generator.integers(0, len(scores), size=(len(scores), draws))
    mean = np.take_along_axis(stacked, picked[..., None], axis=0).mean(0)
    tail = 100 * (1 - level) / 2
    low, high = np.percentile(mean, [tail, 100 - tail], axis=0)
    return {name: (float(low[i]), float(high[i])) for i, name in enumerate(names)}


def _resampled(own: NDArray[np.float64], chosen: NDArray[np.float64]) -> NDArray[np.float64]:
    places = (chosen[:, : len(own)] * len(own)).astype(np.int64)
    drawn: NDArray[np.float64] = own[places].mean(1)
    return drawn


def _ranks(scores: NDArray[np.float64]) -> NDArray[np.float64]:
    """Places along the last axis, 1 for the highest score; equal scores share theirs."""
    places = np.empty_like(scores)
    for i in range(scores.shape[-1]):
        own = scores[..., i : i + 1]
        places[..., i] = (scores > own).sum(-1) + ((scores == own).sum(-1) + 1) / 2
    return places


def _stats() -> Any:
    try:
        from scipy import stats
    except ImportError as error:
        raise missing_extra("scipy", "rank", "A comparison across datasets") from error
    return stats
