"""Which inference rule the runs of an entry should use, by validation data, and what it gains on test data."""

from __future__ import annotations

import dataclasses
import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from equimodal.diagnostics import Outcomes, paired_difference

_OF_RULE = "rule/"


def rule_advice(
    metrics: Sequence[Mapping[str, Any]], outcomes: Mapping[int, Mapping[str, Outcomes]]
) -> dict[str, Any] | None:
    """The documented and the recommended rule of an entry; ``None`` where the runs recorded fewer than two rules.

    The recommended rule has the highest mean score on validation data, among equals the lowest loss. The documented
    one, which is in force, is kept if it is behind by no more than one standard error, as the runs measured it.

    Args:
        metrics: ``metrics.json`` of each run.
        outcomes: seed -> outcomes of the runs on test data, for the difference between both rules.

    Returns:
        ``documented`` and ``recommended`` (names), ``validation`` and ``test`` (mean scores of the recommended one),
        ``gain`` (on validation data), ``difference`` (on test data, with its 95 % interval) where there are outcomes.
    """
    tables = [m.get("rules") or {} for m in metrics]
    names = [n for n in tables[0] if all(n in t for t in tables)] if tables else []
    if len(names) < 2:
        return None
    mean = {n: statistics.fmean(t[n]["validation"] for t in tables) for n in names}
    in_force = [m.get("rule") for m in metrics]
    documented = str(in_force[0])
    best = max(names, key=lambda n: (mean[n], -_loss(metrics, n)))
    own = statistics.fmean(_of_force(m)["validation"] for m in metrics)
    if mean[best] - own <= _error(metrics):
        best = documented if len(set(in_force)) == 1 else "auto"
    found: dict[str, Any] = {
        "documented": documented if len(set(in_force)) == 1 else "auto",
        "recommended": best,
        "validation": mean.get(best, own),
        "gain": mean.get(best, own) - own,
        "test": statistics.fmean(
            (t[best] if best in t else _of_force(m))["test"] for m, t in zip(metrics, tables, strict=True)
        ),
    }
    name = f"{_OF_RULE}{best}"
    pairs = [(o[name], o["prediction"]) for o in outcomes.values() if name in o and "prediction" in o]
    if best != found["documented"] and pairs:
        found["difference"] = dataclasses.asdict(paired_difference([a for a, _ in pairs], [b for _, b in pairs]))
    return found


def _of_force(metrics: Mapping[str, Any]) -> Mapping[str, float]:
    """Scores of the rule in force."""
    known = (metrics.get("rules") or {}).get(metrics.get("rule"))
    return known or {part: metrics[part]["score"] for part in ("validation", "test")}


def _loss(metrics: Sequence[Mapping[str, Any]], rule: str) -> float:
    """Mean loss of a rule on validation data; infinite where it was not measured."""
    scores = [(m.get("inference") or {}).get("scores") or {} for m in metrics]
    losses = [(s.get(rule) or {}).get("loss") for s in scores]
    known = [loss for loss in losses if isinstance(loss, (int, float))]
    return statistics.fmean(known) if len(known) == len(losses) else math.inf


def _error(metrics: Sequence[Mapping[str, Any]]) -> float:
    """Mean standard error of how far the rule in force is behind the best; 0 where it was not measured."""
    errors = []
    for m in metrics:
        scores = (m.get("inference") or {}).get("scores") or {}
        error = (scores.get(m.get("rule")) or {}).get("error")
        errors.append(error if isinstance(error, (int, float)) else 0.0)
    return statistics.fmean(errors)
