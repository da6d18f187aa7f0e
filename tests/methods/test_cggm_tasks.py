"""CGGM on every task: the closed-form gradient, the direction term against double backward and finite differences."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from equimodal import Batch, PlainEngine
from equimodal.errors import ModelError
from equimodal.features import Channels
from equimodal.functional import direction_loss
from equimodal.methods import CGGM, StepReport
from equimodal.methods.parts._heads import output_layer
from tests.helpers import NAMES, assert_near, sgd, split, train, weights
from tests.task_helpers import TASKS, D, task_batch, task_model

BALANCE = torch.tensor([0.9, 0.3, 0.8])
every_task = pytest.mark.parametrize("name", list(TASKS))
DENSE = ["segmentation", "regions", "volume"]


def build(name: str, count: int = 2, *, convolution: bool = False, deep: bool = False, **options: Any) -> CGGM:
    task = TASKS[name]()
    model = task_model(name, task, count, convolution=convolution, deep=deep)
    torch.manual_seed(1)
    method = CGGM(model, task, **options).double().train()
    method.progress.balance.copy_(BALANCE[:count])
    return method


def objective(method: CGGM, batch: Batch) -> dict[str, Tensor]:
    """Total loss with its graph, and the named parts."""
    found = method._objective(batch)
    return {"total": found.total, **found.losses}


def own_gradients(method: CGGM, batch: Batch) -> list[Tensor]:
    """Each classifier's gradient of its own loss, by autograd."""
    h = method.multimodal.encode(batch.inputs, batch.present)
    found = []
    for m in method.modalities:
        rows, y = batch.rows(m), batch.target
        assert y is not None
        z = method.classifiers[m](h[m].detach())
        z, y = (z, y) if rows is None else (z[rows], y[rows])
        weight = output_layer(method.classifiers[m]).weight
        found.append(torch.autograd.grad(method.task.loss(z, y), weight)[0].flatten(1))
    return found


def oracle(method: CGGM, batch: Batch, direction: str, own: list[Tensor]) -> tuple[Tensor, Tensor]:
    """Task loss and direction term, with G from ``create_graph=True``, whatever the task."""
    h = method.multimodal.encode(batch.inputs, batch.present)
    assert batch.target is not None
    loss = method.task.loss(method.multimodal.head(method.multimodal.fuse(h, batch.present)), batch.target)
    (g,) = torch.autograd.grad(loss, output_layer(method.multimodal.head).weight, create_graph=True)
    g = g.flatten(1)
    parts = [g] * len(own) if direction == "penultimate" else [g[:, i * D : (i + 1) * D] for i in range(len(own))]
    return loss, direction_loss(parts, own, method.progress.balance)


SETTINGS = [
    ("penultimate", False, False), ("penultimate", False, True), ("penultimate", True, True), ("block", False, False),
    ("block", True, False),
]  # fmt: skip


@every_task
@pytest.mark.parametrize(("direction", "convolution", "deep"), SETTINGS)
@pytest.mark.parametrize("absent", [None, math.nan])
def test_the_direction_term_against_double_backward(
    name: str, direction: Any, convolution: bool, deep: bool, absent: float | None
) -> None:
    """The value, and its gradient with respect to every parameter of the model."""
    count = 3 if deep else 2
    method = build(name, count, convolution=convolution, deep=deep, direction=direction, direction_weight=1.0)
    batch = task_batch(name, method.task, count, absent=absent)
    found = objective(method, batch)
    _, expected = oracle(method, batch, direction, own_gradients(method, batch))
    assert float(found["direction"]) == pytest.approx(float(expected.detach()), abs=1e-10)
    parameters = list(method.model.parameters())
    total = torch.autograd.grad(found["total"], parameters)
    method.direction_term.weight = 0.0
    plain = torch.autograd.grad(objective(method, batch)["total"], parameters)
    wanted = torch.autograd.grad(expected, parameters, allow_unused=True)
    largest = 0.0
    for with_term, without, w in zip(total, plain, wanted, strict=True):
        w = torch.zeros_like(without) if w is None else w
        assert (with_term - without - w).abs().max() < 1e-10
        largest = max(largest, float(w.abs().max()))
    assert largest > 1e-6  # there is something to turn


@every_task
def test_the_direction_term_against_a_finite_difference(name: str) -> None:
    method = build(name, 2, deep=True, direction_weight=1.0)
    batch = task_batch(name, method.task, 2)
    own = own_gradients(method, batch)  # constants
    parameter = method.multimodal.parameters_of(NAMES[0])[0]
    (gradient,) = torch.autograd.grad(objective(method, batch)["total"], parameter)
    way = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    values = []
    for step in (1e-6, -2e-6):
        with torch.no_grad():
            parameter.add_(step * way)
        values.append(float(sum(t.detach() for t in oracle(method, batch, "penultimate", own))))
    assert (values[0] - values[1]) / 2e-6 == pytest.approx(float((gradient * way).sum()), rel=1e-5, abs=1e-8)


