"""What stands behind a score, against numbers by hand, plain loops and numpy."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from equimodal.diagnostics import score_details
from equimodal.diagnostics._details import LARGEST_MATRIX
from equimodal.tasks import Classification, MultiLabel, Regression, Segmentation


def test_classes_by_hand() -> None:
    guess, truth = torch.tensor([0, 0, 0, 1]), torch.tensor([0, 1, 1, 1])
    found = score_details(Classification(3), torch.eye(3)[guess], truth, ["a", "b", "c"])
    assert found["classes"] == ["a", "b", "c"]
    assert found["confusion"] == [[1, 0, 0], [2, 1, 0], [0, 0, 0]]
    assert found["precision"] == [pytest.approx(1 / 3), 1.0, None]
    assert found["recall"] == [1.0, pytest.approx(1 / 3), None]
    assert found["f1"] == [0.5, 0.5, None]
    assert found["support"] == [1, 3, 0]
    soft = torch.eye(3)[truth] * 0.8 + 0.2 / 3
    assert score_details(Classification(3), torch.eye(3)[guess], soft)["confusion"] == found["confusion"]
    json.dumps(found)


def test_many_classes_have_pairs() -> None:
    count = LARGEST_MATRIX + 1
    truth = torch.tensor([5, 5, 5, 7, 100])
    guess = torch.tensor([6, 6, 5, 8, 100])
    found = score_details(Classification(count), torch.eye(count)[guess], truth)
    assert "confusion" not in found
    assert found["confusions"] == [[5, 6, 2], [7, 8, 1]]
    assert len(found["recall"]) == count


def test_labels_by_a_loop() -> None:
    generator = torch.Generator().manual_seed(1)
    output, target = torch.randn(40, 4, generator=generator), torch.rand(40, 4, generator=generator)
    found = score_details(MultiLabel(4), output, target)
    for label in range(4):
        pairs = [(bool(z > 0), bool(y >= 0.5)) for z, y in zip(output[:, label], target[:, label], strict=True)]
        right, extra, missed = (sum(p == q for p in pairs) for q in ((True, True), (True, False), (False, True)))
        assert found["true_positive"][label] == right
        assert found["false_positive"][label] == extra
        assert found["false_negative"][label] == missed
        assert found["true_negative"][label] == 40 - right - extra - missed
        assert found["precision"][label] == pytest.approx(right / (right + extra))
        assert found["f1"][label] == pytest.approx(2 * right / (2 * right + extra + missed))


def test_pixels() -> None:
    output = torch.tensor([[[[9.0, 9.0, 0.0, 9.0]], [[0.0, 0.0, 9.0, 0.0]]]])
    found = score_details(Segmentation(2, ignore_index=5), output, torch.tensor([[[0, 1, 1, 5]]]))
    assert found["confusion"] == [[1, 0], [1, 1]]
    assert found["dice"] == pytest.approx([2 / 3, 2 / 3])
    assert found["support"] == [1, 2]


@pytest.mark.parametrize("size", [1, 2])
def test_residuals(size: int) -> None:
    generator = torch.Generator().manual_seed(2)
    task = Regression(size, loss="gaussian_nll")
    output, target = torch.randn(33, 2 * size, generator=generator), torch.randn(33, size, generator=generator)
    found = score_details(task, output, target[:, 0] if size == 1 else target)
    error = output[:, :size].double().numpy() - target.double().numpy()
    for quantile, values in found["residual_quantiles"].items():
        assert values == pytest.approx(np.quantile(error, float(quantile), axis=0).tolist(), abs=1e-12)
    assert found["residual_mean"] == pytest.approx(error.mean(0).tolist(), abs=1e-12)
    assert found["residual_std"] == pytest.approx(error.std(0).tolist(), abs=1e-12)
