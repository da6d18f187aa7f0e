"""Scores of a method from every subset of the modalities, or from a sample of the subsets where they are many."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from equimodal.diagnostics._sweep import Tally, checked_whole, readers
from equimodal.errors import MethodError
from equimodal.functional import shapley_values
from equimodal.methods import BatchLike, Method

LIMIT = 255
"""Subsets that are scored by default: all of up to 8 modalities."""


@dataclass(frozen=True)
class SubsetScore:
    """What a method can do with some of the modalities.

    Args:
        subset: the modalities it is given.
        score: of the prediction (higher is better); ``None`` if no sample has any of them.
        metric: the task's main metric, in its own direction; ``None`` if it was not asked for.
        samples: how many samples have one of them, and count.
    """

    subset: tuple[str, ...]
    score: float | None
    metric: float | None
    samples: int

    def record(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return {"subset": list(self.subset), **{k: v for k, v in vars(self).items() if k != "subset"}}


def subset_table(
    method: Method, batches: Iterable[BatchLike], *, limit: int = LIMIT, seed: int = 0, metrics: bool = False
) -> list[SubsetScore]:
    """Score of the prediction from non-empty subsets of the modalities: all 2^M - 1 of them, or :func:`subsets_of`.

    Samples that have none of a subset's modalities do not count for it, so its number of samples is given.

    Args:
        method: trained.
        batches: with targets; passed over once, and each encoder runs once.
        limit: number of subsets above which some are left out.
        seed: of the choice of subsets.
        metrics: compute the task's main metric too (needs the ``cli`` extra).

    Example:
        >>> from torch import nn
        >>> from equimodal import Batch, Classification, MultimodalModel
        >>> from equimodal.fusion import Concat
        >>> from equimodal.methods import Joint
        >>> model = MultimodalModel({m: nn.Linear(2, 2) for m in "ab"}, Concat({"a": 2, "b": 2}), nn.Linear(4, 2))
        >>> batch = Batch({"a": torch.eye(2), "b": torch.eye(2)}, torch.tensor([0, 1]))
        >>> [row.subset for row in subset_table(Joint(model, Classification(2)), [batch])]
        [('a',), ('b',), ('a', 'b')]
    """
    subsets = subsets_of(method.modalities, limit, seed)
    tallies = [Tally(method, metrics) for _ in subsets]
    for reader in readers(method, batches):
        chosen = np.array([[m in subset for m in reader.names] for subset in subsets], np.bool_)
        for tally, (output, target) in zip(tallies, reader.predict_subsets(chosen), strict=True):
            if len(target):
                tally.add(output, target)
    return [SubsetScore(s, t.score, t.metric, t.samples) for s, t in zip(subsets, tallies, strict=True)]


def subset_scores(
    method: Method, batches: Iterable[BatchLike], *, limit: int = LIMIT, seed: int = 0
) -> dict[tuple[str, ...], float | None]:
    """The scores of :func:`subset_table` by subset."""
    return {row.subset: row.score for row in subset_table(method, batches, limit=limit, seed=seed)}


def shapley_scores(table: Sequence[SubsetScore], nobody: float = 0.0) -> dict[str, float]:
    r"""Exact Shapley value of each modality for the score, from a whole :func:`subset_table`, without a prediction.

    .. math:: \phi_m = \sum_{S \not\ni m} \frac{|S|!\,(M-|S|-1)!}{M!} \big(s(S \cup m) - s(S)\big),
        \qquad \sum_m \phi_m = s(\text{all}) - s(\emptyset)

    Args:
        table: of all 2^M - 1 subsets; ``limit`` of :func:`subset_table` must not leave any out.
        nobody: :math:`s(\emptyset)`, such as the score of a guess, in the unit of the scores.

    Returns:
        modality -> value, in the unit of the scores.

    Raises:
        MethodError: a subset is not there, or was scored on no sample.

    Example:
        >>> rows = [SubsetScore(s, v, None, 8) for s, v in ((("a",), 0.5), (("b",), 0.25), (("a", "b"), 1.0))]
        >>> shapley_scores(rows)
        {'a': 0.625, 'b': 0.375}
    """
    names = list(dict.fromkeys(m for row in table for m in row.subset))
    scores = {frozenset(row.subset): row.score for row in table}
    values = [nobody]
    for number in range(1, 2 ** len(names)):
        subset = [m for i, m in enumerate(names) if number >> i & 1]
        score = scores.get(frozenset(subset))
        if score is None:
            raise MethodError(
                f"`table`: expected a score of each of the {2 ** len(names) - 1} subsets of {', '.join(names)}. Found "
                f"none of {', '.join(subset)}. Call subset_table with limit={2 ** len(names) - 1}, on samples that "
                "have each modality."
            )
        values.append(score)
    found = shapley_values(torch.tensor([values], dtype=torch.float64))[0] if names else torch.zeros(0)
    return dict(zip(names, found.tolist(), strict=True))


def subsets_of(names: Sequence[str], limit: int = LIMIT, seed: int = 0) -> list[tuple[str, ...]]:
    """The non-empty subsets of ``names``, smallest first; at most ``limit`` where possible.

    Each modality alone, all without one, and all of them are always there; the others are drawn without replacement.

    Example:
        >>> len(subsets_of("abcd")), len(subsets_of("abcdefghij")), len(subsets_of("abcd", limit=10))
        (15, 255, 10)
    """
    checked_whole("limit", limit, 1)
    size = len(names)
    numbers = list(range(1, 2**size)) if 2**size - 1 <= limit else _drawn(size, limit, seed)
    found = [tuple(m for i, m in enumerate(names) if number >> i & 1) for number in numbers]
    order = {c: i for i, c in enumerate(names)}
    return sorted(found, key=lambda s: (len(s), [order[m] for m in s]))


def _drawn(size: int, limit: int, seed: int) -> list[int]:
    every = 2**size - 1
    always = {1 << i for i in range(size)} | {every ^ (1 << i) for i in range(size)} | {every}
    rng = np.random.default_rng([seed, size])
    while len(always) < limit:
        always.add(int("".join(map(str, rng.integers(0, 2, size))), 2) or every)
    return sorted(always)
