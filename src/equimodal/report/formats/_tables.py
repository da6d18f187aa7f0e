"""The numbers of a comparison as three plain tables: leaderboard, inference rules, modalities."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

from equimodal.diagnostics import average_ranks
from equimodal.report._study import Row, Study, number, read_study

TableName = Literal["leaderboard", "rules", "modalities"]
TABLES: tuple[TableName, ...] = get_args(TableName)
Record = dict[str, Any]
COLUMNS: Mapping[TableName, tuple[str, ...]] = {
    "leaderboard": (
        "position", "entry", "method", "control", "seeds", "metric", "mean", "std", "low", "high", "average_rank",
        "best_control", "difference", "difference_low", "difference_high", "p", "p_holm", "cost", "seconds",
    ),
    "rules": ("entry", "rule", "validation", "test", "best_on_validation", "documented", "recommended"),
    "modalities": ("entry", "modality", "probe", "probe_std", "gap", "gap_std", "own_output", "own_output_std"),
}  # fmt: skip
"""Fields of the records of each table, in their order."""


@dataclass(frozen=True)
class Tables:
    """What is written in every format; numbers are in the unit of the metric, ``None`` where nothing was measured.

    Args:
        title: of the comparison.
        metric: its name.
        higher_is_better: whether more of it is better. Differences and gaps are better when they are larger, and worse
            when they are smaller, whatever the metric.
        percent: whether people read scores times 100.
        best_control: label of the control with the best score; empty for none.
        leaderboard: one record per entry, best first.
        rules: one per entry and inference rule.
        modalities: one per entry and modality.
        incomplete: reasons why the tables prove less than they could.
    """

    title: str
    metric: str
    higher_is_better: bool
    percent: bool
    best_control: str
    leaderboard: tuple[Record, ...]
    rules: tuple[Record, ...]
    modalities: tuple[Record, ...]
    incomplete: tuple[str, ...]

    def table(self, name: TableName) -> tuple[Record, ...]:
        """The table of that name."""
        return {"leaderboard": self.leaderboard, "rules": self.rules, "modalities": self.modalities}[name]


def tables_of(study: Mapping[str, Any]) -> Tables:
    """The tables of a stored comparison.

    Args:
        study: the record that ``equimodal compare`` stores as ``study.json``.

    Raises:
        DataError: a field of the record is missing or malformed.

    Example:
        >>> rows = [{"method": "MLA", "seeds": 1, "score_mean": 0.9}]
        >>> tables_of({"rows": rows}).leaderboard[0]["mean"]
        0.9
    """
    record = read_study(study)
    raw = {str(item["method"]): item for item in study["rows"]}
    control = next((row.label for row in record.rows if row.control), "")
    ranks = _ranks(record)
    return Tables(
        title=record.title,
        metric=record.metric,
        higher_is_better=not record.error,
        percent=record.percent,
        best_control=control,
        leaderboard=tuple(
            _entry(record, row, raw[row.label], position, control, ranks.get(row.label))
            for position, row in enumerate(record.rows, start=1)
        ),
        rules=tuple(r for row in record.rows for r in _rules(record, row, raw[row.label])),
        modalities=tuple(r for row in record.rows for r in _modalities(record, row, raw[row.label])),
        incomplete=record.incomplete,
    )


def _entry(record: Study, row: Row, raw: Mapping[str, Any], position: int, control: str, rank: float | None) -> Record:
    found = ((record.facts.get("differences") or {}).get(row.label) or {}).get(control) or {}
    low, high = _ends(record, raw.get("score_interval"))
    return {
        "position": position,
        "entry": row.label,
        "method": row.kind,
        "control": row.control,
        "seeds": row.seeds,
        "metric": record.metric,
        "mean": _value(record, row.score[0]),
        "std": row.score[1] if row.seeds > 1 else None,
        "low": low,
        "high": high,
        "average_rank": rank,
        "best_control": control or None,
        "difference": number(found.get("mean")),
        "difference_low": number(found.get("low")),
        "difference_high": number(found.get("high")),
        "p": number(found.get("p")),
        "p_holm": number(found.get("p_holm")),
        "cost": row.cost,
        "seconds": number(raw.get("seconds")),
    }


def _rules(record: Study, row: Row, raw: Mapping[str, Any]) -> list[Record]:
    advice = raw.get("rule_advice")
    advice = advice if isinstance(advice, Mapping) else {}
    best = max(row.rules, key=lambda rule: row.rules[rule][0], default="")
    return [
        {
            "entry": row.label,
            "rule": rule,
            "validation": _value(record, validation),
            "test": _value(record, test),
            "best_on_validation": rule == best,
            "documented": rule == advice["documented"] if advice.get("documented") else None,
            "recommended": rule == advice["recommended"] if advice.get("recommended") else None,
        }
        for rule, (validation, test) in row.rules.items()
    ]


def _modalities(record: Study, row: Row, raw: Mapping[str, Any]) -> list[Record]:
    own = raw.get("own_outputs")
    own = own if isinstance(own, Mapping) else {}
    found = []
    for modality in record.modalities:
        probe, gap, output = row.per_modality.get(modality), row.under_trained.get(modality), own.get(modality)
        pair = output if isinstance(output, Sequence) and not isinstance(output, str) else [output]
        if probe is None and gap is None and number(pair[0] if pair else None) is None:
            continue
        found.append({
            "entry": row.label,
            "modality": modality,
            "probe": None if probe is None else _value(record, probe[0]),
            "probe_std": None if probe is None or row.seeds == 1 else probe[1],
            "gap": None if gap is None else gap[0],
            "gap_std": None if gap is None or row.seeds == 1 else gap[1],
            "own_output": _value(record, number(pair[0] if pair else None)),
            "own_output_std": number(pair[1]) if len(pair) > 1 and row.seeds > 1 else None,
        })  # fmt: skip
    return found


def _ranks(record: Study) -> dict[str, float]:
    """Mean place over the seeds; entries that lack a seed have none."""
    seeds = max((len(row.scores) for row in record.rows), default=0)
    whole = {row.label: row.scores for row in record.rows if len(row.scores) == seeds}
    return average_ranks([{n: s[i] for n, s in whole.items()} for i in range(seeds)])


def _ends(record: Study, interval: Any) -> tuple[float | None, float | None]:
    if not isinstance(interval, Sequence) or isinstance(interval, str) or len(interval) != 2:
        return None, None
    low, high = (_value(record, number(end)) for end in interval)
    return (high, low) if record.error else (low, high)


def _value(record: Study, score: float | None) -> float | None:
    """A score as the metric that it is: of an error, which is minus the score."""
    return None if score is None else -score if record.error else score
