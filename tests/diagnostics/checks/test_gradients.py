"""Checks that take gradients and steps, on models whose gradients are known."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import nn

from equimodal import Batch, Classification, MultimodalModel
from equimodal.diagnostics.checks import NotApplicable, NotMeasured, Subject
from equimodal.fusion import Concat, Sum
from equimodal.methods import Joint
from equimodal.methods.parts import scale_encoders
from tests.diagnostics.checks.constructed import data, identity, labels, run, subject, told


class Halved(Joint):
    """Joint training that halves the gradient, or the update, of one encoder."""

    apply_to: Any = "gradient"

    def modify_gradients(self, phase: Any, descent: Any, engine: Any, report: Any) -> Any:
        factors = {"a": torch.tensor(0.5), "b": torch.tensor(1.0)}
        return scale_encoders(self, engine, report, factors, self.apply_to)


def halved(apply_to: str) -> Halved:
    method = Halved(told().model, Classification(3))
    method.apply_to = apply_to
    return method


def adam(groups: Any) -> torch.optim.Optimizer:
    return torch.optim.Adam(groups, lr=1e-3)


def sgd(groups: Any) -> torch.optim.Optimizer:
    return torch.optim.SGD(groups, lr=1e-3)


@pytest.mark.filterwarnings("ignore:apply_to='gradient'")
def test_adam_cancels_a_factor_on_the_gradient() -> None:
    parts = data(a=(labels(192) + 1) % 3)  # losses that are not 0
    (found,) = run("EQ006", subject(halved("gradient"), parts, optimizer=adam))
    assert (found.where, found.severity) == ("a", "error")
    assert found.number == pytest.approx(0, abs=0.02)
    method = halved("gradient")
    used = torch.optim.AdamW(method.parameter_groups(), lr=1e-3)
    assert len(run("EQ006", subject(method, parts, optimizer=used))) == 1


@pytest.mark.parametrize(("apply_to", "optimizer"), [("gradient", sgd), ("update", adam), ("auto", adam)])
def test_a_factor_that_arrives_is_not_told(apply_to: str, optimizer: Any) -> None:
    parts = data(a=(labels(192) + 1) % 3)
    assert run("EQ006", subject(halved(apply_to), parts, optimizer=optimizer)) == []
    assert run("EQ006", subject(halved(apply_to), parts, optimizer=optimizer), arriving=0.99) == []  # all of it


def test_scaling_needs_an_optimizer_and_a_method_that_scales() -> None:
    with pytest.raises(NotMeasured, match="optimizer="):
        run("EQ006", subject(halved("gradient")))
    with pytest.raises(NotApplicable):
        run("EQ006", subject(told(), optimizer=sgd))
    with pytest.raises(NotMeasured, match="none of them"):
        run("EQ006", subject(halved("gradient"), optimizer=sgd([nn.Parameter(torch.zeros(1))])))


class Detached(nn.Module):
    """An encoder whose output has no graph."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.out_features = identity(3), 3

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        output: torch.Tensor = self.layer(x)
        return output.detach()


def test_an_encoder_that_is_cut_off_gets_no_gradient() -> None:
    model = MultimodalModel({"a": identity(3), "b": Detached()}, Concat({"a": 3, "b": 3}), nn.Linear(6, 3))
    (found,) = run("EQ007", subject(Joint(model, Classification(3))))
    assert (found.number, found.where, found.severity) == (0.0, "b", "error")
    assert run("EQ007", subject(told())) == []


def test_a_frozen_encoder_is_a_note() -> None:
    method = told()
    for parameter in method.multimodal.parameters_of("b"):
        parameter.requires_grad_(False)
    (found,) = run("EQ007", subject(method))
    assert (found.severity, found.where) == ("note", "b")
    assert "frozen" in found.reason
    with pytest.raises(NotMeasured, match="fast"):
        run("EQ007", subject(method, fast=True))


def ones(model: nn.Module, values: Sequence[float], batches: int = 8) -> Subject:
    """Batches of ten samples, three of class 1, with the same input everywhere."""
    target = torch.tensor([1] * 3 + [0] * 7)
    inputs = {m: torch.full((10, 1), v) for m, v in zip("ab", values, strict=True)}
    return subject(Joint(model, Classification(2), unimodal="masked"), {"train": [Batch(inputs, target)] * batches})


def summed(first: float) -> MultimodalModel:
    """The logit of class 1 is the sum of both features; that of ``a`` is ``first``, that of ``b`` is 0."""
    encoders = {m: nn.Linear(1, 1, bias=False) for m in "ab"}
    encoders["a"].weight.data.fill_(first)
    encoders["b"].weight.data.fill_(0.0)
    head = nn.Linear(2, 2, bias=False)
    head.weight.data = torch.tensor([[0.0, 0.0], [1.0, 1.0]])
    return MultimodalModel(encoders, Concat({"a": 1, "b": 1}), head)


def test_a_joint_loss_that_pulls_an_encoder_the_other_way_is_a_conflict() -> None:
    # three in ten are of class 1: b alone says a half and wants less, the joint head says 0.1 and wants more
    (found,) = run("EQ012", ones(summed(-2.2), (1.0, 1.0)))
    assert (found.number, found.where) == (1.0, "b")
    assert "mean cosine -1.00" in found.reason
    assert run("EQ012", ones(summed(0.0), (1.0, 1.0))) == []
    with pytest.raises(NotMeasured, match="5 training batches"):
        run("EQ012", ones(summed(-2.2), (1.0, 1.0), batches=4))


def test_a_head_that_two_modalities_pull_apart_is_a_conflict() -> None:
    def shared() -> MultimodalModel:
        return MultimodalModel({m: identity(1) for m in "ab"}, Sum({"a": 1, "b": 1}), zero_head())

    def zero_head() -> nn.Linear:
        head = nn.Linear(1, 2, bias=False)
        head.weight.data.zero_()
        return head

    (found,) = run("EQ012", ones(shared(), (1.0, -1.0)))
    assert (found.number, found.where) == (1.0, "a, b")
    assert run("EQ012", ones(shared(), (1.0, 1.0))) == []


def test_the_encoder_that_the_loss_hangs_on_is_sharper() -> None:
    parts = data(samples=320, a=(labels(320) + 1) % 3, b=(labels(320) + 2) % 3)
    (found,) = run("EQ015", subject(told((1.0, 0.02)), parts))
    assert (found.where, found.severity) == ("a, b", "note")
    # to first order the loss grows by radius |weights| |gradient|, and the gradients are as 1 to 0.02
    assert found.number == pytest.approx(50, rel=0.25)
    assert run("EQ015", subject(told((1.0, 1.0)), parts)) == []
    assert run("EQ015", subject(told((1.0, 0.02)), data(samples=320))) == []  # both are flat: nothing is wrong
    assert math.isfinite(found.interval[1]) if found.interval else False
