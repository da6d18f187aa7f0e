"""The rule ``skill``: what is fitted, what is predicted, and what it does not depend on."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from equimodal import Classification, Inference, MultiLabel, Regression, Segmentation
from equimodal.errors import MethodError, NonFiniteError, SmallValidationWarning
from equimodal.inference import JOINT, Expert, SkillPool
from equimodal.tasks import distribution_of, score
from tests import formulas
from tests.inference.constructed import CLASSES, F64, REGIMES, TASKS, Experts, Said, classes, numbers

STRONG: Experts = REGIMES["one strong"]


def fit(
    task: Any, said: Said, present: Mapping[str, Tensor] | None = None, rule: Any = "skill", **more: Any
) -> Inference:
    inference = Inference(tuple(said.unimodal), rule, distribution=distribution_of(task))
    inference.fit(task, said.joint, said.unimodal, present, said.target, **more)
    return inference


def predict(inference: Inference, said: Said, present: Mapping[str, Tensor] | None = None) -> Tensor:
    output: Tensor = inference(said.joint, said.unimodal, present).output
    return output


def pool_of(inference: Inference) -> SkillPool:
    assert inference.pool is not None
    return inference.pool


def weights_of(inference: Inference) -> dict[str, float]:
    return {e: own.weight for e, own in pool_of(inference).experts.items()}


# ---- the fit, against plain numpy -----------------------------------------------------------------------------------


def lowest(function: Any, low: float = 0.0, high: float = 20.0) -> float:
    for _ in range(200):
        a, b = low + (high - low) / 3, high - (high - low) / 3
        low, high = (low, b) if function(a) < function(b) else (a, high)
    return (low + high) / 2


def test_classes_against_a_plain_computation() -> None:
    said = classes({"a": (2.0, 1.0), "b": (0.7, 4.0), JOINT: (1.5, 1.0)}, 90, 0)
    inference, y = fit(Classification(CLASSES), said), said.target.numpy()
    logs = {e: formulas.log_softmax(z.numpy(), 1) for e, z in said.outputs.items()}
    share = np.bincount(y) / len(y)
    constant = -(share * np.log(share)).sum()

    def nll(log_p: Any, beta: float) -> float:
        return float(-formulas.log_softmax(beta * log_p, 1)[np.arange(len(y)), y].mean())

    s = {e: max(0.0, 1 - nll(v, lowest(lambda t, v=v: nll(v, t))) / constant) for e, v in logs.items()}
    total = sum(v**4 for v in s.values())
    pool = pool_of(inference)
    assert pool.pool == "skill"
    for e, own in pool.experts.items():
        assert own.skill == pytest.approx(s[e], abs=1e-8)
        assert own.weight == pytest.approx(s[e] ** 4 / total, abs=1e-7)
        assert own.samples == 90
    pooled = sum(own.weight * logs[e] for e, own in pool.experts.items())
    beta = lowest(lambda t: nll(pooled, t) + (t - 1) ** 2 / (2 * len(y)))
    assert pool.slope == pytest.approx(beta, abs=1e-5)
    prediction = inference(said.joint, said.unimodal, None)
    assert np.abs(prediction.output.numpy() - pool.slope * pooled).max() < 1e-12
    assert {e: float(w[0]) for e, w in prediction.weights.items()} == pytest.approx(weights_of(inference), abs=1e-15)
    assert list(prediction.weights) == [JOINT, "a", "b"]


def test_labels_against_a_plain_computation() -> None:
    make, generate = TASKS["multilabel"]
    said = generate({"a": (2.0, 1.0), "b": (1.0, 3.0)}, 80, 1)
    inference, y = fit(make(), said), said.target.numpy()
    share = y.mean(0)
    constant = -(share * np.log(share) + (1 - share) * np.log(1 - share)).mean()

    def nll(z: Any, beta: float) -> float:
        return float(np.logaddexp(0, -(2 * y - 1) * beta * z).mean())

    z = {m: v.numpy() for m, v in said.outputs.items()}
    s = {m: 1 - nll(v, lowest(lambda t, v=v: nll(v, t))) / constant for m, v in z.items()}
    pool = pool_of(inference)
    assert {m: own.skill for m, own in pool.experts.items()} == pytest.approx(s, abs=1e-8)
    pooled = sum(own.weight * z[m] for m, own in pool.experts.items())
    assert np.abs(predict(inference, said).numpy() - pool.slope * pooled).max() < 1e-12
    weighted = fit(MultiLabel(3, pos_weight=[4.0, 4.0, 4.0]), said)
    assert pool_of(weighted).experts["a"].skill != pytest.approx(s["a"], abs=1e-3)  # a label that is there counts 4


def test_numbers_against_a_plain_computation() -> None:
    said = numbers({"a": (2.0, 1.0), "b": (0.5, 1.0), JOINT: (1.0, 1.0)}, 70, 2)
    inference, y = fit(Regression(), said), said.target.numpy()
    f = {e: z[:, 0].numpy() for e, z in said.outputs.items()}
    offset = {e: (y - v).mean() for e, v in f.items()}
    s = {e: max(0, 1 - ((y - v - offset[e]) ** 2).mean() / y.var()) for e, v in f.items()}
    total = sum(v**4 for v in s.values())
    expected = sum(s[e] ** 4 / total * (f[e] + offset[e]) for e in f)
    assert np.abs(predict(inference, said)[:, 0].numpy() - expected).max() < 1e-10
    assert {e: own.skill for e, own in pool_of(inference).experts.items()} == pytest.approx(s, abs=1e-12)


def test_gaussians_against_a_plain_computation() -> None:
    make, generate = TASKS["gaussian"]
    said = generate({"a": (2.0, 3.0), "b": (1.0, 1.0)}, 70, 3)
    inference, y = fit(make(), said), said.target.numpy()
    w = weights_of(inference)
    mean, variance = {}, {}
    for m, z in said.outputs.items():
        f = z[:, 0].numpy()
        mean[m] = f + (y - f).mean()
        ratio = ((y - mean[m]) ** 2 / np.exp(z[:, 1].numpy())).mean()  # what an over-confident modality is off by
        variance[m] = ratio * np.exp(z[:, 1].numpy())
    mu = sum(w[m] * mean[m] for m in w)
    spread = sum(w[m] * (variance[m] + (mean[m] - mu) ** 2) for m in w)
    factor = (((y - mu) ** 2 / spread).sum() + 1) / (len(y) + 1)
    output = predict(inference, said).numpy()
    assert np.abs(output[:, 0] - mu).max() < 1e-10
    assert np.abs(np.exp(output[:, 1]) - factor * spread).max() < 1e-8


def test_pixels_are_calibrated_by_the_loss_of_the_task() -> None:
    make, generate = TASKS["segmentation"]
    said, task = generate({"a": (2.0, 1.0), "b": (1.0, 3.0)}, 200, 4), make()
    inference = fit(task, said)
    for m, own in pool_of(inference).experts.items():
        logs = torch.log_softmax(said.outputs[m], 1)
        offset = torch.tensor(own.offset, dtype=F64).reshape(1, -1, 1, 1)
        here = float(task.loss(own.scale * logs + offset, said.target))
        for scale, shift in ((1.1, 0.0), (0.9, 0.0), (1.0, 0.1), (1.0, -0.1)):
            moved = torch.tensor([0.0, shift], dtype=F64).reshape(1, -1, 1, 1)
            assert here < float(task.loss(scale * own.scale * logs + offset + moved, said.target))
        assert here < float(task.loss(logs, said.target))
    w = weights_of(inference)
    expected = sum(
        w[m]
        * (own.scale * torch.log_softmax(said.outputs[m], 1) + torch.tensor(own.offset, dtype=F64).reshape(1, -1, 1, 1))
        for m, own in pool_of(inference).experts.items()
    )
    assert (predict(inference, said) - expected).abs().max() < 1e-10


# ---- never below the best single output -----------------------------------------------------------------------------


@pytest.mark.parametrize("size", [40, 300])
@pytest.mark.parametrize("regime", list(REGIMES))
@pytest.mark.parametrize("name", list(TASKS))
def test_it_is_never_below_the_best_single_output(name: str, regime: str, size: int) -> None:
    make, generate = TASKS[name]
    task, experts = make(), REGIMES[regime]
    for seed in range(2):
        validation, test = generate(experts, size, seed), generate(experts, 3000, 100 + seed)
        inference = fit(task, validation)
        pooled = float(score(task, predict(inference, test), test.target))
        single = max(float(score(task, z, test.target)) for z in test.outputs.values())
        assert pooled > single - 0.01
        if regime == "equal":
            assert pooled > single + 0.05  # what pooling is for


def test_equal_weights_are_taken_where_they_are_better() -> None:
    said = classes(REGIMES["equal"], 200, 0)
    pools = {pool_of(fit(Classification(CLASSES), classes(REGIMES["equal"], 200, s))).pool for s in range(3)}
    assert "equal" in pools
    assert pool_of(fit(Classification(CLASSES), classes(STRONG, 200, 0))).pool == "skill"
    assert pool_of(fit(Regression(), numbers(REGIMES["equal"], 200, 0))).pool == "skill"  # only of classes and labels
    # the choice is the one that a plain cross-validation makes
    inference = fit(Classification(CLASSES), said)
    assert inference.scores["skill"].score >= inference.scores["product"].score - 1e-12


# ---- what it does not depend on -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", list(TASKS))
def test_order_of_samples_and_modalities_and_names_do_not_matter(name: str) -> None:
    make, generate = TASKS[name]
    task, size = make(), 60
    said = generate({"m0": (2.0, 1.0), "m1": (1.0, 3.0), "m2": (0.5, 1.0), JOINT: (1.5, 1.0)}, size, 5)
    count = len(said.target)
    present = {"m1": torch.arange(count) % 4 != 1}
    ours = fit(task, said, present)
    again = fit(task, said, present)
    assert ours.pool == again.pool  # to the last bit
    new = {"m0": "x.y", "m1": "keys", "m2": "joint"}
    renamed = Said({new.get(e, e): z for e, z in said.outputs.items()}, said.target)
    theirs = fit(task, renamed, {"keys": present["m1"]})
    assert pool_of(ours).state(("m0", "m1", "m2")) == pool_of(theirs).state(("x.y", "keys", "joint"))
    order = torch.randperm(count, generator=torch.Generator().manual_seed(0))
    shuffled = Said({e: z[order] for e, z in said.outputs.items()}, said.target[order])
    turned = Said({e: said.outputs[e] for e in ("m2", JOINT, "m1", "m0")}, said.target)
    tolerance = 1e-4 if name == "segmentation" else 1e-9  # quasi-Newton steps end where rounding lets them
    for other, mask in ((shuffled, present["m1"][order]), (turned, present["m1"])):
        found = fit(task, other, {"m1": mask})
        assert pool_of(found).pool == pool_of(ours).pool
        assert weights_of(found) == pytest.approx(weights_of(ours), abs=tolerance)
        assert pool_of(found).slope == pytest.approx(pool_of(ours).slope, abs=tolerance)
        losses = {n: s.loss for n, s in ours.scores.items()}  # the folds are the same too
        assert {n: s.loss for n, s in found.scores.items()} == pytest.approx(losses, abs=10 * tolerance)


@pytest.mark.parametrize("name", list(TASKS))
def test_absent_rows_are_not_read(name: str) -> None:
    make, generate = TASKS[name]
    task, said = make(), generate({"m0": (2.0, 1.0), "m1": (1.0, 3.0), JOINT: (1.5, 1.0)}, 60, 6)
    mask = torch.arange(len(said.target)) % 3 != 0
    spoilt = torch.where(mask.reshape(-1, *[1] * (said.outputs["m1"].ndim - 1)), said.outputs["m1"], math.nan)
    dirty = Said({**said.outputs, "m1": spoilt}, said.target)
    ours, theirs = fit(task, said, {"m1": mask}), fit(task, dirty, {"m1": mask})
    assert ours.pool == theirs.pool
    assert ours.scores == theirs.scores
    output = predict(theirs, dirty, {"m1": mask})
    assert torch.isfinite(output).all()
    assert torch.equal(output, predict(ours, said, {"m1": mask}))
    assert (theirs(dirty.joint, dirty.unimodal, {"m1": mask}).weights["m1"][~mask] == 0).all()
    parts = [
        theirs(dirty.joint[r], {m: z[r] for m, z in dirty.unimodal.items()}, {"m1": mask[r]}).output  # type: ignore[index]
        for r in torch.split(torch.arange(len(mask)), 7)
    ]
    assert (torch.cat(parts) - output).abs().max() < 1e-12


def test_predictions_do_not_change_what_was_fitted_nor_the_random_state() -> None:
    said, state = classes(STRONG, 50, 0), torch.get_rng_state()
    inference = fit(Classification(CLASSES), said)
    before = copy.deepcopy(inference.state_dict())
    predict(inference, said)
    assert inference.state_dict()["_extra_state"] == before["_extra_state"]
    assert torch.equal(state, torch.get_rng_state())


# ---- before and with little data ------------------------------------------------------------------------------------


def test_before_it_is_fitted() -> None:
    said = classes({"a": (1.0, 1.0), "b": (1.0, 2.0), JOINT: (1.0, 1.0)}, 6, 0)
    prediction = Inference(("a", "b"), "skill")(said.joint, said.unimodal, None)
    assert {e: float(w[0]) for e, w in prediction.weights.items()} == pytest.approx(
        dict.fromkeys((JOINT, "a", "b"), 1 / 3)
    )
    mean = torch.stack([torch.log_softmax(z, 1) for z in said.outputs.values()]).mean(0)
    assert (prediction.output - mean).abs().max() < 1e-12
    other = numbers({"a": (1.0, 1.0), JOINT: (1.0, 1.0)}, 6, 0)
    point = Inference(("a",), "skill", distribution="point")
    assert torch.equal(point(other.joint, other.unimodal, None).output, other.outputs[JOINT])
    assert torch.equal(point(None, other.unimodal, None).output, other.outputs["a"])


def test_a_fit_on_few_samples_is_drawn_to_the_prior_and_says_so() -> None:
    said = classes(STRONG, 10, 0)
    with pytest.warns(SmallValidationWarning, match="at least 20 validation samples. Found 10: 50% of the fit"):
        few = fit(Classification(CLASSES), said)
    assert weights_of(few) == pytest.approx(dict.fromkeys(said.outputs, 1 / 5))
    both = numbers(STRONG, 10, 0)
    with pytest.warns(SmallValidationWarning, match="Found 10"):
        half = fit(Regression(), both)
    y, f = both.target, both.outputs["m0"][:, 0]
    assert pool_of(half).experts["m0"].offset[0] == pytest.approx(float((y - f).mean()) / 2, abs=1e-12)
    assert pool_of(half).experts[JOINT].weight > 0.5  # half of the prior, which is the joint head, and its own share
    assert pool_of(half).share == 0.5
    images, task = TASKS["segmentation"][1](STRONG, 80, 0), Segmentation(2)
    three = Said({e: z[:3] for e, z in images.outputs.items()}, images.target[:3])
    with pytest.warns(SmallValidationWarning, match="at least 4 validation samples. Found 3: 75% of the fit"):
        fit(task, three)


@pytest.mark.filterwarnings("error")
def test_one_sample_and_enough_samples() -> None:
    for name, (make, generate) in TASKS.items():
        said = generate(STRONG, 40, 0)
        one = Said({e: z[:1] for e, z in said.outputs.items()}, said.target[:1])
        with pytest.warns(SmallValidationWarning, match="Found 1: "):
            inference = fit(make(), one)
        assert torch.isfinite(predict(inference, said)).all(), name
        fit(make(), said)  # without a word


# ---- bad input ------------------------------------------------------------------------------------------------------


def test_a_validation_set_without_a_class() -> None:
    said = classes(STRONG, 200, 0)
    kept = said.target != 2
    inference = fit(Classification(CLASSES), Said({e: z[kept] for e, z in said.outputs.items()}, said.target[kept]))
    assert weights_of(inference)["m0"] > 0.5
    test = classes(STRONG, 1000, 1)
    assert float(score(Classification(CLASSES), predict(inference, test), test.target)) > 0.8
    only = Said({e: z[said.target == 1] for e, z in said.outputs.items()}, said.target[said.target == 1])
    constant = fit(Classification(CLASSES), only)  # one class: there is nothing to be good at
    assert weights_of(constant) == pytest.approx(dict.fromkeys(said.outputs, 1 / 5))


def test_constant_targets() -> None:
    said = numbers(STRONG, 50, 0)
    inference = fit(Regression(), Said(said.outputs, torch.full((50,), 3.0, dtype=F64)))
    assert weights_of(inference) == pytest.approx(dict.fromkeys(said.outputs, 1 / 5))
    assert float(predict(inference, said).mean()) == pytest.approx(3.0, abs=1e-9)
    two = Said({e: torch.cat([z, 0 * z], 1) for e, z in said.outputs.items()},
               torch.stack([said.target, torch.zeros(50, dtype=F64)], 1))  # fmt: skip
    assert weights_of(fit(Regression(2), two))["m0"] > 0.5  # the number that varies decides
    images = TASKS["segmentation"][1](STRONG, 80, 0)
    nothing = fit(Segmentation(2), Said(images.outputs, torch.zeros_like(images.target)))
    assert torch.isfinite(predict(nothing, images)).all()


def test_nobody_knows_anything() -> None:
    said = classes({"a": (0.0, 8.0), "b": (0.0, 8.0), JOINT: (-3.0, 1.0)}, 300, 1)
    pool = pool_of(fit(Classification(CLASSES), said))
    assert pool.experts[JOINT].skill == 0  # worse than chance
    assert sum(own.weight for own in pool.experts.values()) == pytest.approx(1)
    flat = numbers({"a": (0.0, 1.0), "b": (0.0, 1.0)}, 300, 0)
    noise = Said({m: 5 * z for m, z in flat.outputs.items()}, flat.target)
    zero = fit(Regression(), noise)
    assert weights_of(zero) == {"a": 0.5, "b": 0.5}


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("expert", ["m1", JOINT])
def test_outputs_that_are_not_finite_are_refused(expert: str, value: float) -> None:
    said = classes(STRONG, 60, 0)
    z = said.outputs[expert].clone()
    z[7, 1] = value
    shown = "the joint head" if expert == JOINT else "'m1'"
    with pytest.raises(NonFiniteError, match=f"finite validation outputs to fit 'skill'.*{shown}"):
        fit(Classification(CLASSES), Said({**said.outputs, expert: z}, said.target))
    # other rules are what they were, and auto leaves out what cannot be judged
    broken = Said({**said.outputs, expert: z}, said.target)
    auto = fit(Classification(CLASSES), broken, rule="auto")
    assert "skill" not in auto.scores
    assert ("fused" in auto.scores) == (expert != JOINT)
    assert ("mean" in auto.scores) == (expert == JOINT)
    inference = fit(Classification(CLASSES), said)
    strong = said.outputs["m0"].clone()
    strong[3, 0] = math.nan
    with pytest.raises(NonFiniteError, match="NaN or infinity in the prediction of 'skill'"):
        predict(inference, Said({**said.outputs, "m0": strong}, said.target))


def test_a_modality_that_no_validation_sample_has() -> None:
    said = classes({"a": (2.0, 1.0), "b": (1.5, 1.0), "c": (1.0, 1.0)}, 100, 0)
    nobody = {"b": torch.zeros(100, dtype=torch.bool)}
    with pytest.warns(SmallValidationWarning, match=r"Found none with \['b'\]"):
        inference = fit(Classification(CLASSES), said, nobody)
    assert weights_of(inference)["b"] == 0
    alone = {"a": torch.zeros(100, dtype=torch.bool), "c": torch.zeros(100, dtype=torch.bool)}
    output = predict(inference, said, alone)  # nothing else is there
    assert (output - pool_of(inference).slope * torch.log_softmax(said.outputs["b"], 1)).abs().max() < 1e-12


def test_the_joint_heads_name_is_taken() -> None:
    with pytest.raises(MethodError, match="stands for the joint head"):
        Inference(("a", JOINT), "mean")


def test_a_modality_of_few_samples_is_trusted_less() -> None:
    said = numbers({"a": (2.0, 1.0), "b": (2.0, 1.0)}, 200, 0)
    assert weights_of(fit(Regression(), said))["b"] > 0.4
    assert weights_of(fit(Regression(), said, {"b": torch.arange(200) < 5}))["b"] < 0.01  # (5 / 20) ** 4 of it
    assert SkillPool({"a": Expert(1.0)}).shrunk(1.0, SkillPool({})).experts["a"].weight == 1
