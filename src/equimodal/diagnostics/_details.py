"""What stands behind a score: per class, per label, per region, or how errors are spread."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from equimodal.diagnostics._predictions import Array, ClassScores, class_scores, confusion_matrix, label_scores
from equimodal.tasks import Classification, MultiLabel, Regression, Segmentation, Task, counting_dtype

QUANTILES = (0.0, 0.05, 0.25, 0.5, 0.75, 0.95, 1.0)
LARGEST_MATRIX = 100
"""Most classes for which the whole confusion matrix is given."""
_MOST_PAIRS = 1000


def score_details(task: Task, output: Tensor, target: Tensor, classes: Sequence[str] = ()) -> dict[str, Any]:
    r"""What stands behind the score, as plain numbers.

    Args:
        task: of the output.
        output: (N, C, ...).
        target: (N, ...).
        classes: names of the classes or labels; default their numbers.

    Returns:
        For a classification ``classes``, and per class ``precision``, ``recall``, ``f1`` and ``support`` (samples of
        the class); ``confusion``: rows are true classes, columns predicted ones. Above 100 classes ``confusions``
        instead: [true, predicted, count] of wrong pairs, the most frequent 1,000.

        For labels the same without the matrix, and ``true_positive``, ``false_positive``, ``false_negative``,
        ``true_negative`` per label.

        For a segmentation ``dice`` and ``support`` (pixels) per class, the background included, and ``confusion`` of
        pixels.

        For a regression ``residual_quantiles``: quantile -> prediction minus target, one per output, and
        ``residual_mean`` and ``residual_std``.

        A ratio of nothing is ``None``. Empty for a task of your own.

    Example:
        >>> found = score_details(Classification(2), torch.eye(2)[[0, 1, 1]], torch.tensor([0, 0, 1]))
        >>> found["recall"], found["support"], found["confusion"]
        ([0.5, 1.0], [2, 1], [[1, 1], [0, 1]])
    """
    if isinstance(task, Regression):
        return _residuals(task, output, target)
    if isinstance(task, MultiLabel):
        return _of_labels(output > 0, target >= 0.5, _names(classes, task.num_labels))
    if isinstance(task, Classification):
        labels = target.argmax(1) if target.is_floating_point() else target
        table = _confusion(labels, output.argmax(1), task.num_classes)
        return _of_classes(table, _names(classes, task.num_classes))
    if isinstance(task, Segmentation):
        kept = torch.ones_like(target, dtype=torch.bool)
        if task.ignore_index is not None:
            kept = target != task.ignore_index
        table = _confusion(target[kept], output.argmax(1)[kept], task.num_classes)
        found = _of_classes(table, _names(classes, task.num_classes))
        return {"dice": found.pop("f1"), **{k: v for k, v in found.items() if k not in ("precision", "recall")}}
    return {}


def _names(given: Sequence[str], count: int) -> list[str]:
    return [str(name) for name in given] if len(given) == count else [str(i) for i in range(count)]


def _confusion(target: Tensor, guess: Tensor, count: int) -> Array:
    """(C, C) counts: rows true, columns predicted."""
    true, said = (values.reshape(-1).cpu().numpy() for values in (target, guess))
    return confusion_matrix(true, said, count)


def _scores(found: ClassScores, guessed: Array, names: list[str]) -> dict[str, Any]:
    """The scores of every class or label; ``None`` where there is nothing to divide by."""
    below = {"precision": guessed, "recall": found.support, "f1": found.support + guessed}
    return {
        "classes": names,
        **{
            name: [float(v) if some else None for v, some in zip(getattr(found, name), count > 0, strict=True)]
            for name, count in below.items()
        },
        "support": found.support.tolist(),
    }


def _of_classes(table: Array, names: list[str]) -> dict[str, Any]:
    found = _scores(class_scores(table), table.sum(0), names)
    if len(names) <= LARGEST_MATRIX:
        return {**found, "confusion": table.tolist()}
    wrong = table - np.diag(np.diag(table))
    rows, columns = wrong.nonzero()
    order = np.argsort(-wrong[rows, columns], kind="stable")[:_MOST_PAIRS]
    pairs = np.stack([rows, columns, wrong[rows, columns]], 1)[order]
    return {**found, "confusions": pairs.tolist()}


def _of_labels(guess: Tensor, truth: Tensor, names: list[str]) -> dict[str, Any]:
    counts = {
        "true_positive": (guess & truth).sum(0),
        "false_positive": (guess & ~truth).sum(0),
        "false_negative": (~guess & truth).sum(0),
        "true_negative": (~guess & ~truth).sum(0),
    }
    said, true = (values.cpu().numpy().astype(np.int64) for values in (guess, truth))
    found = _scores(label_scores(true, said), said.sum(0), names)
    return {**found, **{name: n.tolist() for name, n in counts.items()}}


def _residuals(task: Regression, output: Tensor, target: Tensor) -> dict[str, Any]:
    kind = counting_dtype(output.device)
    guess = task.probabilities(output).reshape(len(output), task.size).to(kind)
    error = (guess - target.reshape(len(target), task.size).to(kind)).cpu().double()
    place = error.sort(0).values
    # linear between neighbours, as numpy's default; torch.quantile takes at most 2^24 numbers
    found = {}
    for q in QUANTILES:
        at = q * (len(place) - 1)
        low, part = int(at), at - int(at)
        high = min(low + 1, len(place) - 1)
        found[f"{q:g}"] = (place[low] + part * (place[high] - place[low])).tolist()
    spread = error.std(0, correction=0)
    return {"residual_quantiles": found, "residual_mean": error.mean(0).tolist(), "residual_std": spread.tolist()}
