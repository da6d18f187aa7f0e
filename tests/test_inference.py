"""Inference rules on outputs: by hand, with absent modalities, calibrated, chosen on validation data."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from equimodal import Batch, Classification, Inference
from equimodal.errors import MethodError, UnsupportedError
from equimodal.inference import apply_rule, rules_for
from tests import formulas
from tests.helpers import NAMES, make_batch, make_method, split

F64 = torch.float64
TASK = Classification(3)


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=F64)


def outputs(count: int = 3, size: int = 7) -> dict[str, Tensor]:
    return {m: (i + 1) * randn(size, 3, seed=i) for i, m in enumerate(NAMES[:count])}


@pytest.mark.parametrize("count", [1, 2, 3, 5])
def test_rules_against_numpy(count: int) -> None:
    z = outputs(count)
    p = np.stack([formulas.softmax(v.numpy(), 1) for v in z.values()])
    entropy = -(p * np.log(p)).sum(2)
    w = formulas.softmax(-entropy, axis=0)
    expected = {
        "mean": p.mean(0),
        "uncertainty": (w[:, :, None] * p).sum(0),
        "product": formulas.softmax(np.log(p).mean(0), axis=1),
    }
    for rule, reference in expected.items():
        prediction = Inference(tuple(z), rule)(None, z, None)  # type: ignore[arg-type]
        assert np.abs(TASK.probabilities(prediction.output).numpy() - reference).max() < 1e-12
        assert prediction.rule == rule
        assert torch.equal(prediction.probabilities, torch.softmax(prediction.output, 1))
        assert (torch.stack(list(prediction.weights.values())).sum(0) - 1).abs().max() < 1e-14
    fused = randn(7, 3, seed=9)
    assert torch.equal(Inference(tuple(z), "fused")(fused, z, None).output, fused)


def test_every_rule_ignores_absent_content() -> None:
    z = outputs(3)
    mask = torch.tensor([True, False, True, True, False, True, True])
    two = {m: z[m] for m in (NAMES[0], NAMES[2])}
    z[NAMES[1]] = torch.where(mask[:, None], z[NAMES[1]], math.nan)
    for rule in ("mean", "uncertainty", "product"):
        prediction = Inference(NAMES[:3], rule)(None, z, {NAMES[1]: mask})
        without = Inference(NAMES[:3], rule)(None, two, None)
        assert torch.isfinite(prediction.output).all()
        assert (prediction.output[~mask] - without.output[~mask]).abs().max() < 1e-12
        assert (prediction.unimodal[NAMES[1]][~mask] == 0).all()
        assert (prediction.weights[NAMES[1]][~mask] == 0).all()


def test_temperatures_divide_and_are_part_of_the_checkpoint() -> None:
    z = outputs(2)
    inference = Inference(tuple(z), "uncertainty", calibrated=True)
    inference.temperature.copy_(torch.tensor([2.0, 0.5]))
    by_hand = {NAMES[0]: z[NAMES[0]] / 2, NAMES[1]: z[NAMES[1]] * 2}
    assert torch.equal(inference(None, z, None).output, apply_rule("uncertainty", by_hand, None)[0])
    other = Inference(tuple(z), "uncertainty", calibrated=True)
    other.load_state_dict(inference.state_dict())
    assert torch.equal(other(None, z, None).output, inference(None, z, None).output)


def test_fit_finds_each_modalitys_temperature() -> None:
    g = torch.Generator().manual_seed(99)
    true = randn(4000, 3)
    y = torch.multinomial(torch.softmax(true, 1), 1, generator=g)[:, 0]
    z = {NAMES[0]: 3 * true, NAMES[1]: true / 2}
    inference = Inference(tuple(z), "mean", calibrated=True)
    assert inference.fit(TASK, None, z, None, y) == "mean"
    assert inference.temperature.tolist() == pytest.approx([3.0, 0.5], rel=0.1)
    plain = Inference(tuple(z), "mean")
    plain.fit(TASK, None, z, None, y)
    assert plain.temperature.tolist() == [1, 1]
    assert plain.fit(TASK, None, z, {NAMES[0]: torch.zeros(4000, dtype=torch.bool)}, y) == "mean"


def test_fit_uses_present_rows_only() -> None:
    z = outputs(2, 40)
    y = torch.arange(40) % 3
    mask = torch.arange(40) < 25
    a, b = Inference(tuple(z), calibrated=True), Inference(tuple(z), calibrated=True)
    a.fit(TASK, None, {NAMES[0]: z[NAMES[0]][:25], NAMES[1]: z[NAMES[1]][:25]}, None, y[:25])
    dirty = dict(z)
    dirty[NAMES[0]] = torch.where(mask[:, None], z[NAMES[0]], math.nan)
    b.fit(TASK, None, dirty, {NAMES[0]: mask}, y)
    assert float(a.temperature[0]) == float(b.temperature[0])


def test_auto_chooses_on_validation_and_remembers() -> None:
    y = torch.arange(60) % 3
    onehot = torch.nn.functional.one_hot(y, 3).double()
    right, wrong = 4 * onehot, 5 * onehot.roll(1, 1)
    inference = Inference(NAMES[:2], "auto")
    assert inference.resolve(True, True) == "fused"
    assert inference.resolve(False, True) == "mean"
    # the joint head is right, unimodal outputs are not: nothing else comes near, but a pool of the joint head alone
    assert inference.fit(TASK, right, {NAMES[0]: wrong, NAMES[1]: wrong}, None, y) == "skill"
    assert inference.scores["fused"].score == inference.scores["skill"].score == 1
    # one modality that is right at random, of two that are never: the best rule by far is that one alone
    pool = Inference(NAMES[:2], "auto")
    chosen = pool.fit(TASK, None, {NAMES[0]: right, NAMES[1]: wrong}, None, y)
    assert pool.scores[chosen].behind <= pool.scores[chosen].error
    again = Inference(NAMES[:2], "auto")
    again.load_state_dict(pool.state_dict())
    assert again.resolve(False, True) == chosen
    assert again.scores == pool.scores
    assert again.pool == pool.pool
    assert inference.fit(TASK, wrong, {NAMES[0]: right, NAMES[1]: right}, None, y) != "fused"  # refitting starts afresh


@pytest.mark.parametrize("rule", ["mean", "product", "uncertainty"])
def test_what_is_not_there_is_refused(rule: Any) -> None:
    with pytest.raises(UnsupportedError, match="unimodal"):
        Inference(("a",), rule)(randn(2, 3), {}, None)
    with pytest.raises(UnsupportedError, match="fused"):
        Inference(("a",), "fused")(None, {"a": randn(2, 3)}, None)


def test_bad_arguments() -> None:
    with pytest.raises(MethodError, match="`inference`"):
        Inference(("a",), "vote")  # type: ignore[arg-type]
    with pytest.raises(MethodError, match="`measure`"):
        Inference(("a",), "mean", measure="vote")  # type: ignore[arg-type]


# ---- through the methods --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["Joint", "MultiLoss", "Ensemble", "MLA", "CGGM", "MIE"])
@pytest.mark.parametrize("rule", [*rules_for("categorical"), "auto"])
@pytest.mark.parametrize("calibrated", [False, True])
def test_rules_are_available_to_every_method_with_unimodal_outputs(name: str, rule: Any, calibrated: bool) -> None:
    if rule == "fused" and name in ("Ensemble", "MLA", "MIE"):
        with pytest.raises(UnsupportedError, match="`inference`"):
            make_method(name, 2, inference=rule)
        return
    method = make_method(name, 2, inference=rule, calibrated=calibrated)
    batch = make_batch(2)
    method.fit_inference(split(batch, 2))
    prediction = method.predict(batch.inputs)
    assert prediction.output.shape == (12, 3)
    assert torch.isfinite(prediction.output).all()
    assert method.training
    if rule != "auto":
        assert prediction.rule == rule
    temperature = method.inference.temperature
    assert bool((temperature != 1).any()) == (calibrated and rule != "skill")  # which calibrates in its own way


def _auto(name: str) -> dict[str, Any]:
    return {} if name == "Unimodal" else {"inference": "auto"}


@pytest.mark.parametrize("name", ["Joint", "Ensemble", "MLA", "MIE", "Unimodal"])
def test_validation_batches_may_leave_a_modality_out(name: str) -> None:
    method = make_method(name, 3, **_auto(name))
    whole, other = make_batch(3), make_batch(3, seed=1)
    short = Batch({m: x for m, x in other.inputs.items() if m != NAMES[1]}, other.target)
    masked = Batch(other.inputs, other.target, {NAMES[1]: torch.zeros(12, dtype=torch.bool)})
    a = method.fit_inference([whole, short])
    temperature = method.inference.temperature.clone()
    b = method.fit_inference([whole, masked])
    assert a == b
    assert torch.equal(temperature, method.inference.temperature)
    method.fit_inference([short, whole])
    assert (temperature - method.inference.temperature).abs().max() < 1e-5


def test_fit_inference_needs_validation_data() -> None:
    method = make_method("MLA", 2, inference="auto")
    with pytest.raises(MethodError, match="at least one validation batch"):
        method.fit_inference([])

    class Loader(list[Batch]):
        class split:  # noqa: N801
            part = "test"

    with pytest.raises(MethodError, match="test split"):
        method.fit_inference(Loader([make_batch(2)]))


def test_prediction_does_not_depend_on_the_batch_it_is_in() -> None:
    for name in ("MLA", "CGGM", "MIE", "Joint"):
        method = make_method(name, 3)
        batch = make_batch(3)
        whole = method.predict(batch.inputs).output
        parts = torch.cat([method.predict(b.inputs).output for b in split(batch, 3)])
        assert (whole - parts).abs().max() < 1e-12


# ---- other distributions --------------------------------------------------------------------------------------------


def test_labels_are_weighed_one_by_one() -> None:
    z = {m: randn(4, 3, seed=i) for i, m in enumerate(NAMES[:2])}
    prediction = Inference(tuple(z), "uncertainty", distribution="bernoulli")(None, z, None)
    p = np.stack([formulas.expit(v.numpy()) for v in z.values()])
    e = formulas.entr(p) + formulas.entr(1 - p)
    w = formulas.softmax(-e, axis=0)
    assert np.abs(prediction.probabilities.numpy() - (w * p).sum(0)).max() < 1e-12
    assert prediction.weights[NAMES[0]].shape == (4, 3)


def test_pixels_are_weighed_one_by_one() -> None:
    z = {m: randn(2, 3, 4, 5, seed=i) for i, m in enumerate(NAMES[:2])}
    whole = Inference(tuple(z), "uncertainty")(None, z, None)
    assert whole.weights[NAMES[0]].shape == (2, 4, 5)
    pixel = Inference(tuple(z), "uncertainty")(None, {m: v[:, :, 2, 3] for m, v in z.items()}, None)
    assert torch.allclose(whole.output[:, :, 2, 3], pixel.output, rtol=1e-12)


def test_temperatures_of_gaussians_scale_their_deviation() -> None:
    z = {m: randn(5, 2, seed=i) for i, m in enumerate(NAMES[:2])}
    inference = Inference(tuple(z), "precision", calibrated=True, distribution="gaussian")
    inference.temperature.copy_(torch.tensor([2.0, 1.0]))
    scaled = inference.scaled(z)
    assert torch.equal(scaled[NAMES[0]][:, 0], z[NAMES[0]][:, 0])
    assert torch.allclose(scaled[NAMES[0]][:, 1].exp(), 4 * z[NAMES[0]][:, 1].exp())
    prediction = inference(None, z, None)
    with pytest.raises(UnsupportedError, match="predicts numbers"):
        _ = prediction.probabilities


def test_fitting_on_pixels_leaves_ignored_ones_out() -> None:
    from equimodal import Segmentation
    from equimodal.functional import fit_temperature

    z = {m: 4 * randn(3, 2, 6, 5, seed=i) for i, m in enumerate(NAMES[:2])}
    y = torch.randint(0, 2, (3, 6, 5), generator=torch.Generator().manual_seed(0))
    y[:, ::2] = 255
    inference = Inference(tuple(z), "mean", calibrated=True)
    inference.fit(Segmentation(2, ignore_index=255), None, z, None, y)
    rows = z[NAMES[0]].movedim(1, -1)[y != 255]
    assert float(inference.temperature[0]) == pytest.approx(float(fit_temperature(rows, y[y != 255])), rel=1e-6)


@pytest.mark.parametrize(
    ("distribution", "rule", "sentence"),
    [
        ("categorical", "precision", "no variance"),
        ("bernoulli", "precision", "no variance"),
        ("gaussian", "product", "what 'precision' computes"),
        ("point", "uncertainty", "gaussian_nll"),
        ("point", "product", "no probabilities"),
    ],
)
def test_rules_that_make_no_sense(distribution: Any, rule: Any, sentence: str) -> None:
    with pytest.raises(UnsupportedError, match=sentence):
        Inference(NAMES[:2], rule, distribution=distribution)
    with pytest.raises(UnsupportedError, match=sentence):
        apply_rule(rule, outputs(2), None, distribution=distribution)


def test_measures_that_make_no_sense() -> None:
    for distribution in ("bernoulli", "gaussian", "point"):
        with pytest.raises(UnsupportedError, match="`measure`"):
            Inference(NAMES[:2], "mean", measure="energy", distribution=distribution)
