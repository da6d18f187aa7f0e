"""Metrics of torchmetrics by name, made for a task."""

from __future__ import annotations

import inspect
import re
import warnings
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from equimodal._utils.calls import read_call
from equimodal.errors import UnsupportedError, missing_extra, unknown_name
from equimodal.tasks._classification import Classification
from equimodal.tasks._multilabel import MultiLabel
from equimodal.tasks._protocol import Task
from equimodal.tasks._regression import Regression
from equimodal.tasks._segmentation import Segmentation

_AVERAGES = ("macro", "micro", "weighted")
_NO_NUMBER = ("ConfusionMatrix", "ROC", "PrecisionRecallCurve", "StatScores", "PrecisionAtFixedRecall",
              "RecallAtFixedPrecision", "SensitivityAtSpecificity", "SpecificityAtSensitivity")  # fmt: skip
_OTHER_INPUTS = ("KLDivergence", "JensenShannonDivergence", "CosineSimilarity", "ContinuousRankedProbabilityScore")
_SHORT = {
    "ap": "AveragePrecision", "map": "AveragePrecision", "ece": "CalibrationError", "f1": "F1Score",
    "fbeta": "FBetaScore", "iou": "JaccardIndex", "jaccard": "JaccardIndex", "kappa": "CohenKappa",
    "mcc": "MatthewsCorrCoef", "npv": "NegativePredictiveValue", "ccc": "ConcordanceCorrCoef",
    "kendall": "KendallRankCorrCoef", "mae": "MeanAbsoluteError", "mape": "MeanAbsolutePercentageError",
    "mse": "MeanSquaredError", "nrmse": "NormalizedRootMeanSquaredError", "pearson": "PearsonCorrCoef", "r2": "R2Score",
    "rmse": "MeanSquaredError", "smape": "SymmetricMeanAbsolutePercentageError", "spearman": "SpearmanCorrCoef",
    "wmape": "WeightedMeanAbsolutePercentageError",
}  # fmt: skip


def metric_names(task: Task) -> list[str]:
    """The names that :func:`named_metrics` knows for a task: the task's own metrics first.

    Args:
        task: Classification, MultiLabel, Regression, Segmentation, or one of your own (its own metrics only).

    Raises:
        MissingExtraError: torchmetrics is not installed.
    """
    classes = _classes(task)
    short = [s for s, name in _SHORT.items() if name in classes]
    return list(dict.fromkeys([*task.metrics(), *sorted([*map(_snake, classes), *short])]))


def named_metrics(task: Task, names: Iterable[str]) -> dict[str, Callable[[Tensor, Tensor], float]]:
    """Functions of (probabilities, target) for metrics of torchmetrics, made for the task.

    Number of classes, labels or outputs, and the label that does not count, are the task's. A metric with averages is
    torchmetrics' ``macro`` unless its name begins with another (``micro_f1``, ``weighted_auroc``) or its options say
    so. Of soft targets the most probable class counts, and of several outputs of a regression the mean.

    Args:
        task: see :func:`metric_names`.
        names: as ``"f1"``, ``"auroc"``, ``"calibration_error"``, ``"fbeta(beta=2.0)"``, ``"MulticlassF1Score"``. A name
            of one of the task's own metrics is that one (``accuracy`` of a classification is the share of right
            samples).

    Returns:
        Name as it was given -> function.

    Raises:
        UnknownNameError: no such metric for this task; the message suggests near ones.
        UnsupportedError: options that the metric does not take, or needs and is not given.
        MissingExtraError: torchmetrics is not installed.

    Example:
        >>> found = named_metrics(Classification(2), ["recall"])
        >>> found["recall"](torch.tensor([[0.9, 0.1], [0.6, 0.4]]), torch.tensor([0, 1]))
        0.5
    """
    wanted = list(dict.fromkeys(names))
    if not wanted:
        return {}
    own = task.metrics()
    classes = _classes(task)
    found: dict[str, Callable[[Tensor, Tensor], float]] = {}
    for text in wanted:
        name, options = read_call(text, "metrics")
        if text in own:
            found[text] = _Number(own[text], text, None)
            continue
        match = classes.get(_class_name(name, classes))
        if match is None:
            average, short = _split(name)
            match = classes.get(_class_name(short, classes))
            if match is None or average is None:
                raise unknown_name(f"metric for {type(task).__name__}", name, metric_names(task))
            options = {"average": average, **options}
        if name.lower() == "rmse":
            options = {"squared": False, **options}
        found[text] = _Number(_made(match, task, options, text), text, _labels_of(task))
    return found


