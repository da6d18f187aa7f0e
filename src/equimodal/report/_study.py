"""The stored record of a comparison, read with checks: what the tables and the page are made from."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from equimodal.errors import DataError
from equimodal.report._controls import CONTROLS, required_controls, role_of

Spread = tuple[float, float]
"""Mean and standard deviation over seeds."""


@dataclass(frozen=True)
class Row:
    """One line of the table.

    Args:
        label: how the entry is called.
        kind: class of its method; equal to the label where the record does not say.
        control: whether it is a control.
        seeds: number of runs.
        score: test score of the fused output.
        scores: the same, seed by seed.
        per_modality: modality -> probe score of its encoder.
        under_trained: modality -> how far the probe lies below that of the same encoder trained alone.
        rules: inference rule -> mean validation and test score.
        cost: joint steps per step, None where it was not measured.
        interval: of the mean score, 95 % over seeds and samples; None where there are no outcomes on record.
        advice: what the record says of inference rules, see :mod:`equimodal.studies`; empty where there is one rule.
    """

    label: str
    kind: str
    control: bool
    seeds: int
    score: Spread
    scores: tuple[float, ...]
    per_modality: Mapping[str, Spread]
    under_trained: Mapping[str, Spread]
    rules: Mapping[str, tuple[float, float]]
    cost: float | None
    interval: tuple[float, float] | None = None
    advice: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Run:
    """One run.

    Args:
        method: label of its row.
        seed: of the run.
        score: on test data.
        folder: relative to that of the comparison.
        record: everything else that the comparison keeps of it.
    """

    method: str
    seed: int
    score: float
    folder: str
    record: Mapping[str, Any]


@dataclass(frozen=True)
class Series:
    """Values over epochs, mean and standard deviation over the seeds that reached the epoch."""

    epochs: tuple[int, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]


@dataclass(frozen=True)
class Study:
    """A comparison.

    Args:
        title: of the page.
        rows: best score first.
        modalities: in the order of the record.
        percent: whether scores are shares, to be shown times 100.
        metric: what the score is, such as ``accuracy``.
        error: whether the score is minus that metric, of which less is better; the table shows the metric.
        histories: label -> one list of epochs per seed.
        curves: the same run by run, with ``method``, ``seed`` and ``epochs``.
        runs: what is kept of every run.
        classes: names of the classes.
        missing: controls that the table lacks.
        alone: whether it is one run by itself.
        incomplete: reasons why the table proves less than it could.
        facts: everything else of the record.
    """

    title: str
    rows: tuple[Row, ...]
    modalities: tuple[str, ...]
    percent: bool
    histories: Mapping[str, Sequence[Sequence[Mapping[str, Any]]]]
    incomplete: tuple[str, ...]
    metric: str = "score"
    error: bool = False
    facts: Mapping[str, Any] = field(default_factory=dict)
    runs: tuple[Run, ...] = ()
    classes: tuple[str, ...] = ()
    curves: Sequence[Mapping[str, Any]] = ()
    missing: tuple[str, ...] = ()
    alone: bool = False

    def difference(self, label: str, rival: str) -> Mapping[str, float] | None:
        """``mean``, ``low`` and ``high`` of the paired difference to a rival; None where it was not computed."""
        found = (self.facts.get("differences") or {}).get(label)
        own = found.get(rival) if isinstance(found, Mapping) else None
        return interval_of(own)

    @property
    def best_control(self) -> Row | None:
        """The control with the best mean score."""
        return next((row for row in self.rows if row.control), None)

    def class_name(self, number: int) -> str:
        """The name of a class, or its number."""
        return self.classes[number] if 0 <= number < len(self.classes) else str(number)

    @property
    def factor(self) -> float:
        """What scores are multiplied with for people."""
        return 100.0 if self.percent else -1.0 if self.error else 1.0

    @property
    def gap_factor(self) -> float:
        """What differences of scores are multiplied with: as scores, but better is more in any case."""
        return abs(self.factor)

    def series(self, label: str, pick: Callable[[Mapping[str, Any]], Any]) -> Series | None:
        """What ``pick`` finds in the epochs of ``label``, over its seeds; None where it finds no number."""
        found: dict[int, list[float]] = {}
        for epochs in self.histories.get(label, ()):
            for position, epoch in enumerate(epochs):
                value = number(pick(epoch))
                if value is not None:
                    found.setdefault(int(epoch.get("epoch", position)), []).append(value)
        if not found:
            return None
        order = tuple(sorted(found))
        return Series(
            order,
            tuple(statistics.fmean(found[e]) for e in order),
            tuple(statistics.stdev(found[e]) if len(found[e]) > 1 else 0.0 for e in order),
        )

    def names(self, label: str, part: str) -> list[str]:
        """The keys that the epochs of ``label`` have under ``part``, in order of appearance."""
        seen: dict[str, None] = {}
        for epochs in self.histories.get(label, ()):
            for epoch in epochs:
                seen.update(dict.fromkeys(epoch.get(part) or {}))
        return list(seen)


def read_study(study: Mapping[str, Any]) -> Study:
    """The record with its numbers checked.

    Raises:
        DataError: a field is missing or of another type; the message names it.
    """
    if not isinstance(study, Mapping):
        raise DataError(f"`study`: expected the mapping stored as study.json. Found {type(study).__name__}.")
    rows = [_row(item, f"rows[{i}]") for i, item in enumerate(_list(study, "rows"))]
    rows.sort(key=lambda row: (-row.score[0], row.label))
    modalities = dict.fromkeys(str(m) for m in _mapping(study, "dataset", optional=True).get("modalities") or ())
    for row in rows:
        modalities.update(dict.fromkeys(row.per_modality))
    histories: dict[str, list[list[Mapping[str, Any]]]] = {}
    curves: list[dict[str, Any]] = []
    for i, item in enumerate(_list(study, "histories", optional=True)):
        field_name = f"histories[{i}]"
        record = _as_mapping(item, field_name)
        epochs = [_as_mapping(e, f"{field_name}.epochs[{j}]") for j, e in enumerate(_list(record, "epochs"))]
        label = _text(record, "method", field_name)
        histories.setdefault(label, []).append(epochs)
        curves.append({"method": label, "seed": record.get("seed"), "epochs": epochs})
    _mapping(study, "differences", optional=True)
    incomplete = [str(reason) for reason in _list(study, "incomplete", optional=True)]
    alone = study.get("kind") == "run"  # a run by itself is no table that could lack a row
    missing = [] if alone else missing_controls(study)
    if missing:
        incomplete.append(f"the table lacks the control(s) {', '.join(missing)}, without which no claim counts")
    single = [row.label for row in rows if row.seeds == 1 and not alone]
    if single:
        incomplete.append(f"one seed only, so no spread: {', '.join(single)}")
    scores = [row.score[0] for row in rows] + [m for row in rows for m, _ in row.per_modality.values()]
    return Study(
        title=str(study.get("title") or "Comparison"),
        rows=tuple(rows),
        modalities=tuple(modalities),
        percent=bool(scores) and all(0.0 <= s <= 1.0 for s in scores),
        histories=histories,
        incomplete=tuple(incomplete),
        metric=str(_mapping(study, "metric", optional=True).get("name") or "score"),
        error=_mapping(study, "metric", optional=True).get("higher_is_better") is False,
        facts={k: v for k, v in study.items() if k not in ("kind", "title", "rows", "histories", "incomplete", "runs")},
        runs=tuple(_run(item, f"runs[{i}]") for i, item in enumerate(_list(study, "runs", optional=True))),
        classes=tuple(map(str, _list(_mapping(study, "dataset", optional=True), "class_names", optional=True))),
        curves=curves,
        missing=tuple(missing),
        alone=alone,
    )


def interval_of(found: Any) -> dict[str, float] | None:
    """``mean``, ``low`` and ``high`` of a record, if all three are numbers."""
    parts = {p: number(found.get(p)) for p in ("mean", "low", "high")} if isinstance(found, Mapping) else {}
    numbers = {p: v for p, v in parts.items() if v is not None}
    return numbers if len(numbers) == 3 else None


def missing_controls(study: Mapping[str, Any]) -> list[str]:
    """The controls of :data:`CONTROLS` that the table of ``study`` lacks; of the one for single modalities, for which.

    A row counts for the role on record, or for that of its class.

    Example:
        >>> missing_controls({"rows": [{"method": "Joint"}, {"method": "Ensemble"}, {"method": "Unimodal[audio]"}],
        ...                   "dataset": {"modalities": ["audio", "video"]}})
        ['MultiLoss', 'Unimodal[video]']
    """
    rows = [_as_mapping(item, f"rows[{i}]") for i, item in enumerate(_list(study, "rows"))]
    roles = [str(row.get("role") or role_of(_class_of(row))) for row in rows]
    needed = required_controls()
    missing = [name for role, name in needed.items() if role not in roles]
    single, name = [row for row, role in zip(rows, roles, strict=True) if role == "single"], needed["single"]
    if single and name not in {str(row.get("method")) for row in single}:  # else one row stands for all modalities
        trained = {str((row.get("options") or {}).get("modality") or row.get("method")) for row in single}
        modalities = [str(m) for m in _mapping(study, "dataset", optional=True).get("modalities") or ()]
        missing += [label for m in modalities if not {m, label := f"{name}[{m}]"} & trained]
    return missing


def _class_of(row: Mapping[str, Any]) -> str:
    """The class of a row's method; where the record does not say, the label without what is in brackets."""
    return str(row.get("class") or str(row.get("method")).partition("[")[0])


