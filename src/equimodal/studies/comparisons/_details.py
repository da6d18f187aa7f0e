"""What a finished run says about its samples, small enough for the record of a comparison."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from equimodal.diagnostics import (
    ClassScores,
    Outcomes,
    SamplePredictions,
    class_scores,
    confusion_matrix,
    label_scores,
    reliability,
    worst_samples,
)
from equimodal.studies.runs import DETAILS, read_json

MATRIX = 20
"""Classes up to which the whole confusion matrix is kept; above, the pairs that are confused most."""

EVALUATION = "evaluation.json"
"""Numbers of ``equimodal evaluate --out`` that a report shows, if they are in the folder of the run."""

PAIRS, WORST, POINTS, CLASSES = 20, 12, 250, 40
"""Confused pairs, worst samples, points of a scatter plot and classes with a line of their own that are kept."""


def run_record(
    label: str,
    metrics: Mapping[str, Any],
    folder: str,
    cell: Path,
    outcomes: Mapping[str, Outcomes],
    parts: Sequence[str],
    predictions: SamplePredictions | None,
) -> dict[str, Any]:
    """One run as the record of a comparison keeps it.

    Args:
        label: of its entry.
        metrics: its ``metrics.json``.
        folder: of the run, relative to that of the comparison.
        cell: the same, to read from.
        outcomes: of its test samples.
        parts: names of the terms whose mean the score is, such as the regions of a segmentation.
        predictions: of its test samples; ``None`` where there are none on record.
    """
    test = metrics["test"]
    shown = {k: v for k, v in test.items() if k not in ("unimodal", "unimodal_samples")}
    return {
        "method": label, "seed": metrics["seed"], "folder": folder, "score": test["score"], "metrics": shown,
        "unimodal": test["unimodal"], "probe": metrics.get("probe", {}), "rule": metrics.get("rule"),
        "rules": metrics.get("rules", {}), "selection": metrics.get("selection", {}),
        "parameters": metrics.get("parameters"), "seconds": metrics["seconds"],
        "parts": parts_of(outcomes, parts),
        "details": _of_maps(cell) if predictions is None else details_of(predictions),
    }  # fmt: skip


def with_evaluations(study: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """The record of a comparison, with what ``equimodal evaluate`` left beside its runs, as ``evaluation.json``.

    Args:
        study: that ``compare`` stored.
        folder: of the comparison.

    Raises:
        DataError: such a file is damaged.
    """
    runs = []
    for run in study.get("runs") or ():
        path = folder / str(run.get("folder")) / EVALUATION
        runs.append({**run, "evaluation": read_json(path)} if run.get("folder") and path.is_file() else run)
    return {**study, "runs": runs}


def parts_of(outcomes: Mapping[str, Outcomes], names: Sequence[str]) -> dict[str, float]:
    """Name -> score of each part of a score that is a mean of several; empty where it has one part only."""
    own = outcomes.get("prediction")
    if own is None or own.numerator.shape[1] < 2:
        return {}
    above, below = own.numerator.astype(np.float64).sum(0), own.denominator.astype(np.float64).sum(0)
    named = list(names) if len(names) == len(above) else [f"part {i + 1}" for i in range(len(above))]
    return {n: float(a / b) for n, a, b in zip(named, above, below, strict=True) if b > 0}


def details_of(found: SamplePredictions) -> dict[str, Any]:
    """Confusion, scores of classes, calibration, errors, and the samples that were predicted worst, as plain data."""
    if found.kind == "categorical":
        return _of_classes(found)
    if found.kind == "bernoulli":
        scores = label_scores(found.target, found.value["prediction"])
        return {"kind": found.kind, "samples": len(found.target), "classes": _classes(scores)}
    return _of_numbers(found)


def _of_maps(cell: Path) -> dict[str, Any]:
    """The confusion of pixels that a run of a task with maps keeps; empty where it keeps none."""
    stored = read_json(cell / DETAILS).get("test") or {} if (cell / DETAILS).is_file() else {}
    confusion = stored.get("confusion")
    return {"kind": "map", "confusion": confusion} if confusion and len(confusion) <= MATRIX else {}


def _of_classes(found: SamplePredictions) -> dict[str, Any]:
    said = found.value["prediction"]
    count = int(max(found.target.max(initial=0), *(v.max(initial=0) for v in found.value.values()))) + 1
    confusion = confusion_matrix(found.target, said, count)
    wrong = confusion - np.diag(np.diag(confusion))
    order = np.argsort(-wrong, axis=None, kind="stable")[:PAIRS]
    pairs = [(int(i // count), int(i % count)) for i in order]
    record: dict[str, Any] = {
        "kind": found.kind,
        "samples": len(found.target),
        "classes": _classes(class_scores(confusion)),
        "confused": [[t, p, int(wrong[t, p])] for t, p in pairs if wrong[t, p] > 0],
        "calibration": {name: _calibration(found, name) for name in found.value},
        "worst": [
            [int(found.index[i]), int(found.target[i]), int(said[i]), _short(found.confidence["prediction"][i])]
            for i in worst_samples(found, WORST)
        ],
    }
    return record | ({"confusion": confusion.tolist()} if count <= MATRIX else {})


def _of_numbers(found: SamplePredictions) -> dict[str, Any]:
    target, said = (v.astype(np.float64).reshape(len(v), -1) for v in (found.target, found.value["prediction"]))
    error = said - target
    spread = ((target - target.mean(0)) ** 2).sum(0)
    kept = np.unique(np.linspace(0, len(target) - 1, min(POINTS, len(target))).round().astype(int))
    return {
        "kind": found.kind,
        "samples": len(target),
        "errors": [
            {"mae": _short(np.abs(e).mean()), "rmse": _short(np.sqrt((e**2).mean())), "bias": _short(e.mean()),
             "r2": _short(1 - (e**2).sum() / s) if s > 0 else None}
            for e, s in zip(error.T, spread, strict=True)
        ],
        "points": [[[_short(t), _short(p)] for t, p in zip(target[kept, d], said[kept, d], strict=True)]
                   for d in range(min(4, target.shape[1]))],
        "worst": [[int(found.index[i]), [_short(t) for t in target[i]], [_short(p) for p in said[i]]]
                  for i in worst_samples(found, WORST)],
    }  # fmt: skip


def _calibration(found: SamplePredictions, name: str) -> dict[str, Any]:
    kept = found.value[name] >= 0
    made = reliability(found.confidence[name][kept], (found.value[name] == found.target)[kept])
    bins = zip(made.confidence, made.accuracy, made.count, strict=True)
    return {"error": _short(made.error), "bins": [[_short(c), _short(a), int(n)] for c, a, n in bins]}


def _classes(scores: ClassScores) -> dict[str, Any]:
    """The scores of all classes; where they are many, of those that are found least."""
    order = np.arange(len(scores.support))
    if len(order) > CLASSES:
        order = np.sort(np.argsort(np.where(scores.support > 0, scores.recall, 2), kind="stable")[:CLASSES])
    record: dict[str, Any] = {
        name: [_short(v) for v in getattr(scores, name)[order]] for name in ("precision", "recall", "f1")
    }
    return record | {"number": order.tolist(), "support": scores.support[order].tolist(), "all": len(scores.support)}


def _short(value: Any) -> float:
    """Five digits are enough to look at."""
    return float(f"{float(value):.5g}")
