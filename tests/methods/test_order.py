"""The order of turns: by last scores, weakest or strongest first, for the methods whose modalities alternate."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from equimodal import PlainEngine
from equimodal.errors import MethodError
from equimodal.methods import MIE, MLA, EpochContext
from equimodal.methods.parts import EpochScores
from tests.helpers import assert_identical, make_batch, make_method, sgd, weights
from tests.methods.affine import INPUTS, batch_of, make


def terms(numerator: float, denominator: float) -> dict[str, Tensor]:
    return {"numerator": torch.tensor([numerator]).double(), "denominator": torch.tensor([denominator]).double()}


def test_scores_are_pooled_and_kept() -> None:
    scores = EpochScores(["a", "b", "c"], 1, torch.zeros((), dtype=torch.float64))
    assert scores.order("weak_first") == ["a", "b", "c"]  # nothing is known
    scores.add("a", terms(1, 2))
    scores.add("a", terms(5, 6))
    scores.add("b", terms(1, 8))
    scores.add("c", {})  # of a process without a sample
    assert scores.end_epoch()[:2] == [0.75, 0.125]
    assert scores.last[2] is None
    assert scores.order("weak_first") == ["a", "b", "c"]  # one is not known
    scores.add("c", terms(1, 2))
    assert scores.end_epoch() == [0.75, 0.125, 0.5]  # the others' last ones
    assert scores.order("weak_first") == ["b", "c", "a"]
    assert scores.order("strong_first") == ["a", "c", "b"]
    other = EpochScores(["a", "b", "c"], 1, torch.zeros((), dtype=torch.float64))
    other.load_state_dict(scores.state_dict())
    assert other.order("weak_first") == ["b", "c", "a"]


@pytest.mark.parametrize("rule", ["weak_first", "strong_first"])
def test_equal_scores_have_the_order_of_the_encoders(rule: str) -> None:
    scores = EpochScores(["a", "b", "c"], 1, torch.zeros((), dtype=torch.float64))
    for m, right in (("a", 3), ("b", 1), ("c", 3)):
        scores.add(m, terms(right, 4))
    scores.end_epoch()
    assert scores.order(rule) == (["b", "a", "c"] if rule == "weak_first" else ["a", "c", "b"])


@pytest.mark.parametrize("name", ["MLA", "MIE"])
@pytest.mark.parametrize(("rule", "sign"), [("weak_first", 1), ("strong_first", -1)])
def test_turns_follow_the_scores_of_the_last_epoch(name: str, rule: str, sign: int) -> None:
    """The scores are the accuracies that the reports of the epoch have, by the samples of each batch."""
    method = make({"MLA": MLA, "MIE": MIE}[name], 3, order=rule)
    names, data = list(INPUTS), [batch_of(3, seed) for seed in range(3)]
    engine = PlainEngine(torch.optim.SGD(method.parameters(), lr=0.3))
    expected, changed = names, 0
    for epoch in range(6):
        method.on_train_epoch_start(EpochContext(epoch, 6, len(data), data, engine))
        right, seen = dict.fromkeys(names, 0.0), dict.fromkeys(names, 0.0)
        for batch in data:
            report = method.training_step(batch, engine)
            assert report.phases == expected
            for m in names:
                right[m] += float(report.scores[m]) * batch.count(m)
                seen[m] += batch.count(m)
        method.on_train_epoch_end(EpochContext(epoch, 6))
        ranked = sorted(names, key=lambda m: sign * round(right[m] / seen[m], 9))
        changed += ranked != expected
        expected = ranked
    assert changed > 0


@pytest.mark.parametrize("alternate", ["epoch", "stage"])
def test_turns_of_epochs_and_stages_change_after_a_whole_cycle(alternate: str) -> None:
    options: dict[str, Any] = {"alternate": alternate, "stage_epochs": (1,), "sam": None, "projection": False}
    method = make(MIE, 3, order="weak_first", **options)
    names, batch = list(INPUTS), batch_of(3)
    engine = PlainEngine(torch.optim.SGD(method.parameters(), lr=0.2))
    seen: list[list[str]] = []
    scores: dict[str, float] = {}
    expected = names
    for epoch in range(9):
        if epoch % 3 == 0:
            expected = sorted(names, key=lambda m: scores[m]) if scores else names
            seen.append(expected)
        method.on_train_epoch_start(EpochContext(epoch, 9, 1, [batch], engine))
        report = method.training_step(batch, engine)
        assert report.phases == [expected[epoch % 3]]
        scores[report.phases[0]] = float(report.scores[report.phases[0]])
        method.on_train_epoch_end(EpochContext(epoch, 9))
        method.on_validation_end(0.0)
    assert seen[1] != names or seen[2] != names


def test_a_fixed_order_costs_nothing_and_has_the_state_of_before() -> None:
    fixed, ranked = make_method("MLA", 3), make_method("MLA", 3, order="weak_first")
    assert not any("scores" in n for n in fixed.state_dict())
    for method in (fixed, ranked):  # in epoch 0 nothing is known, so both take the same steps
        engine = sgd(method)
        method.on_train_epoch_start(EpochContext(0, steps=1))
        method.training_step(make_batch(3), engine)
    assert_identical(weights(fixed), {n: t for n, t in weights(ranked).items() if not n.startswith("scores.")})


def test_an_unknown_order_is_refused() -> None:
    with pytest.raises(MethodError, match="`order`"):
        make(MLA, 2, order="weakest")
    with pytest.raises(MethodError, match="`order`"):
        make(MIE, 2, order="shuffled")
