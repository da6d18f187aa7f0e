"""Checks of outputs and subsets, on logits that are made by hand."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from equimodal import Batch, Classification, MultimodalModel, Regression
from equimodal.diagnostics.checks import NotApplicable, NotMeasured, Records, Subject
from equimodal.fusion import Concat
from equimodal.methods import Joint
from tests.diagnostics.checks.constructed import batches, data, identity, labels, logits, run, subject, told


def test_a_modality_that_moves_no_prediction_has_no_weight() -> None:
    (found,) = run("EQ010", subject(told((1.0, 0.0))))
    assert (found.where, found.number) == ("b", 0.0)
    assert run("EQ010", subject(told((0.5, 0.5)))) == []


def test_how_far_a_prediction_moves_is_half_the_sum_of_changes() -> None:
    target = torch.tensor([0, 1])
    inputs = {"a": torch.zeros(2, 3), "b": math.log(2) * nn.functional.one_hot(target, 3).float()}
    # without b the three probabilities are 1/3; with it 1/2, 1/4, 1/4: a sixth moves
    judged = subject(told(), {"test": batches(target, inputs)})
    found = {f.where: f.number for f in run("EQ010", judged, weight=0.99)}
    assert found == {"a": 0.0, "b": pytest.approx(1 / 6)}


def test_absent_modalities_are_not_counted_as_unused() -> None:
    target = torch.tensor([0, 1, 2])
    inputs = {"a": torch.zeros(3, 3), "b": math.log(2) * nn.functional.one_hot(target, 3).float()}
    judged = subject(told(), {"test": batches(target, inputs, b=torch.tensor([True, False, True]))})
    found = {f.where: f.number for f in run("EQ010", judged, weight=0.99)}
    assert found["b"] == pytest.approx(1 / 6)


def test_the_weights_of_a_fitted_rule_are_read_from_records() -> None:
    def of(**weights: float) -> Subject:
        return Subject("run", records=Records(weights=[weights], modalities=("a", "b"), trained=("a", "b")))

    (found,) = run("EQ010", of(a=0.998, b=0.002))
    assert (found.where, found.number) == ("b", 0.002)
    assert run("EQ010", of(**{"a": 0.5, "b": 0.002, "(joint)": 0.498})) == []
    with pytest.raises(NotMeasured, match="model"):
        run("EQ010", of())


def test_an_output_that_is_surer_than_right_is_told_with_the_gap() -> None:
    target = labels(192)
    half = torch.where(torch.arange(192) % 2 == 0, target, (target + 1) % 3)
    found = {f.where: f for f in run("EQ011", subject(told(), data(a=half, b=half)))}
    assert set(found) == {"prediction", "a", "b"}
    sure = 1 / (1 + 2 * math.exp(-4.0))  # of logits 4, 0, 0
    assert found["a"].number == pytest.approx(sure - 0.5, abs=1e-3)
    assert "50.0 % right" in found["a"].reason
    assert run("EQ011", subject(told())) == []


def test_confidence_is_about_classes() -> None:
    with pytest.raises(NotApplicable):
        run("EQ011", subject(number(1.0), {"test": numbers()}))


def test_a_class_that_is_never_predicted_is_named() -> None:
    (found,) = run("EQ018", subject(told(bias=(0.0, 0.0, -20.0))))
    assert (found.number, found.severity) == (1.0, "warning")
    assert "Never predicted: 2; 64 samples" in found.reason
    (constant,) = run("EQ018", subject(told(bias=(90.0, 0.0, 0.0))))
    assert (constant.number, constant.severity, constant.title) == (2.0, "error", "Every prediction is the same class")
    assert run("EQ018", subject(told())) == []


def number(weight: float) -> Joint:
    head = nn.Linear(2, 1, bias=False)
    head.weight.data = torch.tensor([[weight, 0.0]])
    model = MultimodalModel({m: identity(1) for m in "ab"}, Concat({"a": 1, "b": 1}), head)
    return Joint(model, Regression())


def numbers() -> list[Batch]:
    y = torch.linspace(-1, 1, 64)
    return [Batch(dict.fromkeys("ab", y[:, None]), y[:, None])]


def test_numbers_that_hardly_differ_are_constant() -> None:
    (found,) = run("EQ018", subject(number(0.01), {"test": numbers()}))
    assert found.number == pytest.approx(0.01, rel=1e-3)
    assert found.severity == "error"
    assert run("EQ018", subject(number(1.0), {"test": numbers()})) == []


# ---- subsets ---------------------------------------------------------------------------------------------------------


def test_a_modality_with_the_whole_shapley_share_carries_the_score() -> None:
    (found,) = run("EQ017", subject(told((1.0, 0.0))))
    assert found.where == "a"
    assert found.number == pytest.approx(1.0)
    assert found.interval is not None
    assert 0.9 < found.interval[0] < 1 < found.interval[1]
    assert run("EQ017", subject(told((1.0, 1.0)))) == []
    with pytest.raises(NotApplicable, match="gains"):
        run("EQ017", subject(told((0.0, 0.0))))


def test_one_perfect_modality_beside_useless_ones_may_be_a_leak() -> None:
    parts = data(samples=600, b=(labels(600) * 0))
    (found,) = run("EQ019", subject(told(), parts))
    assert (found.where, found.number) == ("a", 1.0)
    assert run("EQ019", subject(told(), data(samples=600))) == []  # both perfect: an easy task
    assert run("EQ019", subject(told(), data(samples=60, b=(labels(60) * 0)))) == []  # too few to say "perfect"


class Product(nn.Module):
    """Class 1 where two signs differ; 0 of either says nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, x: Tensor) -> Tensor:
        product = self.scale * x[:, 0] * x[:, 1]
        return torch.stack([product, -product], 1)


def test_what_only_all_modalities_reach_is_a_note() -> None:
    model = MultimodalModel({m: identity(1) for m in "ab"}, Concat({"a": 1, "b": 1}), Product())
    signs = torch.tensor([[1.0, 1.0], [1.0, -1.0], [-1.0, 1.0], [-1.0, -1.0]]).repeat(50, 1)
    target = (signs.prod(1) < 0).long()
    parts: dict[str, Any] = {"test": batches(target, {"a": signs[:, :1], "b": signs[:, 1:]})}
    (found,) = run("EQ020", subject(Joint(model, Classification(2)), parts))
    assert found.severity == "note"
    assert found.number == pytest.approx(0.5)  # without one: class 0, right for a half
    assert run("EQ020", subject(told())) == []


def test_the_shares_of_a_constructed_game_are_shapleys() -> None:
    """a alone: everything; b alone: half; together everything. From 1/3: shares (2/3 + (1 - 1/2)) / 2 and the rest."""
    target = labels(192)
    half = torch.where(torch.arange(192) % 2 == 0, target, (target + 1) % 3)
    parts = {"test": batches(target, {"a": logits(target, 8.0), "b": logits(half, 4.0, seed=1)})}
    (found,) = run("EQ017", subject(told(), parts), share=0.1)
    a = ((1 - 1 / 3) + (1 - 1 / 2)) / 2
    assert found.number == pytest.approx(a / (1 - 1 / 3))
