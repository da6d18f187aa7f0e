"""Scores against the level of an imperfection, and what is read off them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from equimodal.diagnostics._sweep import Tally
from equimodal.errors import MethodError


@dataclass(frozen=True)
class Curve:
    """The score of a method as something gets worse.

    Args:
        name: the modality that it happens to, or ``"all"``.
        kind: ``"missing"``, or the kind of noise.
        levels: rates or noise levels, from 0, which is the clean data.
        scores: per level, the score of every draw (higher is better).
        metric: name of the task's main metric.
        metrics: per level, that metric of every draw, in its own direction; empty if it was not asked for.
        absent: per level, the share of what the samples had that was taken away; empty for noise.
    """

    name: str
    kind: str
    levels: tuple[float, ...]
    scores: tuple[tuple[float, ...], ...]
    metric: str = ""
    metrics: tuple[tuple[float, ...], ...] = ()
    absent: tuple[float, ...] = ()

    @property
    def mean(self) -> list[float]:
        """Mean score per level."""
        return [float(np.mean(s)) for s in self.scores]

    @property
    def spread(self) -> list[float]:
        """Standard deviation of the score over the draws (n - 1) per level; 0 for one draw."""
        return _spread(self.scores)

    @property
    def relative_robustness(self) -> float:
        """See :func:`relative_robustness`, of the mean score."""
        return relative_robustness(self.levels, self.mean)

    @property
    def retained(self) -> float | None:
        r"""Share of the clean score that is kept on average: :math:`R / ((\sigma_K - \sigma_0) A(\sigma_0))`.

        R is the relative robustness. 1 is a method that does not notice; ``None`` where the clean score is not
        positive, as minus an error is.
        """
        clean, width = self.mean[0], self.levels[-1] - self.levels[0]
        return self.relative_robustness / (width * clean) if clean > 0 else None

    def record(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        found: dict[str, Any] = {
            "name": self.name,
            "kind": self.kind,
            "levels": list(self.levels),
            "score": {"mean": self.mean, "std": self.spread, "draws": [list(s) for s in self.scores]},
            "relative_robustness": self.relative_robustness,
            "retained": self.retained,
        }
        if self.metrics:
            means = [float(np.mean(s)) for s in self.metrics]
            found[self.metric] = {"mean": means, "std": _spread(self.metrics), "draws": [list(s) for s in self.metrics]}
        if self.absent:
            found["absent"] = list(self.absent)
        return found


def _spread(values: Sequence[Sequence[float]]) -> list[float]:
    return [float(np.std(v, ddof=1)) if len(v) > 1 else 0.0 for v in values]


def relative_robustness(levels: Sequence[float], scores: Sequence[float]) -> float:
    r"""Area under the curve of scores against levels, by trapezoids (MultiBench, Liang et al., NeurIPS 2021).

    .. math:: R = \sum_{k=1}^{K} (\sigma_k - \sigma_{k-1}) \frac{A(\sigma_{k-1}) + A(\sigma_k)}{2}

    For levels from 0 to 1 it is the mean score over all levels. MultiBench uses steps of 0.1, and rescales the areas
    of all compared methods to [0, 1] (min-max) before it averages over data; that is not done here.

    Example:
        >>> relative_robustness([0.0, 0.5, 1.0], [0.75, 0.5, 0.25])
        0.5
    """
    if len(levels) != len(scores) or len(levels) < 2:
        raise MethodError(f"`scores`: expected one per level, at least two. Found {len(scores)} for {len(levels)}.")
    return float(sum((b - a) * (p + q) / 2 for a, b, p, q in zip(levels, levels[1:], scores, scores[1:], strict=False)))


def effective_robustness(levels: Sequence[float], scores: Sequence[float], reference: Sequence[float]) -> float:
    r"""How much more robust than a reference, once the difference on clean data is taken off.

    MultiBench (Liang et al., NeurIPS 2021) after Taori et al. (NeurIPS 2020), with late fusion (LF) as reference:

    .. math:: E = \int \big(A(\sigma) - \beta(\sigma)\big)\, d\sigma, \qquad
        \beta(\sigma) = A_{LF}(\sigma) + A(0) - A_{LF}(0)

    by trapezoids. Above 0: the method loses less than the reference does. Deviation from the released code, which sums
    the differences over the levels (0 to 1 in steps of 0.1) instead of integrating, about 10 times as much.

    Args:
        levels: from 0.
        scores: of the method, per level.
        reference: of the reference on the same data, per level.

    Example:
        >>> effective_robustness([0.0, 1.0], [0.75, 0.5], [0.5, 0.0])
        0.125
    """
    shift = scores[0] - reference[0]
    return relative_robustness(levels, scores) - relative_robustness(levels, [r + shift for r in reference])


def curve_of(
    name: str,
    kind: str,
    levels: Sequence[float],
    tallies: Mapping[tuple[str, float, int], Tally],
    draws: int,
    metric: str,
    absent: Mapping[tuple[str, float], tuple[int, int]] | None = None,
) -> Curve:
    """The curve that tallies per (name, level, draw) add up to; level 0 has one draw, which stands for all."""

    def values(pick: str) -> tuple[tuple[float, ...], ...]:
        found = []
        for level in levels:
            own = [getattr(tallies[name, level, d], pick) for d in range(draws if level else 1)]
            found.append(tuple(float("nan") if v is None else v for v in (own if level else own * draws)))
        return tuple(found)

    with_metric = tallies[name, levels[0], 0].metric is not None
    shares = () if absent is None else tuple(_share(*absent[name, level]) for level in levels)
    return Curve(name, kind, tuple(levels), values("score"), metric, values("metric") if with_metric else (), shares)


def _share(gone: int, had: int) -> float:
    return gone / had if had else 0.0
