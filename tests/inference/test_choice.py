"""Rules against each other: paired differences, the choice of ``auto``, the guard, groups of samples."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from equimodal import Classification, Inference, MultiLabel, Regression, Segmentation
from equimodal.errors import BelowSingleWarning, MethodError, SmallValidationWarning
from equimodal.inference import JOINT, ORDER
from equimodal.inference._comparison import difference, group_terms, interval_factor, score_of
from equimodal.inference._folds import FOLDS, folds_of, group_codes
from equimodal.tasks import distribution_of, score
from tests.inference.constructed import CLASSES, F64, REGIMES, TASKS, Said, classes, numbers


def inference_for(task: Any, said: Said, rule: Any, **options: Any) -> Inference:
    return Inference(tuple(said.unimodal), rule, distribution=distribution_of(task), **options)


def fit(task: Any, said: Said, rule: Any, groups: Any = None, **options: Any) -> Inference:
    inference = inference_for(task, said, rule, **options)
    inference.fit(task, said.joint, said.unimodal, None, said.target, groups=groups)
    return inference


# ---- differences ----------------------------------------------------------------------------------------------------


def test_the_error_of_a_mean_is_the_usual_one() -> None:
    g = torch.Generator().manual_seed(0)
    a, b = (torch.rand(40, 1, generator=g) < p for p in (0.8, 0.6))
    ones = torch.ones(40, 1, dtype=F64)
    gap, error = difference((a.to(F64), ones), (b.to(F64), ones))
    d = (a.to(F64) - b.to(F64))[:, 0].numpy()
    assert gap == pytest.approx(d.mean(), abs=1e-12)
    assert error == pytest.approx(d.std(ddof=1) / math.sqrt(40), abs=1e-12)


def test_the_jackknife_against_a_loop_over_groups() -> None:
    """On a score that is no mean over samples, with groups of unequal sizes."""
    task, g = MultiLabel(3), torch.Generator().manual_seed(1)
    y = (torch.rand(50, 3, generator=g) < 0.4).long()
    z = [torch.randn(50, 3, generator=g) + k * (y - 0.5) for k in (2.0, 1.0)]
    groups = torch.randint(0, 7, (50,), generator=g)
    gap, error = difference(*(group_terms(task, v, y, groups) for v in z))
    assert gap == pytest.approx(float(score(task, z[0], y) - score(task, z[1], y)), abs=1e-6)
    left = [groups != k for k in range(7)]
    deltas = np.array([float(score(task, z[0][r], y[r]) - score(task, z[1][r], y[r])) for r in left])
    assert error == pytest.approx(math.sqrt(6 / 7 * ((deltas - deltas.mean()) ** 2).sum()), abs=1e-6)
    assert difference(*(group_terms(task, v, y, torch.zeros(50, dtype=torch.int64)) for v in z))[1] == math.inf


@pytest.mark.parametrize("name", list(TASKS))
def test_terms_of_samples_add_up(name: str) -> None:
    make, generate = TASKS[name]
    task, said = make(), generate(REGIMES["equal"], 90, 0)
    own = group_terms(task, said.outputs["m0"], said.target, None)
    assert len(own[0]) == len(said.target)
    assert score_of(own) == pytest.approx(float(score(task, said.outputs["m0"], said.target)), abs=1e-6)


def test_a_task_that_cannot_be_vectorised_is_looked_at_sample_by_sample() -> None:
    class Reading(Classification):
        def score_terms(self, output: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
            float(target[0])  # no tensor operation
            return super().score_terms(output, target)

    said = classes(REGIMES["equal"], 60, 0)
    z = said.outputs["m0"]
    plain = group_terms(Classification(CLASSES), z, said.target, None)
    found = group_terms(Reading(CLASSES), z, said.target, None)
    assert torch.equal(plain[0], found[0])


def test_intervals_are_those_of_students_t() -> None:
    stats = pytest.importorskip("scipy.stats")
    for groups in (4, 5, 8, 20, 100, 1000):
        exact = stats.t.ppf(0.975, groups - 1)
        assert interval_factor(groups) == pytest.approx(exact, rel=0.04 if groups < 6 else 0.01)


# ---- groups and folds -----------------------------------------------------------------------------------------------


def test_groups_stay_together() -> None:
    labels = ["b", "a", "c", "a", "b", "d", "e", "f", "g"]
    codes = group_codes(labels, 9)
    assert codes is not None
    assert codes.tolist() == [1, 0, 2, 0, 1, 3, 4, 5, 6]
    folds = folds_of(codes, torch.zeros(9), {}, {})
    for label in set(labels):
        assert len({int(f) for f, own in zip(folds, labels, strict=True) if own == label}) == 1
    assert int(folds.max()) + 1 == FOLDS
    sizes = torch.bincount(folds).tolist()
    assert max(sizes) - min(sizes) <= 1
    large = folds_of(torch.tensor([0, 1, 2, 3, 4, 5, 5, 5, 5]), torch.zeros(9), {}, {})
    assert sorted(torch.bincount(large).tolist()) == [1, 1, 1, 2, 4]  # the largest group first
    two = group_codes(torch.tensor([0, 0, 9, 9]), 4)
    assert sorted(set(folds_of(two, torch.zeros(4), {}, {}).tolist())) == [0, 1]
    assert group_codes(None, 4) is None
    assert group_codes(["s"] * 4, 4) is None  # one group tells nothing apart


def test_folds_of_single_samples_have_all_classes() -> None:
    said = classes(REGIMES["equal"], 100, 0)
    present = {m: torch.ones(100, dtype=torch.bool) for m in said.outputs}
    folds = folds_of(None, said.target, said.outputs, present)
    turned = dict(reversed(said.outputs.items()))
    assert torch.equal(folds, folds_of(None, said.target, turned, present))  # whatever the order of the experts
    for c in range(CLASSES):
        counts = torch.bincount(folds[said.target == c], minlength=FOLDS)
        assert int(counts.max() - counts.min()) <= 1


@pytest.mark.parametrize("groups", [["a"] * 59, [["a"]] * 60, torch.zeros(61)])
def test_labels_of_another_number_are_refused(groups: Any) -> None:
    said = classes(REGIMES["equal"], 60, 0)
    with pytest.raises(MethodError, match="`groups`: expected one label for each of 60 samples"):
        fit(Classification(CLASSES), said, "skill", groups)


def test_copies_of_samples_in_one_group_prove_nothing() -> None:
    """Every sample ten times: without groups the interval is too short, with groups it is that of the originals."""
    said = classes(REGIMES["equal"], 30, 0)
    many = Said({m: z.repeat(10, 1) for m, z in said.outputs.items()}, said.target.repeat(10))
    groups = torch.arange(30).repeat(10)
    once = fit(Classification(CLASSES), said, "mean").scores["alone:m0"]
    copies = fit(Classification(CLASSES), many, "mean").scores["alone:m0"]
    grouped = fit(Classification(CLASSES), many, "mean", groups).scores["alone:m0"]
    assert copies.error < 0.5 * grouped.error
    assert once.error == pytest.approx(grouped.error, rel=0.25)


# ---- the choice -----------------------------------------------------------------------------------------------------


def test_the_first_within_one_error_is_taken() -> None:
    """By hand from the scores, on every task."""
    for name, (make, generate) in TASKS.items():
        task, said = make(), generate({"m0": (2.0, 1.0), "m1": (1.0, 1.0), JOINT: (1.5, 1.0)}, 60, 3)
        inference = fit(task, said, "auto")
        scores = inference.scores
        best = max(s.score for s in scores.values())
        near = [n for n, s in scores.items() if best - s.score <= s.error + 1e-12]
        order = ["skill", "fused", *ORDER[2:], *(f"{r}+temperature" for r in ORDER[2:]), "alone:m0", "alone:m1"]
        assert inference.resolve(True, True) == min(near, key=order.index).removesuffix("+temperature"), name
        assert set(scores) <= set(order)
        assert {"skill", "fused", "mean", "alone:m0", "alone:m1"} <= set(scores)


def test_a_rule_that_is_better_by_luck_is_seldom_taken() -> None:
    """Outputs of no worth: the highest score is luck, and mostly the order decides."""
    highest, taken = [], []
    for seed in range(12):
        said = classes({f"m{i}": (0.0, 1.0) for i in range(3)}, 60, seed)
        inference = fit(Classification(CLASSES), said, "auto")
        highest.append(max(inference.scores, key=lambda n: inference.scores[n].score))
        taken.append(inference.resolve(False, True))
    assert highest.count("skill") <= 2
    assert taken.count("skill") >= 6
    assert sum(rule.startswith("alone:") for rule in taken) < sum(rule.startswith("alone:") for rule in highest)


def test_what_is_fitted_is_judged_where_it_was_not_fitted() -> None:
    """Targets that no output knows: fitted on the samples that it predicts, skill would look better than chance."""
    gaps = []
    for seed in range(20):
        said = numbers({"a": (0.0, 1.0), "b": (0.0, 1.0)}, 24, seed)
        inference = inference_for(Regression(), said, "mean")
        inference.fit(Regression(), None, said.unimodal, None, said.target)
        inside = inference.output_of("skill", None, said.unimodal, None)
        gaps.append(float(score(Regression(), inside, said.target)) - inference.scores["skill"].score)
    assert np.mean(gaps) > 0


def test_single_modalities_by_name() -> None:
    said = classes({"a": (2.0, 1.0), "b": (1.0, 1.0), "c": (1.0, 1.0)}, 50, 0)
    mask = torch.arange(50) % 2 == 0
    one = Inference(("a", "b", "c"), "alone:a")  # type: ignore[arg-type]
    prediction = one(None, said.unimodal, {"a": mask})
    a, b, c = (torch.log_softmax(z, 1) for z in said.outputs.values())
    assert (prediction.output[mask] - a[mask]).abs().max() < 1e-12
    assert (prediction.output[~mask] - (b + c)[~mask] / 2).abs().max() < 1e-12  # what they have, equally
    assert prediction.weights["b"][:2].tolist() == [0.0, 0.5]
    assert prediction.rule == "alone:a"
    assert one.fit(Classification(CLASSES), None, said.unimodal, None, said.target) == "alone:a"
    with pytest.raises(MethodError, match=r"alone:NAME with one of the modalities \['a', 'b', 'c'\]. Found 'alone:d'"):
        Inference(("a", "b", "c"), "alone:d")  # type: ignore[arg-type]


def test_auto_on_few_samples() -> None:
    said = classes(REGIMES["one strong"], 12, 0)
    with pytest.warns(SmallValidationWarning, match="'auto' cannot tell rules apart and takes 'fused'"):
        assert fit(Classification(CLASSES), said, "auto").resolve(True, True) == "fused"
    with pytest.warns(SmallValidationWarning, match="takes 'mean'"):
        fit(Classification(CLASSES), Said(said.unimodal, said.target), "auto")


# ---- the guard ------------------------------------------------------------------------------------------------------


def test_the_guard_names_the_rule_to_take() -> None:
    said = classes(REGIMES["bold and wrong"], 200, 0)
    text = r"'product' scores 0\.\d+ on 200 validation samples, 0\.\d+ \[.*\] below the best single output, 'm0' alone"
    with pytest.warns(BelowSingleWarning, match=text + r" \(0\.\d+\)\. Use inference='skill'"):
        product = fit(Classification(CLASSES), said, "product")
    with pytest.warns(BelowSingleWarning, match="Use inference='skill'"):
        fit(Regression(), numbers(REGIMES["one strong"], 100, 0), "mean")
    with pytest.warns(BelowSingleWarning, match="the joint head"):
        fit(Classification(CLASSES), classes(REGIMES["only together"], 100, 0), "mean")
    make, generate = TASKS["segmentation"]
    with pytest.warns(BelowSingleWarning, match="'mean' scores"):
        fit(make(), generate(REGIMES["one strong"], 300, 0), "mean")
    assert product.scores["alone:m0"].score > product.scores["product"].score


@pytest.mark.filterwarnings("error")
def test_the_guard_is_silent_where_it_should_be() -> None:
    for name, (make, generate) in TASKS.items():
        for rule in ("skill", "auto", "mean"):
            fit(make(), generate(REGIMES["equal"], 100, 0), rule)
        if name != "segmentation":
            fit(make(), generate(REGIMES["one strong"], 100, 0), "skill")
    few = classes(REGIMES["bold and wrong"], 12, 0)
    fit(Classification(CLASSES), few, "product")  # too few to say


def test_a_difference_within_chance_is_no_reason() -> None:
    """One sample in forty is not enough, however the groups are; a hundred times the same is."""
    y = torch.arange(40) % 2
    right = 4 * torch.nn.functional.one_hot(y, 2).to(F64)
    wrong = right.clone()
    wrong[0] = wrong[0].flip(0) * 3  # takes the mean with it
    task = Classification(2)
    one = Inference(("a", "b"), "product")
    one.fit(task, None, {"a": right, "b": wrong}, None, y)
    assert one.scores["product"].score < one.scores["alone:a"].score
    many = torch.cat([wrong] * 2)
    many[::3] = many[::3].flip(1) * 3
    with pytest.warns(BelowSingleWarning):
        Inference(("a", "b"), "product").fit(task, None, {"a": torch.cat([right] * 2), "b": many}, None, y.repeat(2))


def test_explicit_rules_are_what_they_were() -> None:
    """Fitting changes nothing about a rule that fits nothing."""
    said = classes(REGIMES["equal"], 40, 0)
    for rule in ("mean", "product", "uncertainty"):
        before = Inference(tuple(said.unimodal), rule)(None, said.unimodal, None)
        fitted = fit(Classification(CLASSES), said, rule)
        after = fitted(None, said.unimodal, None)
        assert torch.equal(before.output, after.output)
        assert fitted.temperature.tolist() == [1, 1, 1]
    task = Segmentation(2)
    images = TASKS["segmentation"][1](REGIMES["equal"], 100, 0)
    assert torch.equal(
        Inference(("m0", "m1", "m2"), "mean")(None, images.unimodal, None).output,
        fit(task, images, "mean")(None, images.unimodal, None).output,
    )