class _Number:
    """A metric as a function; several numbers are averaged."""

    def __init__(self, metric: Any, name: str, labels: Callable[[Tensor], Tensor] | None) -> None:
        self._metric, self._name, self._labels = metric, name, labels

    def __call__(self, probabilities: Tensor, target: Tensor) -> float:
        metric = self._metric.to(probabilities.device)
        metric.reset()
        try:
            metric.update(probabilities, target if self._labels is None else self._labels(target))
            value = metric.compute()
        except (ValueError, RuntimeError, TypeError, IndexError) as error:
            said = " ".join(str(error).split())[:200]
            raise UnsupportedError(
                f"`metrics`: {self._name} cannot be computed of these samples ({said}). Choose another metric."
            ) from error
        finally:
            metric.reset()
        return float(torch.as_tensor(value, dtype=torch.float64).mean())


def _classes(task: Task) -> dict[str, type[Any]]:
    """Name without the prefix of the task -> class of torchmetrics that gives a number."""
    try:
        import torchmetrics.classification
        import torchmetrics.regression
    except ImportError as error:
        raise missing_extra("torchmetrics", "cli", "`metrics` by name") from error
    module: Any = torchmetrics.classification
    left_out: tuple[str, ...] = _NO_NUMBER
    if isinstance(task, Regression):
        module, prefix, left_out = torchmetrics.regression, "", _OTHER_INPUTS
    elif isinstance(task, MultiLabel):
        prefix = "Multilabel"
    elif isinstance(task, Classification):
        prefix, left_out = "Multiclass", (*_NO_NUMBER, "ExactMatch")
    elif isinstance(task, Segmentation):
        prefix = "Multiclass"
    else:
        return {}
    names = [n.removeprefix(prefix) for n in module.__all__ if n.startswith(prefix)]
    return {n: getattr(module, prefix + n) for n in names if n not in left_out}


def _made(kind: type[Any], task: Task, options: dict[str, Any], text: str) -> Any:
    known = inspect.signature(kind.__init__).parameters
    facts = {
        "num_classes": "num_classes",
        "num_labels": "num_labels",
        "num_outputs": "size",
        "ignore_index": "ignore_index",
    }
    found = {name: getattr(task, fact, None) for name, fact in facts.items() if name in known}
    given = {name: value for name, value in found.items() if value is not None}
    needed = [
        n
        for n, p in known.items()
        if p.default is p.empty and p.kind is p.POSITIONAL_OR_KEYWORD and n != "self" and n not in {*given, *options}
    ]
    own = [n for n in known if n not in ("self", "kwargs", *given)]
    for name in options:
        if name not in own:
            raise unknown_name(f"option of the metric {text.partition('(')[0]!r}", name, own)
    if needed:
        raise UnsupportedError(
            f"`metrics`: {text}: expected values of {', '.join(needed)}. Found none. Write {text}({needed[0]}=VALUE)."
        )
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*will save all targets and predictions.*")
            return kind(**given, **options)
    except (ValueError, TypeError) as error:
        raise UnsupportedError(f"`metrics`: {text}: {' '.join(str(error).split())}") from error


def _labels_of(task: Task) -> Callable[[Tensor], Tensor] | None:
    """What torchmetrics takes for the targets of a task."""
    if isinstance(task, Classification):
        return lambda t: t.argmax(dim=1) if t.is_floating_point() else t
    if isinstance(task, MultiLabel):
        return lambda t: (t >= 0.5).long()
    if isinstance(task, Regression):
        return lambda t: t.reshape(-1).float() if task.size == 1 else t.float()
    return None


def _split(name: str) -> tuple[str | None, str]:
    """``macro_f1`` -> macro, f1."""
    first, dash, rest = name.partition("_")
    return (first.lower(), rest) if dash and first.lower() in _AVERAGES else (None, name)


def _class_name(name: str, classes: Iterable[str]) -> str:
    """The name of a class that ``name`` means, in whatever spelling."""
    plain = re.sub(r"[_\- ]", "", name).lower()
    plain = re.sub(r"^(multiclass|multilabel)", "", plain) or plain
    if plain in _SHORT:
        return _SHORT[plain]
    return next((c for c in classes if c.lower() == plain), "")


def _snake(name: str) -> str:
    """``CalibrationError`` -> ``calibration_error``, ``AUROC`` -> ``auroc``, ``F1Score`` -> ``f1_score``."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower()
