"""Regression: losses by hand, the metrics of the sentiment literature against scikit-learn and by hand, targets."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from equimodal import Batch, MultimodalModel, Regression
from equimodal.diagnostics import evaluate
from equimodal.errors import TargetError
from equimodal.fusion import Concat
from equimodal.methods import Joint

Z = torch.tensor([[0.5], [-2.0], [3.0], [0.1]], dtype=torch.float64)
Y = torch.tensor([1.0, -2.0, 1.0, 0.0], dtype=torch.float64)
E = np.array([-0.5, 0.0, 2.0, 0.1])


def test_losses_by_hand() -> None:
    assert float(Regression().loss(Z, Y)) == pytest.approx(np.abs(E).mean(), rel=1e-14)
    assert float(Regression(loss="mse").loss(Z, Y)) == pytest.approx((E**2).mean(), rel=1e-14)
    huber = np.where(np.abs(E) < 0.3, E**2 / 2, 0.3 * (np.abs(E) - 0.15))
    assert float(Regression(loss="huber", delta=0.3).loss(Z, Y)) == pytest.approx(huber.mean(), rel=1e-14)
    s = np.array([0.2, -1.0, 3.0, 0.0])
    output = torch.cat([Z, torch.from_numpy(s)[:, None]], dim=1)
    sigma = np.exp(s / 2)
    minus_log_density = ((Y.numpy() - Z[:, 0].numpy()) / sigma) ** 2 / 2 + np.log(sigma)  # without log(2 pi) / 2
    assert float(Regression(loss="gaussian_nll").loss(output, Y)) == pytest.approx(minus_log_density.mean(), rel=1e-13)


def test_targets_of_any_shape_and_type() -> None:
    task = Regression()
    for y in (Y, Y[:, None], Y.float(), Y.long()):
        task.check_target(y)
        assert torch.allclose(task.loss(Z, y), task.loss(Z, Y))
        assert torch.allclose(task.score(Z, y), task.score(Z, Y))
    with pytest.raises(TargetError, match=r"\(4, 2\) for \(4, 1\)"):
        task.loss(Z, torch.zeros(4, 2))


def test_the_variance_is_bounded() -> None:
    task = Regression(loss="gaussian_nll")
    wild = torch.tensor([[0.0, -800.0], [0.0, 800.0]], dtype=torch.float64, requires_grad=True)
    loss = task.loss(wild, torch.tensor([1.0, 1.0]))
    loss.backward()  # type: ignore[no-untyped-call]
    assert torch.isfinite(loss)
    assert wild.grad is not None
    assert torch.isfinite(wild.grad).all()
    assert not wild.grad[:, 1].any()


def test_what_users_read_off() -> None:
    assert torch.equal(Regression().probabilities(Z), Z[:, 0])
    two = Regression(2, loss="gaussian_nll")
    assert torch.equal(two.probabilities(torch.arange(8.0).reshape(2, 4)), torch.tensor([[0.0, 1.0], [4.0, 5.0]]))
    assert Regression().probabilities(Z.half()).dtype == torch.float32


def test_sentiment_metrics_against_references() -> None:
    pytest.importorskip("torchmetrics")
    from sklearn.metrics import accuracy_score, f1_score

    rng = np.random.default_rng(0)
    y = np.clip(rng.normal(0, 1.5, 200), -3, 3)
    y[:30] = 0.0
    p = y + rng.normal(0, 1.0, 200)
    p[30:33] = (2.5, -3.5, 7.0)  # a half, and two beyond the scale
    task = Regression(sentiment=True)
    metrics = task.metrics()
    for part in (slice(0, 70), slice(70, 200)):
        output = torch.from_numpy(p[part])[:, None]
        metrics.update(task.probabilities(output), torch.from_numpy(y[part]))
    found = {n: float(v) for n, v in metrics.compute().items()}
    some = y != 0
    expected = {
        "mae": np.abs(p - y).mean(),
        "pearson": np.corrcoef(p, y)[0, 1],
        "accuracy2_with_zero": accuracy_score(y >= 0, p >= 0),
        "f1_with_zero": f1_score(y >= 0, p >= 0, average="weighted"),
        "accuracy2_without_zero": accuracy_score(y[some] > 0, p[some] > 0),
        "f1_without_zero": f1_score(y[some] > 0, p[some] > 0, average="weighted"),
        "accuracy7": (np.round(np.clip(p, -3, 3)) == np.round(np.clip(y, -3, 3))).mean(),
        "accuracy5": (np.round(np.clip(p, -2, 2)) == np.round(np.clip(y, -2, 2))).mean(),
    }
    assert found == {n: pytest.approx(v, abs=1e-5) for n, v in expected.items()}


def test_sentiment_by_hand() -> None:
    pytest.importorskip("torchmetrics")
    task = Regression(sentiment=True)
    found = task.metrics()(torch.tensor([0.4, -0.6, 2.6, 5.0]), torch.tensor([0.0, 0.2, 2.0, 3.0]))
    assert {n: round(float(found[n]), 4) for n in ("accuracy2_with_zero", "accuracy2_without_zero", "accuracy5",
                                                   "accuracy7")} == {
        "accuracy2_with_zero": 0.75,  # all but the second
        "accuracy2_without_zero": 0.6667,  # the first is left out
        "accuracy5": 0.75,  # 0, -1 for 0, 2, 2
        "accuracy7": 0.5,  # 0, -1 for 0, 3 for 2, 3
    }  # fmt: skip


def test_correlation_of_a_constant_is_zero() -> None:
    pytest.importorskip("torchmetrics")
    assert float(Regression().metrics()(torch.ones(5), torch.arange(5.0))["pearson"]) == 0.0
    y = torch.arange(5.0)
    two = Regression(2).metrics()(torch.stack([y, torch.ones(5)], 1), torch.stack([y, y], 1))
    assert float(two["pearson"]) == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("size", "options", "target", "found"),
    [
        (1, {}, torch.tensor([0.0, math.nan, 1.0]), r"\[nan\] in rows \[1\]"),
        (1, {}, torch.tensor([0.0, math.inf]), r"\[inf\] in rows \[1\]"),
        (1, {"sentiment": True}, torch.tensor([0.0, 3.5]), r"in \[-3.0, 3.0\]. Found \[3.5\] in rows \[1\]"),
        (1, {"limits": (0.0, 1.0)}, torch.tensor([-0.1]), r"\[0.0, 1.0\]"),
        (2, {}, torch.zeros(3), r"finite numbers \(B, 2\). Found torch.float32 \(3,\)"),
        (1, {}, torch.tensor([True, False]), "torch.bool"),
        (1, {}, torch.zeros(3, 1, 1), r"\(3, 1, 1\)"),
    ],
)
def test_bad_targets(size: int, options: dict[str, Any], target: Any, found: str) -> None:
    with pytest.raises(TargetError, match=found):
        Regression(size, **options).check_target(target)


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        ({"size": 0}, "size"),
        ({"size": True}, "size"),
        ({"loss": "l2"}, "loss"),
        ({"delta": 0.0}, "delta"),
        ({"delta": math.nan}, "delta"),
        ({"limits": (1.0, 0.0)}, "limits"),
        ({"size": 2, "sentiment": True}, "sentiment"),
    ],
)
def test_bad_arguments(arguments: dict[str, Any], name: str) -> None:
    with pytest.raises(TargetError, match=f"`{name}`"):
        Regression(**arguments)


def test_the_logarithm_of_a_target_is_learnt_and_scores_are_of_the_target() -> None:
    """Targets 1 and e^2 are 0 and 2 of a logarithm; predicted 0 and 1 in deviations of 2 from 0 mean 1 and e^2."""
    task = Regression(deviation=2.0, log=True)
    target = torch.tensor([1.0, math.exp(3.0)])
    output = torch.tensor([[0.0], [1.0]])
    torch.testing.assert_close(task.probabilities(output), torch.tensor([1.0, math.exp(2.0)]))
    assert float(task.loss(output, target)) == pytest.approx(0.25, rel=1e-6)  # (0 + |1 - 1.5|) / 2
    assert float(task.score(output, target)) == pytest.approx(-(math.exp(3.0) - math.exp(2.0)) / 2, rel=1e-6)
    assert torch.isfinite(task.probabilities(torch.full((1, 1), 1e6))).all()
    spread = task.deviation_in_unit(torch.tensor([0.1, 0.1]), task.probabilities(output))
    torch.testing.assert_close(spread, 0.2 * torch.tensor([1.0, math.exp(2.0)]))
    task.check_target(target)
    with pytest.raises(TargetError, match="above 0"):
        task.check_target(torch.tensor([1.0, 0.0]))
    with pytest.raises(TargetError, match="`log`"):
        Regression(sentiment=True, log=True)


def test_metrics_are_in_the_unit_of_the_target() -> None:
    pytest.importorskip("torchmetrics")
    encoder = nn.Linear(1, 1, bias=False)
    nn.init.ones_(encoder.weight)
    head = nn.Linear(1, 1, bias=False)
    nn.init.ones_(head.weight)
    model = MultimodalModel({"a": encoder}, Concat({"a": 1}), head)
    method = Joint(model, Regression(mean=10.0, deviation=2.0))
    batch = Batch({"a": torch.tensor([[0.0], [1.0]])}, torch.tensor([8.0, 14.0]))
    found = evaluate(method, [batch], metrics=True)
    assert found.score == -2.0
    assert found.metrics["mae"] == 2.0
