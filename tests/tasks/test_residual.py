"""What holds for every task: residuals against autograd, additive scores, loss terms, the protocol."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from equimodal.errors import TargetError
from equimodal.tasks import (
    Classification,
    MultiLabel,
    Regression,
    Segmentation,
    Task,
    distribution_of,
    mean_ratio,
    score,
)
from tests.task_helpers import TASKS, make_output, make_target, spatial_of

MORE: dict[str, Any] = {
    **TASKS,
    "smoothed": lambda: Classification(4, class_weight=[1.0, 2.0, 3.0, 4.0], label_smoothing=0.2),
    "labels": lambda: MultiLabel(5),
    "huber, wide": lambda: Regression(3, loss="huber", delta=2.0),
    "gaussian, one": lambda: Regression(loss="gaussian_nll"),
    "cross-entropy": lambda: Segmentation(3, dice_weight=0.0, class_weight=[0.2, 0.3, 0.5]),
    "dice": lambda: Segmentation(3, dice_weight=1.0, background=None),
    "dice per sample": lambda: Segmentation(3, dice_weight=1.0, batch_dice=False, ignore_index=255),
}  # fmt: skip
every_task = pytest.mark.parametrize("name", list(MORE))


@every_task
def test_it_is_a_task(name: str) -> None:
    task = MORE[name]()
    assert isinstance(task, Task)
    assert task.outputs >= 1
    assert distribution_of(task) in ("categorical", "bernoulli", "gaussian", "point")
    assert repr(task)


@every_task
@pytest.mark.parametrize("scale", [0.3, 5.0])
def test_residual_is_the_gradient_of_the_loss(name: str, scale: float) -> None:
    task = MORE[name]()
    z = (scale * make_output(task, 7, spatial=spatial_of(name))).requires_grad_()
    y = make_target(task, 7, spatial=spatial_of(name))
    (expected,) = torch.autograd.grad(task.loss(z, y), z)
    residual = task.residual(z, y)
    assert residual.shape == z.shape
    assert float(expected.abs().max()) > 1e-4
    assert (residual - expected).abs().max() < 1e-10


@every_task
def test_residual_is_differentiable(name: str) -> None:
    """Its own derivative is the loss's second one: what CGGM's direction term needs."""
    task = MORE[name]()
    z = make_output(task, 4, spatial=spatial_of(name)).requires_grad_()
    y = make_target(task, 4, spatial=spatial_of(name))
    v = make_output(task, 4, seed=5, spatial=spatial_of(name))
    (g,) = torch.autograd.grad(task.loss(z, y), z, create_graph=True)
    (residual_slope,) = torch.autograd.grad((task.residual(z, y) * v).sum(), z, allow_unused=True)
    if not g.requires_grad:  # l1: the gradient is a constant
        assert residual_slope is None or not residual_slope.any()
        return
    (expected,) = torch.autograd.grad((g * v).sum(), z)
    assert (residual_slope - expected).abs().max() < 1e-10


@every_task
def test_terms_sum_to_the_loss(name: str) -> None:
    task = MORE[name]()
    z, y = make_output(task, 6, spatial=spatial_of(name)), make_target(task, 6, spatial=spatial_of(name))
    if not hasattr(task, "loss_terms"):
        return
    assert float(task.loss_terms(z, y).sum()) == pytest.approx(float(task.loss(z, y)), rel=1e-14)
    weights = task.loss_weights(y)
    if weights is None:
        return
    assert weights.shape == task.loss_terms(z, y).shape
    parts = [task.loss_weights(y[:2]), task.loss_weights(y[2:])]
    assert torch.allclose(weights, parts[0] + parts[1], rtol=1e-14)
    assert not task.loss_weights(y[:0]).any()


@every_task
def test_score_is_additive_over_samples(name: str) -> None:
    task = MORE[name]()
    z, y = make_output(task, 9, spatial=spatial_of(name)), make_target(task, 9, spatial=spatial_of(name))
    whole = task.score_terms(z, y)
    parts = [task.score_terms(z[:4], y[:4]), task.score_terms(z[4:], y[4:])]
    for k in (0, 1):
        assert whole[k].shape == (task.score_size,)
        assert torch.allclose(whole[k], parts[0][k] + parts[1][k], rtol=1e-6)
    assert float(task.score(z, y)) == float(score(task, z, y)) == float(mean_ratio(*whole))


@every_task
def test_the_main_metric_is_the_score(name: str) -> None:
    pytest.importorskip("torchmetrics")
    task = MORE[name]()
    metrics = task.metrics()
    for seed in range(3):  # pooled over batches of different sizes
        z = make_output(task, 5 + seed, seed, spatial_of(name))
        metrics.update(task.probabilities(z), make_target(task, 5 + seed, seed, spatial_of(name)))
    terms = [
        task.score_terms(make_output(task, 5 + s, s, spatial_of(name)), make_target(task, 5 + s, s, spatial_of(name)))
        for s in range(3)
    ]
    pooled = float(mean_ratio(sum(t[0] for t in terms), sum(t[1] for t in terms)))
    found = {n: float(v) for n, v in metrics.compute().items()}
    sign = 1 if task.higher_is_better else -1
    assert found[task.main_metric] == pytest.approx(sign * pooled, abs=1e-5)


@every_task
def test_no_target(name: str) -> None:
    task = MORE[name]()
    with pytest.raises(TargetError, match="Found None"):
        task.check_target(None)
    task.check_target(make_target(task, 3, spatial=spatial_of(name)))


def test_nothing_to_judge() -> None:
    assert torch.isnan(mean_ratio(torch.zeros(2), torch.zeros(2)))
    assert float(mean_ratio(torch.tensor([1.0, 5.0]), torch.tensor([4.0, 0.0]))) == 0.25


def test_an_unknown_distribution() -> None:
    class Odd(Classification):
        distribution = "cauchy"  # type: ignore[assignment]

    with pytest.raises(TargetError, match="cauchy"):
        distribution_of(Odd(2))
    assert distribution_of(nn.Identity()) == "categorical"  # type: ignore[arg-type]
