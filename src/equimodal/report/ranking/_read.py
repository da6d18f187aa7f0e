"""Reads the comparisons of a ranking, and refuses those that do not belong together by name."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from equimodal.errors import DataError
from equimodal.report._controls import role_of
from equimodal.report._study import Row, read_study

SINGLE = "best single modality"
"""The row that stands for the models of single modalities."""


@dataclass(frozen=True)
class Part:
    """One comparison.

    Args:
        name: of its dataset.
        metric: what its scores are.
        higher_is_better: whether more of it is better; else scores are minus the metric.
        percent: whether scores are shares.
        scores: entry -> score of each seed.
        kinds: entry -> class of its method.
        controls: entries that are controls.
        budget: of its trainings.
        options: entry -> options of its method, where they are on record.
        planned: number of seeds.
        incomplete: what is missing in it.
        data: fingerprint and target; empty where they are not on record.
    """

    name: str
    metric: str
    higher_is_better: bool
    percent: bool
    scores: Mapping[str, tuple[float, ...]]
    kinds: Mapping[str, str]
    controls: frozenset[str]
    budget: Mapping[str, Any]
    options: Mapping[str, Any]
    planned: int
    incomplete: tuple[str, ...]
    data: str


def read_parts(studies: Mapping[str, Mapping[str, Any]], budgets: str, common: bool) -> tuple[list[Part], list[str]]:
    """The comparisons with the same entries each, and what has to be said of them."""
    if len(studies) < 2:
        raise DataError(f"`studies`: expected at least two comparisons, on a dataset each. Found {len(studies)}.")
    parts = [_part(name, study) for name, study in studies.items()]
    _refuse_same_data(parts)
    _refuse_metrics(parts)
    notes = _budgets(parts, budgets)
    parts, left = _same_entries(parts, common)
    notes += left
    _refuse_kinds(parts)
    for part in parts:
        few = {entry: len(own) for entry, own in part.scores.items() if len(own) < part.planned}
        if len(few) == len(part.scores):
            counts = " to ".join(str(n) for n in sorted({min(few.values()), max(few.values())}))
            notes.append(f"{part.name}: every entry has {counts} of {part.planned} seeds")
        elif few:
            said = ", ".join(f"{entry} ({count})" for entry, count in few.items())
            notes.append(f"{part.name}: fewer than {part.planned} seeds: {said}")
        if part.planned == 1:
            notes.append(f"{part.name}: one seed only")
        notes += [f"{part.name}: {reason}" for reason in part.incomplete]
    return parts, [*notes, *_options(parts)]


def _part(name: str, study: Mapping[str, Any]) -> Part:
    record = read_study(study)
    rows = list(record.rows)
    raw = {str(item["method"]): item for item in study["rows"]}
    single = [row for row in rows if (raw[row.label].get("role") or role_of(row.kind)) == "single"]
    scores = {row.label: row.scores or (row.score[0],) for row in rows if row not in single}
    controls = {row.label for row in rows if row.control and row not in single}
    kinds = {row.label: row.kind for row in rows if row not in single}
    if single:
        best: Row = max(single, key=lambda row: row.score[0])
        scores[SINGLE], kinds[SINGLE] = best.scores or (best.score[0],), best.kind
        controls.add(SINGLE)
    facts = record.facts
    budget = dict(facts.get("budget") or {})
    seeds = budget.pop("seeds", None)
    data = facts.get("dataset") or {}
    return Part(
        name=name,
        metric=record.metric,
        higher_is_better=not record.error,
        percent=record.percent,
        scores=scores,
        kinds=kinds,
        controls=frozenset(controls),
        budget=budget.get("training") or {},
        options={row.label: raw[row.label].get("options") for row in rows if row not in single},
        planned=len(seeds) if isinstance(seeds, Sequence) else max((len(s) for s in scores.values()), default=0),
        incomplete=tuple(str(reason) for reason in study.get("incomplete") or ()),
        data=f"{data['fingerprint']}/{data.get('target')}" if data.get("fingerprint") else "",
    )


def _refuse_same_data(parts: Sequence[Part]) -> None:
    seen: dict[str, str] = {}
    for part in parts:
        if part.data and part.data in seen:
            raise DataError(
                f"`{part.name}`: expected another dataset than that of `{seen[part.data]}`, since datasets count as "
                "independent. Found the same data and target. Give one of the two."
            )
        seen[part.data] = part.name


def _refuse_metrics(parts: Sequence[Part]) -> None:
    first = parts[0]
    for part in parts[1:]:
        if part.higher_is_better != first.higher_is_better or part.percent != first.percent:
            raise DataError(
                f"`{part.name}`: expected a metric of the same kind as `{first.name}`, {_metric(first)}. Found "
                f"{_metric(part)}. Rank the datasets of each kind by themselves."
            )


def _metric(part: Part) -> str:
    kind = "a share" if part.percent else "no share"
    return f"{part.metric} ({'more' if part.higher_is_better else 'less'} is better, {kind})"


def _budgets(parts: Sequence[Part], budgets: str) -> list[str]:
    first, notes = parts[0], []
    for part in parts[1:]:
        fields = sorted(set(first.budget) | set(part.budget))
        other = [
            f"{field} {_short(first.budget.get(field))} and {_short(part.budget.get(field))}"
            for field in fields
            if first.budget.get(field) != part.budget.get(field)
        ]
        if part.planned != first.planned:
            other.append(f"{first.planned} and {part.planned} seeds")
        if other and budgets == "equal":
            raise DataError(
                f"`{part.name}`: expected the budget of `{first.name}`. Found another: {'; '.join(other)}. Allow "
                'datasets a budget of their own with --budgets own (`budgets="own"`), which the result then says.'
            )
        if other:
            notes.append(f"budgets differ between {first.name} and {part.name}: {'; '.join(other)}")
    return notes


def _same_entries(parts: Sequence[Part], common: bool) -> tuple[list[Part], list[str]]:
    everywhere = [entry for entry in parts[0].scores if all(entry in part.scores for part in parts)]
    missing = {
        entry: [part.name for part in parts if entry not in part.scores]
        for part in parts
        for entry in part.scores
        if entry not in everywhere
    }
    if missing and not common:
        said = "; ".join(f"{entry!r} is not in {', '.join(names)}" for entry, names in list(missing.items())[:6])
        more = f"; and {len(missing) - 6} more" if len(missing) > 6 else ""
        raise DataError(
            f"`studies`: expected the same entries in every comparison. Found others: {said}{more}. Run what is "
            "missing, or compare what all have with --common (`common=True`), which the result then says."
        )
    if len(everywhere) < 2:
        raise DataError(f"`studies`: expected at least two entries that every comparison has. Found {everywhere}.")
    kept = [Part(**{**vars(part), "scores": {entry: part.scores[entry] for entry in everywhere}}) for part in parts]
    return kept, [f"left out, not in every comparison: {', '.join(missing)}"] if missing else []


def _refuse_kinds(parts: Sequence[Part]) -> None:
    first = parts[0]
    for part in parts[1:]:
        for entry in part.scores:
            if part.kinds[entry] != first.kinds[entry]:
                raise DataError(
                    f"`{part.name}`: expected {entry!r} to be {first.kinds[entry]}, as in `{first.name}`. Found "
                    f"{part.kinds[entry]}. Give entries that are the same the same label, and others another."
                )


def _options(parts: Sequence[Part]) -> list[str]:
    first, notes = parts[0], []
    for entry in first.scores:
        known = [part.options.get(entry) for part in parts]
        if any(isinstance(o, Mapping) for o in known) and any(o != known[0] for o in known[1:]):
            fields = sorted(
                {f for o in known for f in (o or {}) if any((p or {}).get(f) != (o or {}).get(f) for p in known)}
            )
            notes.append(f"{entry} has other options in some datasets: {', '.join(fields)}")
    return notes


def _short(value: Any) -> str:
    return json.dumps(value, default=str)
