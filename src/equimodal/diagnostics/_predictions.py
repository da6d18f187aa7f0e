"""What was true of every sample and what a method said of it: confusion, scores of classes, calibration."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from equimodal.errors import MethodError

Array = NDArray[Any]


@dataclass(frozen=True)
class SamplePredictions:
    """Targets and predictions, sample by sample; small enough to keep beside a run.

    Args:
        kind: of the task's distribution: ``"categorical"``, ``"bernoulli"``, ``"gaussian"`` or ``"point"``.
        index: (N,) rows of the dataset.
        target: classes (N,); labels (N, L), 0 or 1; or numbers (N, D).
        value: ``"prediction"`` and ``"unimodal/MODALITY"`` -> what was predicted, of the shape of ``target``. Where a
            sample lacks the modality: -1, or NaN for numbers.
        confidence: of classes only, the probability of the predicted class (N,), under the same names; else empty.
    """

    kind: str
    index: Array
    target: Array
    value: Mapping[str, Array]
    confidence: Mapping[str, Array]


@dataclass(frozen=True)
class ClassScores:
    """Scores of every class (or label) by itself; 0 where there is nothing to divide by.

    Args:
        precision: (C,) share of the predictions of a class that are right.
        recall: (C,) share of the samples of a class that are found.
        f1: (C,) harmonic mean of both.
        support: (C,) samples of each class.
    """

    precision: Array
    recall: Array
    f1: Array
    support: Array


@dataclass(frozen=True)
class Reliability:
    """How far confidence is from accuracy.

    Args:
        error: expected calibration error, the mean distance weighted by the samples of the bins.
        confidence: (B,) mean confidence of each bin that holds samples.
        accuracy: (B,) their accuracy.
        count: (B,) how many they are.
    """

    error: float
    confidence: Array
    accuracy: Array
    count: Array


def confusion_matrix(target: Array, prediction: Array, classes: int) -> Array:
    """Samples of each class (rows) by the class that was predicted (columns), (C, C).

    Args:
        target: (N,) classes.
        prediction: (N,) classes; a negative one does not count.
        classes: C, how many there are.

    Raises:
        MethodError: different lengths, or a class that is not below ``classes``.

    Example:
        >>> confusion_matrix(np.array([0, 0, 1]), np.array([0, 1, 1]), 2).tolist()
        [[1, 1], [0, 1]]
    """
    if target.shape != prediction.shape or target.ndim != 1:
        raise MethodError(
            f"`target`, `prediction`: expected (N,) each. Found the shapes {target.shape} and {prediction.shape}."
        )
    if len(target) and (int(max(target.max(), prediction.max())) >= classes or int(target.min()) < 0):
        raise MethodError(f"`classes`: expected targets and predictions in 0..{classes - 1}. Found others.")
    kept = prediction >= 0
    flat = target[kept].astype(np.int64) * classes + prediction[kept].astype(np.int64)
    return np.bincount(flat, minlength=classes * classes).reshape(classes, classes)


def class_scores(confusion: Array) -> ClassScores:
    """Precision, recall and F1 of every class of a confusion matrix.

    Args:
        confusion: (C, C), rows are the true classes.

    Example:
        >>> class_scores(np.array([[1, 1], [0, 1]])).recall.tolist()
        [0.5, 1.0]
    """
    right = np.diag(confusion).astype(np.float64)
    return _class_scores(right, confusion.sum(0), confusion.sum(1))


def label_scores(target: Array, prediction: Array) -> ClassScores:
    """Precision, recall and F1 of every label of samples that can have several.

    Args:
        target: (N, L), 0 or 1.
        prediction: (N, L), 0 or 1; rows with a negative entry do not count.

    Example:
        >>> label_scores(np.array([[1, 0], [1, 1]]), np.array([[1, 0], [0, 1]])).recall.tolist()
        [0.5, 1.0]
    """
    kept = (prediction >= 0).all(1)
    true, said = target[kept] > 0, prediction[kept] > 0
    return _class_scores((true & said).sum(0).astype(np.float64), said.sum(0), true.sum(0))


def reliability(confidence: Array, correct: Array, bins: int = 10) -> Reliability:
    r"""Confidence against accuracy in bins of equal width, and the expected calibration error ([Guo2017]_).

    .. math:: \mathrm{ECE} = \sum_b \frac{n_b}{N} \left|\mathrm{acc}_b - \mathrm{conf}_b\right|

    Args:
        confidence: (N,) probabilities of the predicted classes.
        correct: (N,) whether these were right.
        bins: how many.

    Raises:
        MethodError: different lengths, or no bin.

    References:
        .. [Guo2017] On Calibration of Modern Neural Networks, ICML 2017.

    Example:
        >>> reliability(np.array([0.95, 0.95]), np.array([True, False])).error.__round__(2)
        0.45
    """
    if confidence.shape != correct.shape or confidence.ndim != 1 or bins < 1:
        raise MethodError(
            f"`confidence`, `correct`, `bins`: expected (N,) each and at least one bin. Found {confidence.shape}, "
            f"{correct.shape} and {bins}."
        )
    place = np.clip(np.ceil(confidence.astype(np.float64) * bins).astype(np.int64) - 1, 0, bins - 1)
    count = np.bincount(place, minlength=bins)
    some = count > 0
    mean = np.bincount(place, confidence, bins)[some] / count[some]
    accuracy = np.bincount(place, correct, bins)[some] / count[some]
    weights = count[some] / max(1, len(confidence))
    return Reliability(float(np.sum(weights * np.abs(accuracy - mean))), mean, accuracy, count[some])


def _class_scores(right: Array, predicted: Array, support: Array) -> ClassScores:
    def ratio(above: Array, below: Array) -> Array:
        return np.where(below > 0, above / np.where(below > 0, below, 1), 0.0)

    precision, recall = ratio(right, predicted), ratio(right, support)
    return ClassScores(precision, recall, ratio(2 * precision * recall, precision + recall), support)


def worst_samples(found: SamplePredictions, count: int, name: str = "prediction") -> Sequence[int]:
    """Rows of the samples that were predicted worst: wrong with the most confidence, or with the largest error.

    Args:
        found: predictions of classes or numbers.
        count: how many rows at most.
        name: of the output.

    Example:
        >>> zeros = np.zeros(3, dtype=int)
        >>> worst_samples(SamplePredictions("categorical", np.arange(3), zeros, {"prediction": np.array([1, 0, 1])},
        ...                                 {"prediction": np.array([0.6, 0.9, 0.8])}), 5)
        [2, 0]
    """
    value = found.value[name]
    if found.kind == "categorical":
        badness = np.where((value >= 0) & (value != found.target), found.confidence[name], -1.0)
    else:
        distance = np.abs(value.astype(np.float64) - found.target.astype(np.float64))
        badness = np.nan_to_num(distance.reshape(len(distance), -1).mean(1), nan=-1.0)
        badness = np.where(badness > 0, badness, -1.0)
    order: Iterable[Any] = np.argsort(-badness, kind="stable")[:count]
    return [int(i) for i in order if badness[int(i)] >= 0]
