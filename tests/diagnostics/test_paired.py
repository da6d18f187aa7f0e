"""Differences between models over the same seeds and samples."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from equimodal import Classification, MultimodalModel, Regression
from equimodal.data import load, loader
from equimodal.diagnostics import (
    Outcomes,
    average_ranks,
    evaluate,
    exchange_p,
    holm,
    paired_difference,
    sample_outcomes,
    sample_terms,
)
from equimodal.errors import MethodError
from equimodal.fusion import Concat
from equimodal.methods import MultiLoss
from equimodal.tasks import MultiLabel, Segmentation, score


def outcomes(values: Any) -> Outcomes:
    column = np.asarray(values, dtype=np.float32)[:, None]
    return Outcomes(column, np.ones_like(column))


@pytest.mark.parametrize("kind", ["classification", "regression", "multilabel", "segmentation"])
def test_terms_of_the_samples_give_the_score_of_all(kind: str) -> None:
    torch.manual_seed(0)
    task: Any
    if kind == "classification":
        task, output, target = Classification(3), torch.randn(20, 3), torch.randint(3, (20,))
    elif kind == "regression":
        task, output, target = Regression(2), torch.randn(20, 2), torch.randn(20, 2)
    elif kind == "multilabel":
        task, output, target = MultiLabel(4), torch.randn(20, 4), torch.randint(2, (20, 4)).float()
    else:
        task, output, target = Segmentation(3), torch.randn(20, 3, 4, 4), torch.randint(3, (20, 4, 4))
    terms = sample_terms(task, output, target)
    assert float(terms.score()) == pytest.approx(float(score(task, output, target)), abs=1e-6)
    twice = np.zeros(20)
    twice[3], twice[7] = 2, 1
    rows = torch.tensor([3, 3, 7])
    assert float(terms.score(twice)) == pytest.approx(float(score(task, output[rows], target[rows])), abs=1e-6)


def test_interval_is_that_of_the_normal_law_where_samples_are_many() -> None:
    generator = np.random.default_rng(0)
    a, b = (generator.random(4000) < 0.8), (generator.random(4000) < 0.75)
    difference = paired_difference([outcomes(a)], [outcomes(b)], draws=4000)
    each = a.astype(float) - b.astype(float)
    error = each.std() / math.sqrt(4000)
    assert difference.mean == pytest.approx(each.mean(), abs=1e-7)
    assert difference.low == pytest.approx(each.mean() - 1.96 * error, abs=0.1 * error)
    assert difference.high == pytest.approx(each.mean() + 1.96 * error, abs=0.1 * error)
    assert difference.better
    assert not difference.worse
    assert difference.p < 0.001


def test_spread_of_the_seeds_counts() -> None:
    a, b = [outcomes(np.full(50, v)) for v in (0.5, 0.9)], [outcomes(np.full(50, 0.6))] * 2
    difference = paired_difference(a, b)
    assert difference.mean == pytest.approx(0.1)
    assert [difference.low, difference.high] == pytest.approx([-0.1, 0.3])
    assert not difference.better


def test_groups_are_drawn_whole() -> None:
    good = np.zeros(100)
    good[:50] = 1
    flat = outcomes(np.full(100, 0.4))
    alone = paired_difference([outcomes(good)], [flat])
    grouped = paired_difference([outcomes(good)], [flat], groups=["a"] * 50 + ["b"] * 50)
    assert grouped.high - grouped.low > 3 * (alone.high - alone.low)
    assert [grouped.low, grouped.high] == pytest.approx([-0.4, 0.6])


def test_equal_models_do_not_differ() -> None:
    same = [outcomes(np.arange(10) % 2)] * 3
    difference = paired_difference(same, same)
    assert (difference.mean, difference.low, difference.high, difference.p) == (0, 0, 0, 1)
    assert difference.equivalent(0.01)
    assert not difference.better
    assert not difference.worse


def test_two_calls_give_one_answer_and_the_mirror_image() -> None:
    generator = np.random.default_rng(1)
    a, b = ([outcomes(generator.random(30)) for _ in range(2)] for _ in range(2))
    there, back = paired_difference(a, b), paired_difference(b, a)
    assert there == paired_difference(a, b)
    assert [there.low, there.high] == pytest.approx([-back.high, -back.low])


@pytest.mark.parametrize(
    ("first", "second", "more", "said"),
    [
        ([], [], {}, "at least one"),
        ([[1.0]], [[1.0], [1.0]], {}, "Found 1 and 2"),
        ([[1.0, 0.0]], [[1.0]], {}, "same samples"),
        ([[1.0]], [[1.0]], {"groups": ["a", "b"]}, "`groups`"),
        ([[1.0]], [[1.0]], {"level": 1.0}, "`level`"),
    ],
)
def test_what_cannot_be_paired_is_refused(first: Any, second: Any, more: Any, said: str) -> None:
    with pytest.raises(MethodError, match=said):
        paired_difference([outcomes(o) for o in first], [outcomes(o) for o in second], **more)


def test_holm_by_hand() -> None:
    corrected = holm({"a": 0.04, "b": 0.001, "c": 0.03, "d": 0.9})
    assert corrected == pytest.approx({"a": 0.09, "b": 0.004, "c": 0.09, "d": 0.9})
    assert holm({}) == {}


def test_ranks_share_places_and_leave_out_what_a_dataset_lacks() -> None:
    assert average_ranks([{"a": 1.0, "b": 1.0, "c": 0.0}, {"b": 0.2, "a": 0.1}]) == {"a": 1.75, "b": 1.25}
    assert average_ranks([]) == {}


def test_outcomes_of_a_method_are_its_evaluation() -> None:
    data = load("synthetic", train=32, validation=24, test=24, missing="all=0.3")
    torch.manual_seed(0)
    names, first = list(data.modalities), next(iter(loader(data.test, 4)))
    encoders = {m: nn.Linear(first.inputs[m].shape[1], 4) for m in names}
    head = nn.Linear(4 * len(names), len(data.classes))
    method = MultiLoss(MultimodalModel(encoders, Concat(dict.fromkeys(names, 4)), head), data.task)
    found, scores = sample_outcomes(method, loader(data.test, 5)), evaluate(method, loader(data.test, 24))
    assert float(found["prediction"].score()) == pytest.approx(scores.score)
    assert {m: float(found[f"unimodal/{m}"].score()) for m in names} == pytest.approx(scores.unimodal)


def test_exchanges_are_counted_as_in_a_plain_loop() -> None:
    rng = np.random.default_rng(0)
    below = rng.integers(1, 4, (7, 2)).astype(np.float32)
    one, other = (Outcomes(rng.random((7, 2), np.float32) * below, below) for _ in range(2))
    found = float(one.score() - other.score())
    beyond = 0
    for swaps in itertools.product([False, True], repeat=7):
        sums = np.zeros((2, 2))
        for i, swap in enumerate(swaps):
            sums[0] += (other if swap else one).numerator[i]
            sums[1] += (one if swap else other).numerator[i]
        beyond += float(((sums[0] - sums[1]) / below.sum(0)).mean()) >= found - 1e-9
    assert exchange_p(one, other) == beyond / 2**7


def test_many_rows_are_drawn_and_agree_with_the_sign_test() -> None:
    """Eight rows won, two lost, the others level: 56 of 1,024 signs are as good or better."""
    ours = np.repeat(np.array([1, 0, 1], np.float32), [8, 2, 90])[:, None]
    theirs = np.repeat(np.array([0, 1, 1], np.float32), [8, 2, 90])[:, None]
    whole = np.ones((100, 1), np.float32)
    assert exchange_p(Outcomes(ours, whole), Outcomes(theirs, whole), draws=20000) == pytest.approx(
        56 / 1024, abs=0.006
    )
    with pytest.raises(MethodError, match="the same rows"):
        exchange_p(Outcomes(ours, whole), Outcomes(theirs[:5], whole[:5]))
    with pytest.raises(MethodError, match="`draws`"):
        exchange_p(Outcomes(ours, whole), Outcomes(theirs, whole), draws=0)
