"""Scores of constructed models, whose answers are known."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from equimodal import Batch, Classification, MultimodalModel
from equimodal.diagnostics import collect, evaluate, rule_outcomes, rule_scores, subset_scores
from equimodal.errors import BatchError
from equimodal.fusion import Concat
from equimodal.methods import Ensemble, Joint, Unimodal


def identity(classes: int) -> nn.Linear:
    layer = nn.Linear(classes, classes)
    nn.init.eye_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer


def ensemble(modalities: str = "ab", classes: int = 3, **options: Any) -> Ensemble:
    """Every modality's input is its logits."""
    encoders = {m: identity(classes) for m in modalities}
    model = MultimodalModel(
        encoders, Concat(dict.fromkeys(encoders, classes)), nn.Linear(classes * len(encoders), classes)
    )
    heads = {m: identity(classes) for m in modalities}
    return Ensemble(model, Classification(classes), heads=heads, **options)


def votes(labels: list[int], strength: float, classes: int = 3) -> Tensor:
    return strength * nn.functional.one_hot(torch.tensor(labels), classes).float()


TARGET = torch.tensor([0, 1, 2, 0])
SURE = votes([0, 1, 2, 1], 8.0)  # right, right, right, wrong
VAGUE = votes([0, 2, 1, 0], 1.0)  # right, wrong, wrong, right


def batch(**present: list[bool]) -> Batch:
    masks = {m: torch.tensor(p) for m, p in present.items()} or None
    return Batch({"a": SURE, "b": VAGUE}, TARGET, masks)


def test_scores_by_hand() -> None:
    found = evaluate(ensemble(), [batch()])
    assert found.unimodal == {"a": 0.75, "b": 0.5}
    assert found.score == 0.75  # the sure one decides
    assert found.samples == 4
    assert found.rule == "mean"
    p = (SURE.softmax(1) + VAGUE.softmax(1)) / 2
    assert found.loss == pytest.approx(float(-p[torch.arange(4), TARGET].log().mean()), rel=1e-5)


def test_batches_do_not_matter_and_the_model_is_left_alone() -> None:
    method = ensemble().train()
    method.model.eval()
    whole = batch()
    parts = [Batch({m: x[i : i + 1] for m, x in whole.inputs.items()}, TARGET[i : i + 1]) for i in range(4)]
    assert evaluate(method, parts) == evaluate(method, [whole])
    assert method.training
    assert not method.model.training


def test_absent_samples_do_not_count_for_their_modality() -> None:
    spoilt = torch.where(torch.tensor([[True], [True], [True], [False]]), SURE, torch.full_like(SURE, float("nan")))
    found = evaluate(ensemble(), [Batch({"a": spoilt, "b": VAGUE}, TARGET, {"a": torch.tensor([1, 1, 1, 0]).bool()})])
    assert found.unimodal == {"a": 1.0, "b": 0.5}
    assert found.score == 1.0  # the last sample is decided by b alone, which is right


def test_metrics_of_the_task() -> None:
    pytest.importorskip("torchmetrics")
    found = evaluate(ensemble(), [batch()], metrics=True)
    assert found.metrics["accuracy"] == pytest.approx(0.75)
    # classes 0, 1, 2: F1 2/3, 2/3, 1
    assert found.metrics["macro_f1"] == pytest.approx((2 / 3 + 2 / 3 + 1) / 3)


def test_no_batches_are_refused() -> None:
    with pytest.raises(BatchError, match="at least one batch"):
        evaluate(ensemble(), [])


def test_every_subset_of_three_modalities() -> None:
    method = ensemble("abc")
    third = votes([2, 2, 2, 2], 20.0)
    found = subset_scores(method, [Batch({"a": SURE, "b": VAGUE, "c": third}, TARGET)])
    assert found == {
        ("a",): 0.75, ("b",): 0.5, ("c",): 0.25, ("a", "b"): 0.75, ("a", "c"): 0.25, ("b", "c"): 0.25,
        ("a", "b", "c"): 0.25,
    } | {k: found[k] for k in (("a", "c"), ("a", "b", "c"))}  # fmt: skip
    # p_c is certain of class 2; the sum with a certain a is a tie up to rounding, so only bounds hold there
    assert all(0.25 <= (found[k] or 0.0) <= 0.75 for k in (("a", "c"), ("a", "b", "c")))
    assert len(found) == 7


def test_a_subset_counts_only_the_samples_that_have_some_of_it() -> None:
    found = subset_scores(ensemble(), [batch(a=[True, True, True, False], b=[False, True, True, True])])
    assert found[("a",)] == 1.0  # three samples, all right
    assert found[("b",)] == pytest.approx(1 / 3)  # wrong, wrong, right
    assert found[("a", "b")] == 1.0


def test_a_subset_that_no_sample_of_a_batch_has() -> None:
    first = Batch({"a": SURE[:2], "b": VAGUE[:2]}, TARGET[:2], {"a": torch.tensor([False, False])})
    second = Batch({"a": SURE[2:], "b": VAGUE[2:]}, TARGET[2:])
    assert subset_scores(ensemble(), [first, second])[("a",)] == 0.5