@pytest.mark.parametrize("name", DENSE)
def test_a_convolution_is_the_same_as_a_linear_layer(name: str) -> None:
    """Both kinds of heads, from equal weights, train alike."""
    ends = []
    for convolution in (False, True):
        method = build(name, 2, convolution=convolution, window=1)
        source = output_layer(method.multimodal.head)
        torch.manual_seed(5)
        with torch.no_grad():
            for p in (source.weight, source.bias):
                assert p is not None
                p.copy_(torch.randn(p.numel(), dtype=torch.float64).reshape(p.shape))
        train(method, sgd(method), range(2), [task_batch(name, method.task, 2)], total=2)
        ends.append([p.detach().flatten() for p in method.model.parameters()])
    for a, b in zip(*ends, strict=True):
        assert (a - b).abs().max() < 1e-9


def test_heads_that_end_affine() -> None:
    conv = nn.Conv3d(4, 2, 1)
    assert output_layer(nn.Sequential(nn.ReLU(), nn.Sequential(conv))) is conv
    linear = nn.Linear(4, 2)
    assert output_layer(nn.Sequential(linear, Channels())) is linear
    for head in (nn.Conv2d(4, 2, 3, padding=1), nn.Conv2d(4, 2, 1, stride=2), nn.Sequential(conv, nn.Upsample(4)),
                 nn.Conv2d(4, 2, 1, groups=2)):  # fmt: skip
        with pytest.raises(ModelError, match="ends in an affine layer"):
            output_layer(head)


def test_block_refuses_a_deep_head_of_convolutions() -> None:
    with pytest.raises(ModelError, match="one linear layer or 1x1 convolution on Concat"):
        build("segmentation", convolution=True, deep=True, direction="block")


# ---- scores ---------------------------------------------------------------------------------------------------------


@every_task
def test_score_tables_have_one_column_per_class(name: str) -> None:
    method = build(name, 3, window=2)
    assert method.progress.numerators.shape == (3, method.task.score_size)
    train(method, sgd(method, lr=0.01), range(2), [task_batch(name, method.task, 3)] * 2, total=2)
    assert method.progress.seen.all()
    assert float(method.progress.balance.sum()) == pytest.approx(2.0, abs=1e-5)


def test_a_class_that_a_window_does_not_show_keeps_its_score() -> None:
    """Two regions, of which the second is in the first batch only: the improvement is that of the first alone."""
    method = build("segmentation", 2, window=1, momentum=0.0)
    batch = task_batch("segmentation", method.task, 2)
    engine = PlainEngine(torch.optim.SGD(method.parameters(), lr=0.0))
    assert batch.target is not None
    sums: dict[str, Tensor] = {}
    tables = [
        {NAMES[0]: ([1.0, 3.0], [2.0, 4.0]), NAMES[1]: ([1.0, 1.0], [4.0, 4.0])},
        {NAMES[0]: ([3.0, 0.0], [4.0, 0.0]), NAMES[1]: ([2.0, 0.0], [4.0, 0.0])},
    ]
    method.training_step(batch, engine)  # for a descent to fill in
    method.progress.seen.zero_()
    for table in tables:
        for m, (numerator, denominator) in table.items():
            sums[f"numerator/{m}"], sums[f"denominator/{m}"] = torch.tensor(numerator), torch.tensor(denominator)
        method.progress.update(sums, engine, StepReport())
    assert method.progress.score_average.tolist() == [[0.75, 0.75], [0.5, 0.25]]
    # both improved by 0.25 in what was seen
    assert method.progress.balance.tolist() == [0.5, 0.5]


def test_a_modality_absent_from_a_batch_has_no_score_in_the_report() -> None:
    method = build("classification", 3, window=1)
    batch = task_batch("classification", method.task, 3)
    gone = {NAMES[1]: torch.zeros(8, dtype=torch.bool)}
    report = method.training_step(Batch(batch.inputs, batch.target, gone), sgd(method))
    assert set(report.scores) == {NAMES[0], NAMES[2]}
    assert all(bool(torch.isfinite(v)) for v in report.scores.values())


@pytest.mark.parametrize("unit", [1.0, 1e-3, 1e4])
def test_the_balance_of_a_regression_has_no_unit(unit: float) -> None:
    """Targets, outputs and learning rate in another unit: the same balance."""
    ends = []
    for factor in (1.0, unit):
        method = build("mse", 2, window=1, momentum=0.0, floor=1e-3)
        table = (([-3.0, -1.0], [-2.0, -2.0]), ([-2.8, -0.9], [-1.2, -1.9]), ([-2.5, -1.2], [-1.1, -1.0]))
        engine = sgd(method)
        for errors in table:
            s = {f"numerator/{m}": factor * torch.tensor(e) for m, e in zip(method.modalities, errors, strict=True)}
            s |= {f"denominator/{m}": torch.full((2,), 2.0) for m in method.modalities}
            method.progress.update(s, engine, StepReport())
        ends.append(method.progress.balance.clone())
    assert torch.allclose(ends[0], ends[1], rtol=1e-4)
    assert float((ends[0][0] - ends[0][1]).abs()) > 0.1


def test_classifier_losses_of_micro_batches_are_those_of_one_batch() -> None:
    """Absent rows spread unevenly: classifiers, magnitude, direction and model end where one large batch does."""
    ends = []
    for parts in (1, 4):
        method = build("weighted", 3, window=1)
        batch = task_batch("weighted", method.task, 3, size=13, absent=math.nan)
        train(method, sgd(method), range(3), [batch if parts == 1 else split(batch, parts)], total=3)
        ends.append(weights(method))
    assert_near(ends[0], ends[1], 1e-9)
