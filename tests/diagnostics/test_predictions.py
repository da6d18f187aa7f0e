"""Confusion, scores of classes and calibration against references, and predictions sample by sample."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from sklearn.metrics import precision_recall_fscore_support
from torch import nn
from torchmetrics.classification import MulticlassCalibrationError

from equimodal import Batch, Classification, MultimodalModel, Regression
from equimodal.diagnostics import (
    Outcomes,
    SamplePredictions,
    class_scores,
    collect,
    confusion_matrix,
    label_scores,
    paired_difference,
    reliability,
    sample_outcomes,
    sample_records,
    score_interval,
    worst_samples,
)
from equimodal.errors import MethodError
from equimodal.fusion import Concat
from equimodal.methods import Ensemble
from equimodal.tasks import MultiLabel, Segmentation

GENERATOR = np.random.default_rng(5)


def test_the_confusion_matrix_counts_pairs() -> None:
    target, said = GENERATOR.integers(0, 4, 200), GENERATOR.integers(-1, 4, 200)
    found = confusion_matrix(target, said, 4)
    for true in range(4):
        for guess in range(4):
            assert found[true, guess] == sum(t == true and s == guess for t, s in zip(target, said, strict=True))


def test_scores_of_classes_are_those_of_scikit_learn() -> None:
    target, said = GENERATOR.integers(0, 5, 300), GENERATOR.integers(0, 4, 300)  # the last class is never predicted
    found = class_scores(confusion_matrix(target, said, 5))
    expected = precision_recall_fscore_support(target, said, labels=range(5), zero_division=0.0)
    for own, reference in zip((found.precision, found.recall, found.f1, found.support), expected, strict=True):
        np.testing.assert_allclose(own, reference, rtol=0, atol=1e-12)


def test_scores_of_labels_are_those_of_scikit_learn() -> None:
    target, said = GENERATOR.integers(0, 2, (100, 3)), GENERATOR.integers(0, 2, (100, 3))
    found = label_scores(target, said)
    expected = precision_recall_fscore_support(target, said, zero_division=0.0)
    for own, reference in zip((found.precision, found.recall, found.f1, found.support), expected, strict=True):
        np.testing.assert_allclose(own, reference, rtol=0, atol=1e-12)
    hidden = np.concatenate([said, np.full((7, 3), -1)])
    np.testing.assert_array_equal(label_scores(np.concatenate([target, np.ones((7, 3))]), hidden).recall, found.recall)


def test_calibration_by_hand() -> None:
    found = reliability(np.array([0.05, 0.55, 0.6, 0.95, 1.0]), np.array([0, 1, 0, 1, 1]), bins=10)
    assert found.count.tolist() == [1, 2, 2]  # (0, 0.1], (0.5, 0.6], (0.9, 1]
    np.testing.assert_allclose(found.confidence, [0.05, 0.575, 0.975])
    np.testing.assert_allclose(found.accuracy, [0.0, 0.5, 1.0])
    assert found.error == pytest.approx((1 * 0.05 + 2 * 0.075 + 2 * 0.025) / 5)


def test_the_calibration_error_is_that_of_torchmetrics() -> None:
    probabilities = torch.softmax(2 * torch.from_numpy(GENERATOR.standard_normal((500, 4))), 1)
    target = torch.from_numpy(GENERATOR.integers(0, 4, 500))
    top = probabilities.max(1)
    found = reliability(top.values.numpy(), (top.indices == target).numpy(), bins=15)
    expected = float(MulticlassCalibrationError(4, n_bins=15)(probabilities.float(), target))
    assert found.error == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: confusion_matrix(np.zeros(2, int), np.zeros(3, int), 2), "`target`, `prediction`"),
        (lambda: confusion_matrix(np.zeros(2, int), np.full(2, 2), 2), "`classes`: expected targets"),
        (lambda: reliability(np.zeros(2), np.zeros(3)), "`confidence`, `correct`"),
        (lambda: reliability(np.zeros(2), np.zeros(2), bins=0), "at least one bin"),
    ],
)
def test_what_does_not_fit_is_refused(call: object, words: str) -> None:
    with pytest.raises(MethodError, match=words):
        call()  # type: ignore[operator]


def test_the_worst_samples_of_numbers_have_the_largest_errors() -> None:
    target = np.zeros((4, 2))
    said = np.array([[1.0, 0.0], [0.0, 0.0], [3.0, 3.0], [np.nan, 0.0]])
    found = SamplePredictions("point", np.arange(4), target, {"prediction": said}, {})
    assert worst_samples(found, 9) == [2, 0]  # the one without an error and the one without a number are none
    assert worst_samples(found, 1) == [2]


def method_of(task: object, outputs: int) -> Ensemble:
    torch.manual_seed(0)
    model = MultimodalModel({m: nn.Linear(3, 4) for m in "ab"}, Concat({"a": 4, "b": 4}), nn.Linear(8, outputs))
    return Ensemble(model, task)  # type: ignore[arg-type]


def batches(target: torch.Tensor) -> list[Batch]:
    inputs = {m: torch.randn(6, 3, generator=torch.Generator().manual_seed(ord(m))) for m in "ab"}
    present = {"b": torch.tensor([True, False, True, True, False, True])}
    whole = Batch(inputs, target, present, torch.arange(10, 16))
    rows = [slice(0, 4), slice(4, 6)]
    return [
        Batch({m: x[r] for m, x in inputs.items()}, target[r], {"b": present["b"][r]}, whole.index[r])  # type: ignore[index]
        for r in rows
    ]


def records_of(method: Any, target: torch.Tensor) -> SamplePredictions | None:
    return sample_records(method, collect(method, batches(target)))[1]


def test_predictions_are_those_of_the_method_and_absent_modalities_say_nothing() -> None:
    method, target = method_of(Classification(3), 3), torch.tensor([0, 1, 2, 0, 1, 2])
    given = batches(target)
    outcomes, found = sample_records(method, collect(method, given))
    assert found is not None
    assert found.index.tolist() == list(range(10, 16))
    assert found.target.tolist() == target.tolist()
    own = torch.cat([method.predict(b.inputs, b.present).output for b in given]).softmax(1)
    assert found.value["prediction"].tolist() == own.argmax(1).tolist()
    np.testing.assert_allclose(found.confidence["prediction"], own.max(1).values.detach().numpy(), rtol=1e-6)
    assert (found.value["unimodal/b"] == -1).tolist() == [False, True, False, False, True, False]
    assert (found.value["unimodal/a"] >= 0).all()
    right = (found.value["prediction"] == found.target).mean()
    assert right == pytest.approx(float(outcomes["prediction"].score()))
    same = sample_outcomes(method, given)
    assert all(np.array_equal(same[n].numerator, o.numerator) for n, o in outcomes.items())


def test_numbers_and_labels_are_kept_and_maps_are_not() -> None:
    numbers = records_of(method_of(Regression(2), 2), torch.randn(6, 2))
    assert numbers is not None
    assert numbers.value["prediction"].shape == (6, 2)
    assert np.isnan(numbers.value["unimodal/b"][1]).all()
    labels = records_of(method_of(MultiLabel(4), 4), torch.randint(0, 2, (6, 4)).float())
    assert labels is not None
    assert set(np.unique(labels.value["prediction"])) <= {0, 1}
    assert not labels.confidence
    assert Segmentation(2).dense


def test_the_interval_of_a_score_holds_it_and_shrinks_with_samples() -> None:
    widths = []
    for count in (50, 1000):
        values = (np.arange(count) % 4 == 0).astype(np.float32)[:, None]
        low, high = score_interval([Outcomes(values, np.ones_like(values))])
        assert low < 0.26
        assert high > 0.24
        widths.append(high - low)
    assert widths[1] < widths[0] / 3
    one = Outcomes(np.ones((10, 1), np.float32), np.ones((10, 1), np.float32))
    assert score_interval([one, one]) == (1.0, 1.0)
    assert paired_difference([one], [one]).mean == 0