def test_the_joint_model_is_read_with_absent_modalities_as_declared_by_its_fusion() -> None:
    encoders = {"a": identity(3), "b": identity(3)}
    head = nn.Linear(6, 3, bias=False)
    with torch.no_grad():
        head.weight.copy_(torch.cat([torch.eye(3), torch.eye(3)], 1))
    method = Joint(MultimodalModel(encoders, Concat({"a": 3, "b": 3}), head), Classification(3))
    assert subset_scores(method, [batch()]) == {("a",): 0.75, ("b",): 0.5, ("a", "b"): 0.75}


def test_rules_by_hand() -> None:
    method = ensemble()
    target = torch.tensor([0, 1])
    # sample 0: a says 1 with p = 0.6, b says 0 with certainty; sample 1: both right
    a = torch.tensor([[0.4, 0.6, 1e-9], [0.1, 0.8, 0.1]]).log()
    b = torch.tensor([[1 - 2e-9, 1e-9, 1e-9], [0.3, 0.4, 0.3]]).log()
    data = [Batch({"a": a, "b": b}, target)]
    found = rule_scores(method, data, data)
    pooled = {f"{r}{t}" for r in ("mean", "uncertainty", "product") for t in ("", "+temperature")}
    assert set(found) == pooled | {"skill", "alone:a", "alone:b"}
    assert found["alone:a"] == {"validation": 0.5, "test": 0.5}
    for rule in ("mean", "uncertainty", "product"):
        assert found[rule] == {"validation": 1.0, "test": 1.0}
    # an overconfident wrong b wins the product and the uncertainty rule, not the mean
    other = torch.tensor([[0.98, 0.01, 0.01]]).log()
    wrong = torch.tensor([[1e-12, 0.5, 0.5]]).log()
    test = [Batch({"a": other, "b": wrong}, torch.tensor([0]))]
    scores = rule_scores(method, data, test)
    assert scores["mean"]["test"] == 1.0
    assert scores["product"]["test"] == 0.0
    assert math.isclose(scores["uncertainty"]["validation"], 1.0)


def test_rules_of_a_method_that_has_a_joint_head_only() -> None:
    encoders = {"a": identity(3), "b": identity(3)}
    head = nn.Sequential(nn.Linear(6, 4), nn.Tanh(), nn.Linear(4, 3))
    method = Joint(MultimodalModel(encoders, Concat({"a": 3, "b": 3}), head), Classification(3))
    assert set(rule_scores(method, [batch()], [batch()])) == {"fused", "skill"}


def test_one_modality_alone() -> None:
    encoders = {"a": identity(3), "b": identity(3)}
    model = MultimodalModel(encoders, Concat({"a": 3, "b": 3}), nn.Linear(6, 3))
    method = Unimodal(model, Classification(3), modality="b", heads={"a": identity(3), "b": identity(3)})
    found = evaluate(method, [batch()])
    assert found.unimodal == {"b": 0.5}
    assert found.score == 0.5


@pytest.mark.parametrize("whole_first", [True, False])
def test_a_batch_without_a_modality_is_one_whose_samples_lack_it(whole_first: bool) -> None:
    method = ensemble()
    inputs = {"a": votes([0, 1, 2, 1], 5.0), "b": votes([0, 2, 2, 0], 3.0)}
    lacking = {"a": inputs["a"]}
    pairs = [Batch(inputs, TARGET), Batch(lacking, TARGET)]
    masked = Batch({**inputs}, TARGET, {"b": torch.zeros(4, dtype=torch.bool)})
    found = evaluate(method, pairs if whole_first else pairs[::-1])
    assert found == evaluate(method, [pairs[0], masked] if whole_first else [masked, pairs[0]])
    assert found.counts == {"a": 8, "b": 4}


def summed(unimodal: Any, present: Any, fused: Any, distribution: Any) -> tuple[Tensor, dict[str, Tensor]]:
    """A rule of the user's: the sum of the logits."""
    return torch.stack(list(unimodal.values())).sum(0), {}


class Counted:
    """Batches that say how often they were passed over."""

    def __init__(self, batches: list[Batch]) -> None:
        self.batches, self.passes = batches, 0

    def __iter__(self) -> Iterator[Batch]:
        self.passes += 1
        return iter(self.batches)


@pytest.mark.parametrize("inference", ["mean", summed])
def test_rules_are_read_off_outputs_that_are_there(inference: Any) -> None:
    """Bit by bit what passes of their own give, without reading the test samples again."""
    method = ensemble(inference=inference)
    g = torch.Generator().manual_seed(0)
    parts = [
        Counted([Batch({m: torch.randn(9, 3, generator=g) for m in "ab"}, torch.arange(9) % 3) for _ in range(3)])
        for _ in range(2)
    ]
    own = rule_outcomes(method, parts[0], parts[1])
    seen, found = (collect(method, part) for part in parts)
    before = [part.passes for part in parts]
    shared = rule_outcomes(method, parts[0], found, seen)
    assert [part.passes for part in parts] == [before[0] + 1, before[1]]
    assert own.keys() == shared.keys()
    for rule, (score, outcomes) in own.items():
        assert score == shared[rule][0], rule
        for name in ("numerator", "denominator"):
            assert np.array_equal(getattr(outcomes, name), getattr(shared[rule][1], name)), rule
