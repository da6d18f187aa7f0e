"""What several comparisons say together, and which of them do not belong together."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any, Literal

import numpy as np

from equimodal.diagnostics import average_ranks, holm
from equimodal.errors import DataError, unknown_name
from equimodal.report.ranking._read import SINGLE, Part, read_parts
from equimodal.report.ranking._statistics import (
    critical_difference,
    friedman_p,
    rank_intervals,
    signed_rank_probabilities,
    wilcoxon_p,
)

Budgets = Literal["equal", "own"]
_LEAST = 3  # entries of Friedman's test


@dataclass(frozen=True)
class Place:
    """One entry.

    Args:
        entry: its label.
        control: whether it is a control.
        rank: its average rank over the datasets.
        low: lower end of the 95 % interval over datasets and seeds.
        high: upper end.
        scores: mean score per dataset, in the unit of the metric.
        better: probability of being better than the reference on a further dataset by more than the margin.
        equivalent: of being within the margin.
        worse: of being worse. All three are ``None`` of the reference itself.
    """

    entry: str
    control: bool
    rank: float
    low: float
    high: float
    scores: tuple[float, ...]
    better: float | None = None
    equivalent: float | None = None
    worse: float | None = None


@dataclass(frozen=True)
class Pair:
    """Two entries, by Wilcoxon's test over the datasets: ``p``, and ``p_holm``, corrected over all pairs."""

    first: str
    second: str
    p: float
    p_holm: float


@dataclass(frozen=True)
class Ranking:
    """Entries over several datasets.

    Args:
        datasets: their names.
        metric: what the scores are.
        higher_is_better: whether more of it is better.
        percent: whether people read scores times 100.
        places: the entries, best average rank first.
        reference: the entry that the probabilities are against.
        margin: differences within it count as equivalent, in the unit of the metric.
        friedman: p-value of no difference between any entries; ``None`` for fewer than three.
        difference: the critical difference of average ranks, by Nemenyi's test at 95 %.
        groups: first and last position of the entries among which no two differ by more than that.
        pairs: every two entries.
        notes: what has to be known beside the numbers.
    """

    datasets: tuple[str, ...]
    metric: str
    higher_is_better: bool
    percent: bool
    places: tuple[Place, ...]
    reference: str
    margin: float
    friedman: float | None
    difference: float
    groups: tuple[tuple[int, int], ...]
    pairs: tuple[Pair, ...]
    notes: tuple[str, ...]


def rank_studies(
    studies: Mapping[str, Mapping[str, Any]],
    *,
    against: str | None = None,
    margin: float = 0.01,
    budgets: Budgets = "equal",
    common: bool = False,
) -> Ranking:
    """Rank the entries of several comparisons, each on a dataset of its own.

    Models of single modalities differ between datasets; the best of each, chosen on test data, stands for them.

    Args:
        studies: name -> the record that ``equimodal compare`` stores as ``study.json``.
        against: entry that all others are compared with; default the control with the best average rank.
        margin: differences within it are equivalent, in the unit of the metric (0.01 is a point of accuracy).
        budgets: ``"own"``: every dataset may have its own epochs, batches and rates, as recipes give them, which the
            notes then say.
        common: leave out entries that are not in every comparison, which the notes then say.

    Raises:
        DataError: fewer than two datasets or two entries; other entries, budgets or metrics; the same data twice.
        MissingExtraError: SciPy is not installed.
    """
    if not 0 <= margin < float("inf"):
        raise DataError(f"`margin`: expected a number of at least 0. Found {margin}.")
    parts, notes = read_parts(studies, budgets, common)
    scores = [{entry: statistics.fmean(own) for entry, own in part.scores.items()} for part in parts]
    ranks = average_ranks(scores)
    intervals = rank_intervals([part.scores for part in parts])
    order = sorted(ranks, key=lambda entry: (ranks[entry], entry))
    controls = parts[0].controls
    reference = _reference(against, order, controls)
    table = np.array([[one[entry] for entry in order] for one in scores])
    columns = {entry: table[:, i] for i, entry in enumerate(order)}
    found = {(a, b): wilcoxon_p(columns[a], columns[b]) for a, b in combinations(order, 2)}
    corrected = holm({f"{i}": p for i, p in enumerate(found.values())})
    difference = critical_difference(len(order), len(parts))
    factor = 1.0 if parts[0].higher_is_better else -1.0
    places = []
    for entry in order:
        three: tuple[float | None, ...] = (None, None, None)
        if entry != reference:
            three = signed_rank_probabilities(list(columns[entry] - columns[reference]), margin)
        places.append(
            Place(entry, entry in controls, ranks[entry], *intervals[entry],
                  tuple(factor * one[entry] for one in scores), *three)
        )  # fmt: skip
    return Ranking(
        datasets=tuple(part.name for part in parts),
        metric=parts[0].metric,
        higher_is_better=parts[0].higher_is_better,
        percent=all(part.percent for part in parts),
        places=tuple(places),
        reference=reference,
        margin=margin,
        friedman=friedman_p(table) if len(order) >= _LEAST else None,
        difference=difference,
        groups=_groups([ranks[entry] for entry in order], difference),
        pairs=tuple(Pair(a, b, p, corrected[f"{i}"]) for i, ((a, b), p) in enumerate(found.items())),
        notes=(*notes, *_power(parts, len(found))),
    )


def _reference(against: str | None, order: Sequence[str], controls: frozenset[str]) -> str:
    if against is not None:
        if against not in order:
            raise unknown_name("entry", against, order)
        return against
    return next((entry for entry in order if entry in controls and entry != SINGLE), order[0])


def _groups(ranks: Sequence[float], difference: float) -> tuple[tuple[int, int], ...]:
    """The largest runs of entries whose first and last differ by at most ``difference``; single entries are none."""
    groups: list[tuple[int, int]] = []
    for first in range(len(ranks)):
        last = max(i for i in range(first, len(ranks)) if ranks[i] - ranks[first] <= difference)
        if last > first and (not groups or last > groups[-1][1]):
            groups.append((first, last))
    return tuple(groups)


def _power(parts: Sequence[Part], pairs: int) -> list[str]:
    """The smallest p-value that these datasets can give at all, where it is too large."""
    least = 2 / 2 ** len(parts)
    if least * pairs <= 0.05:
        return []
    return [
        f"with {len(parts)} datasets the signed-rank test cannot give less than p = {least:.3g} for a pair, nor less "
        f"than {min(1.0, least * pairs):.3g} after correction for {pairs} pairs: it can find no difference here, and "
        "finding none is no evidence of equality"
    ]
