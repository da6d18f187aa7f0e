"""Metrics by name against hand-computed numbers and scikit-learn; every name gives a number; wrong ones are refused."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from equimodal.errors import MethodError, UnknownNameError, UnsupportedError
from equimodal.tasks import Classification, MultiLabel, Regression, Segmentation, Task, metric_names, named_metrics

pytest.importorskip("torchmetrics")


def value(task: Task, name: str, output: Tensor, target: Tensor) -> float:
    return named_metrics(task, [name])[name](task.probabilities(output), target)


def classes() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(60, 3, generator=generator), torch.arange(60) % 3


CASES: list[tuple[Task, Tensor, Tensor]] = [
    (Classification(3), *classes()),
    (MultiLabel(3), classes()[0], (classes()[0] + 0.5 > 0).long()),
    (Regression(), classes()[0][:, :1].abs(), classes()[0][:, 1].abs()),
    (Regression(2), classes()[0][:, :2].abs(), classes()[0][:, 1:].abs()),
    (
        Segmentation(3, ignore_index=7),
        classes()[0].T.reshape(1, 3, 6, 10),
        torch.where(torch.arange(60) < 5, 7, classes()[1]).reshape(1, 6, 10),
    ),
]
OPTIONS = {
    "fbeta": "beta=2.0",
    "fbeta_score": "beta=2.0",
    "minkowski_distance": "p=3",
    "critical_success_index": "threshold=0.5",
}


@pytest.mark.parametrize("case", CASES, ids=lambda c: repr(c[0]))
def test_every_name_gives_a_number(case: tuple[Task, Tensor, Tensor]) -> None:
    task, output, target = case
    names = [f"{n}({OPTIONS[n]})" if n in OPTIONS else n for n in metric_names(task)]
    found = named_metrics(task, names)
    assert list(found) == names
    for name, metric in found.items():
        number = metric(task.probabilities(output), target)
        assert np.isfinite(number), name
        assert number == metric(task.probabilities(output), target), f"{name} keeps state"


def test_values_are_those_of_scikit_learn() -> None:
    sklearn = pytest.importorskip("sklearn.metrics")
    task, output, target = CASES[0]
    p, y = torch.softmax(output, 1).numpy(), target.numpy()
    guess = p.argmax(1)
    for name, expected in {
        "f1": sklearn.f1_score(y, guess, average="macro"),
        "micro_f1": sklearn.f1_score(y, guess, average="micro"),
        "weighted_precision": sklearn.precision_score(y, guess, average="weighted"),
        "fbeta(beta=2.0, average='macro')": sklearn.fbeta_score(y, guess, beta=2, average="macro"),
        "auroc": sklearn.roc_auc_score(y, p, multi_class="ovr"),
        "mcc": sklearn.matthews_corrcoef(y, guess),
        "MulticlassCohenKappa": sklearn.cohen_kappa_score(y, guess),
        "accuracy": sklearn.accuracy_score(y, guess),  # the task's own, not torchmetrics' mean over classes
    }.items():
        assert value(task, name, output, target) == pytest.approx(expected, abs=1e-6), name
    task, output, target = CASES[3]
    for name, expected in {
        "r2": sklearn.r2_score(target, output),
        "rmse": np.mean(np.sqrt(np.square((output - target).numpy()).mean(0))),
        "mae": sklearn.mean_absolute_error(target, output),
        "weighted_mean_absolute_percentage_error": np.abs((output - target).numpy()).sum() / target.abs().numpy().sum(),
    }.items():
        assert value(task, name, output, target) == pytest.approx(float(expected), abs=1e-5), name


def test_pixels_that_are_ignored_and_soft_targets() -> None:
    task = Segmentation(2, ignore_index=9)
    output = torch.tensor([[[[9.0, 0.0, 0.0]], [[0.0, 9.0, 9.0]]]])
    assert value(task, "iou", output, torch.tensor([[[0, 1, 9]]])) == 1.0
    assert value(task, "iou", output, torch.tensor([[[0, 1, 0]]])) == pytest.approx(0.5)
    soft = torch.tensor([[0.9, 0.1], [0.2, 0.8]])
    assert value(Classification(2), "recall", torch.eye(2), soft) == 1.0


@pytest.mark.parametrize(
    ("name", "error", "text"),
    [
        ("f2", UnknownNameError, "Unknown metric for Classification 'f2'. Did you mean 'f1'"),
        ("pearson", UnknownNameError, "metric for Classification"),
        ("roc", UnknownNameError, "metric"),
        ("macro_kappa", UnknownNameError, "option of the metric"),
        ("fbeta", UnsupportedError, "expected values of beta"),
        ("f1(avrage='micro')", UnknownNameError, "Did you mean 'average'"),
        ("f1(average='all')", UnsupportedError, "average"),
        ("f1(average=open('x'))", MethodError, "name\\(option=value\\)"),
        ("f1(1)", MethodError, "name\\(option=value\\)"),
        ("f1(", MethodError, "name\\(option=value\\)"),
        ("", MethodError, "name\\(option=value\\)"),
    ],
)
def test_wrong_names_are_refused(name: str, error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        named_metrics(Classification(3), [name])