def number(value: Any) -> float | None:
    """``value`` as a finite number, or None."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        return None
    return float(value)


def _run(item: Any, name: str) -> Run:
    run = _as_mapping(item, name)
    score, seed = number(run.get("score")), number(run.get("seed"))
    if score is None or seed is None:
        raise DataError(f"study: field `{name}`: expected `score` and `seed`, numbers. Found {score!r} and {seed!r}.")
    return Run(_text(run, "method", name), int(seed), score, str(run.get("folder") or ""), run)


def _row(item: Any, name: str) -> Row:
    row = _as_mapping(item, name)
    label = _text(row, "method", name)
    kind = _class_of(row)
    seeds = row.get("seeds")
    if isinstance(seeds, Sequence) and not isinstance(seeds, str):
        seeds = len(seeds)
    if isinstance(seeds, bool) or not isinstance(seeds, int) or seeds < 1:
        raise DataError(f"study: field `{name}.seeds`: expected the number of runs. Found {seeds!r}.")
    mean = number(row.get("score_mean"))
    if mean is None:
        raise DataError(f"study: field `{name}.score_mean`: expected a finite number. Found {row.get('score_mean')!r}.")
    rules = _mapping(row, "rules", optional=True)
    ends = [number(v) for v in _list(row, "score_interval", optional=True)]
    return Row(
        label=label,
        kind=kind,
        control=bool(row.get("control", kind in CONTROLS)),
        seeds=seeds,
        score=(mean, number(row.get("score_std")) or 0.0),
        scores=tuple(s for s in map(number, _list(row, "scores", optional=True)) if s is not None),
        per_modality=_spreads(row, "per_modality", name),
        under_trained=_spreads(row, "under_trained", name),
        rules={
            str(rule): (v, t)
            for rule, by in rules.items()
            if isinstance(by, Mapping)
            and (v := number(by.get("validation"))) is not None
            and (t := number(by.get("test"))) is not None
        },
        cost=number(row.get("cost")),
        interval=(ends[0], ends[1]) if len(ends) == 2 and ends[0] is not None and ends[1] is not None else None,
        advice=_mapping(row, "rule_advice", optional=True),
    )


def _spreads(row: Mapping[str, Any], key: str, name: str) -> dict[str, Spread]:
    found = {}
    for modality, value in _mapping(row, key, optional=True).items():
        if value is None:
            continue
        pair = list(value) if isinstance(value, Sequence) and not isinstance(value, str) else [value, 0.0]
        mean = number(pair[0]) if pair else None
        if mean is None or len(pair) > 2:
            raise DataError(
                f"study: field `{name}.{key}.{modality}`: expected a mean, or mean and standard deviation. "
                f"Found {value!r}."
            )
        found[str(modality)] = (mean, (number(pair[1]) or 0.0) if len(pair) == 2 else 0.0)
    return found


def _as_mapping(value: Any, name: str) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise DataError(f"study: field `{name}`: expected a mapping. Found {type(value).__name__}.")
    return value


def _mapping(record: Mapping[str, Any], key: str, optional: bool = False) -> Mapping[str, Any]:
    value = record.get(key)
    return {} if value is None and optional else _as_mapping(value, key)


def _list(record: Mapping[str, Any], key: str, optional: bool = False) -> Sequence[Any]:
    value = record.get(key)
    if value is None and optional:
        return []
    if not isinstance(value, Sequence) or isinstance(value, str):
        raise DataError(f"study: field `{key}`: expected a list. Found {type(value).__name__}.")
    return value


def _text(record: Mapping[str, Any], key: str, name: str) -> str:
    value = record.get(key)
    if not isinstance(value, str) or not value:
        raise DataError(f"study: field `{name}.{key}`: expected a name. Found {value!r}.")
    return value
