"""Whether one model is better than another: differences over the same seeds and samples, with their uncertainty."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from equimodal.diagnostics._outcomes import Outcomes
from equimodal.errors import MethodError


@dataclass(frozen=True)
class Difference:
    """Score of one model minus that of another, on the same samples.

    Args:
        mean: of the seeds, in the unit of the score.
        low: lower end of the interval.
        high: upper end of the interval.
        p: two-sided p-value of no difference; at least 1 / (draws + 1).
        seeds: how many there are.
        samples: how many there are.
    """

    mean: float
    low: float
    high: float
    p: float
    seeds: int
    samples: int

    @property
    def better(self) -> bool:
        """Whether the interval lies above zero."""
        return self.low > 0

    @property
    def worse(self) -> bool:
        """Whether the interval lies below zero."""
        return self.high < 0

    def equivalent(self, margin: float) -> bool:
        """Whether the interval lies within ``margin`` of zero, in the unit of the score."""
        return -margin <= self.low and self.high <= margin


def paired_difference(
    first: Sequence[Outcomes],
    second: Sequence[Outcomes],
    *,
    groups: Sequence[object] | None = None,
    level: float = 0.95,
    draws: int = 2000,
    seed: int = 0,
) -> Difference:
    r"""Difference of the scores with a bootstrap interval over seeds and samples.

    A draw takes seeds with replacement, the same for both, and samples with replacement, the same for all seeds. Seeds
    are trainings, samples are test data: an interval over one of the two claims more than was measured.

    Args:
        first: outcomes of one model, one entry per seed.
        second: outcomes of the other, in the same order of seeds and samples.
        groups: (N,) what a sample belongs to (a speaker, a patient); whole groups are drawn. Default: each by itself.
        level: of the interval, between 0 and 1.
        draws: of the bootstrap.
        seed: of the bootstrap; the same for every call, so that differences between models do not hang on it.

    Raises:
        MethodError: the two do not have the same seeds and samples, or an argument is out of its range.

    Example:
        >>> import numpy as np
        >>> good, bad = (Outcomes(np.full((100, 1), v), np.ones((100, 1))) for v in (1.0, 0.0))
        >>> paired_difference([good, good], [bad, bad]).better
        True
    """
    if not first or len(first) != len(second):
        raise MethodError(
            f"`first`, `second`: expected the outcomes of the same seeds, at least one. Found {len(first)} and "
            f"{len(second)}."
        )
    sizes = {o.numerator.shape for o in (*first, *second)}
    if len(sizes) != 1:
        raise MethodError(
            f"`first`, `second`: expected outcomes of the same samples. Found the shapes {sorted(sizes)}."
        )
    samples = len(first[0].numerator)
    if groups is not None and len(groups) != samples:
        raise MethodError(f"`groups`: expected one entry for each of {samples} samples. Found {len(groups)}.")
    if not 0 < level < 1 or draws < 1:
        raise MethodError(f"`level`, `draws`: expected 0 < level < 1 and draws >= 1. Found {level} and {draws}.")
    counts = _counts(samples, None if groups is None else tuple(map(str, groups)), draws, seed)
    each = np.stack([a.score(counts) - b.score(counts) for a, b in zip(first, second, strict=True)], axis=1)
    drawn = (each * _seed_weights(len(first), draws, seed)).sum(1)
    drawn = drawn[~np.isnan(drawn)]
    mean = float(np.mean([float(a.score()) - float(b.score()) for a, b in zip(first, second, strict=True)]))
    tail = 100 * (1 - level) / 2
    low, high = (float(v) for v in np.percentile(drawn, [tail, 100 - tail])) if len(drawn) else (np.nan, np.nan)
    beyond = min(np.sum(drawn <= 0), np.sum(drawn >= 0))
    p = min(1.0, 2 * (float(beyond) + 1) / (len(drawn) + 1))
    return Difference(mean, low, high, p, len(first), samples)


def exchange_p(first: Outcomes, second: Outcomes, *, draws: int = 2000, seed: int = 0) -> float:
    """One-sided p-value of the first model being better by chance: what both earned on a row is exchanged, row by row.

    If none is better, every exchange is as likely as what was found. With few rows, as of a few speakers, a bootstrap
    interval is too narrow; this test keeps its level with any number of them, and with four it cannot be below 1/16.

    Args:
        first: of one model, one row per sample or per group.
        second: of the other, with the same rows.
        draws: exchanges that are drawn; up to twelve rows all of them are taken.
        seed: of the draws.

    Returns:
        Share of the exchanges whose difference is at least the one that was found, itself included.

    Raises:
        MethodError: other rows, or no draw.

    References:
        .. [Pitman1937] Significance Tests Which May be Applied to Samples From any Populations, JRSS Supplement 4(1).

    Example:
        >>> import numpy as np
        >>> good, bad = (Outcomes(np.full((4, 1), v), np.ones((4, 1))) for v in (1.0, 0.0))
        >>> exchange_p(good, bad)
        0.0625
    """
    if first.numerator.shape != second.numerator.shape or not len(first.numerator):
        raise MethodError(
            f"`first`, `second`: expected outcomes of the same rows, at least one. Found {first.numerator.shape} and "
            f"{second.numerator.shape}."
        )
    if draws < 1:
        raise MethodError(f"`draws`: expected at least 1. Found {draws}.")
    rows = len(first.numerator)
    whole = rows <= 12
    flips = (
        (np.arange(2**rows)[:, None] >> np.arange(rows) & 1).astype(np.float64)
        if whole
        else np.random.default_rng(seed).integers(0, 2, (draws, rows)).astype(np.float64)
    )
    earned = first.numerator.astype(np.float64) - second.numerator
    total = first.denominator.astype(np.float64).sum(0)  # of both: they are of the same samples
    differences = ((1 - 2 * flips) @ earned[:, total > 0] / total[total > 0]).mean(1)
    found = float(first.score()) - float(second.score())
    beyond = int((differences >= found - 1e-9).sum())
    return beyond / len(flips) if whole else (beyond + 1) / (draws + 1)


def score_interval(
    outcomes: Sequence[Outcomes], *, level: float = 0.95, draws: int = 2000, seed: int = 0
) -> tuple[float, float]:
    """Ends of the bootstrap interval of a mean score, over seeds and samples as in :func:`paired_difference`.

    Args:
        outcomes: of one model, one entry per seed, of the same samples.
        level: of the interval, between 0 and 1.
        draws: of the bootstrap.
        seed: of the bootstrap.

    Raises:
        MethodError: no outcomes, or an argument is out of its range.

    Example:
        >>> low, high = score_interval([Outcomes(np.arange(100)[:, None] % 2, np.ones((100, 1)))])
        >>> low < 0.5 < high
        True
    """
    nothing = [Outcomes(np.zeros_like(o.numerator), o.denominator) for o in outcomes]
    found = paired_difference(outcomes, nothing, level=level, draws=draws, seed=seed)
    return found.low, found.high


def sample_counts(samples: int, draws: int, seed: int = 0) -> NDArray[np.float64]:
    """How often each of the samples is in a draw of the bootstrap, (draws, samples)."""
    return _counts(samples, None, draws, seed)


@lru_cache(maxsize=8)
def _counts(samples: int, groups: tuple[str, ...] | None, draws: int, seed: int) -> NDArray[np.float64]:
    """How often each sample is drawn, (draws, samples)."""
    generator = np.random.default_rng([seed, 0])
    members = np.arange(samples) if groups is None else np.unique(groups, return_inverse=True)[1]
    number = int(members.max()) + 1 if samples else 0
    return generator.multinomial(number, np.full(number, 1 / max(number, 1)), size=draws)[:, members].astype(np.float64)


@lru_cache(maxsize=8)
def _seed_weights(seeds: int, draws: int, seed: int) -> NDArray[np.float64]:
    """Share of each seed in a draw, (draws, seeds)."""
    generator = np.random.default_rng([seed, 1])
    return generator.multinomial(seeds, np.full(seeds, 1 / seeds), size=draws) / seeds


def holm(p: Mapping[str, float]) -> dict[str, float]:
    """p-values corrected for their number ([Holm1979]_): the smallest counts times n, the next times n - 1 ...

    Args:
        p: name -> p-value.

    References:
        .. [Holm1979] A Simple Sequentially Rejective Multiple Test Procedure, Scandinavian Journal of Statistics 6.

    Example:
        >>> holm({"a": 0.01, "b": 0.04, "c": 0.03})
        {'a': 0.03, 'b': 0.06, 'c': 0.06}
    """
    corrected, least = {}, 0.0
    for rank, name in enumerate(sorted(p, key=lambda n: p[n])):
        least = max(least, min(1.0, (len(p) - rank) * p[name]))
        corrected[name] = least
    return {name: corrected[name] for name in p}


def average_ranks(scores: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Mean over datasets of a model's place among the models, 1 for the best; equal scores share their places.

    Args:
        scores: one mapping per dataset, model -> score (higher is better); models that one of them lacks are left out.

    Example:
        >>> average_ranks([{"a": 0.9, "b": 0.8, "c": 0.8}, {"a": 0.5, "b": 0.7, "c": 0.6}])
        {'a': 2.0, 'b': 1.75, 'c': 2.25}
    """
    names = [n for n in scores[0] if all(n in s for s in scores)] if scores else []
    ranks: dict[str, list[float]] = {n: [] for n in names}
    for one in scores:
        for n in names:
            above = sum(one[k] > one[n] for k in names)
            equal = sum(one[k] == one[n] for k in names)
            ranks[n].append(above + (equal + 1) / 2)
    return {n: sum(places) / len(places) for n, places in ranks.items()}
