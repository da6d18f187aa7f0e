"""OGM and OGM-GE: against loops written out, the scores of every task, the noise, and the regimes at the edge."""

from __future__ import annotations

import copy
import math
from typing import Any, cast

import pytest
import torch
from torch import Tensor, nn

from equimodal import Batch, Classification, MultimodalModel, PlainEngine
from equimodal.errors import MethodError, ModelError
from equimodal.fusion import Concat, Gated, Late
from equimodal.methods import EpochContext, Joint, Method, get
from equimodal.methods.parts import confidence_sums, confidences
from equimodal.tasks import MultiLabel, Regression, Segmentation
from tests.helpers import assert_near, weights
from tests.methods.toys import (
    CLASSES,
    RATE,
    WIDTH,
    features_of,
    mask_of,
    small_batch,
    small_method,
    small_model,
)

OGM: Any = get("OGM")


def coefficients_written_out(model: MultimodalModel, batch: Batch, alpha: float) -> dict[str, float]:
    """k by the paper's equations (and the mean of ratios for more than two)."""
    features, head = features_of(model, batch), cast(nn.Linear, model.head)
    s = {}
    for i, (m, h) in enumerate(features.items()):
        z = h @ head.weight[:, i * WIDTH : (i + 1) * WIDTH].T + head.bias / len(features)
        rows = mask_of(batch, m).nonzero()[:, 0].tolist()
        s[m] = sum(float(z[r].softmax(0)[int(cast(Tensor, batch.target)[r])].detach()) for r in rows) / len(rows)
    found = {}
    for m in s:
        rho = sum(s[m] / s[j] for j in s if j != m) / (len(s) - 1)
        found[m] = 1 - math.tanh(alpha * rho) if rho > 1 else 1.0
    return found


def plain_step(model: MultimodalModel, batch: Batch, factors: dict[str, float]) -> None:
    features = features_of(model, batch)
    loss = nn.functional.cross_entropy(model.head(torch.cat(list(features.values()), 1)), cast(Tensor, batch.target))
    scale = {id(p): k for m, k in factors.items() for p in model.encoder(m).parameters()}
    parameters = list(model.parameters())
    gradients = torch.autograd.grad(loss, parameters)
    with torch.no_grad():
        for p, g in zip(parameters, gradients, strict=True):
            p.sub_(RATE * scale.get(id(p), 1.0) * g)


def engine_for(method: Method) -> PlainEngine:
    return PlainEngine(torch.optim.SGD(method.parameters(), lr=RATE))


@pytest.mark.parametrize("absent", [False, True])
@pytest.mark.parametrize("count", [2, 3])
def test_three_steps_against_the_algorithm_written_out(count: int, absent: bool) -> None:
    method = small_method("OGM", count, alpha=0.5)
    reference = cast(MultimodalModel, copy.deepcopy(method.model))
    engine = engine_for(method)
    for step in range(3):
        batch = small_batch(count, step, absent)
        report = method.training_step(batch, engine)
        factors = coefficients_written_out(reference, batch, 0.5)
        assert min(factors.values()) < 1
        assert {m: float(k) for m, k in report.coefficients["scale"].items()} == pytest.approx(factors, abs=1e-12)
        plain_step(reference, batch, factors)
        assert_near(weights(method.model), weights(reference), 1e-12)


def test_only_epochs_of_the_window_are_modulated() -> None:
    for epoch, expected in ((0, 1.0), (1, None), (2, None), (3, 1.0)):
        method = small_method("OGM", 2, start=1, end=2)
        reference = cast(MultimodalModel, copy.deepcopy(method.model))
        batch = small_batch(2, 0)
        method.on_train_epoch_start(EpochContext(epoch))
        method.training_step(batch, engine_for(method))
        factors = coefficients_written_out(reference, batch, 0.8)
        plain_step(reference, batch, factors if expected is None else {})
        assert_near(weights(method.model), weights(reference), 1e-12)


def test_equal_scores_change_nothing() -> None:
    """The released code damps the audio encoder where neither is ahead."""
    method, joint = small_method("OGM", 2), small_method("Joint", 2)
    for one in (method, joint):
        with torch.no_grad():
            cast(nn.Linear, one.multimodal.head).weight.zero_()
    batch = small_batch(2, 0, absent=False)
    report = method.training_step(batch, engine_for(method))
    joint.training_step(batch, engine_for(joint))
    assert [float(k) for k in report.coefficients["scale"].values()] == [1, 1]
    assert_near(weights(method), weights(joint), 0.0)


def test_a_modality_that_nobody_has_is_not_compared() -> None:
    batch = small_batch(3, 0, absent=False)
    nobody = torch.zeros(12, dtype=torch.bool)
    gone = Batch(batch.inputs, batch.target, {"audio": nobody})
    method = small_method("OGM", 3)
    report = method.training_step(gone, engine_for(method))
    assert float(report.coefficients["scale"]["audio"]) == 1
    others = {m: float(report.scores[m]) for m in ("video", "text")}
    ahead, behind = sorted(others, key=lambda m: -others[m])
    k = 1 - math.tanh(0.8 * others[ahead] / others[behind])
    assert float(report.coefficients["scale"][ahead]) == pytest.approx(k, abs=1e-12)
    alone = Batch(batch.inputs, batch.target, {"audio": nobody, "video": nobody})
    assert [float(k) for k in method.training_step(alone, engine_for(method)).coefficients["scale"].values()] == [1] * 3


@pytest.mark.parametrize("noise", [None, "covariance"])
def test_the_order_of_encoders_does_not_matter_without_the_released_noise(noise: Any) -> None:
    ours = small_method("OGM", 3, noise=noise)
    model = cast(MultimodalModel, ours.model)
    names = list(ours.modalities)[::-1]
    head = nn.Linear(3 * WIDTH, CLASSES).double()
    with torch.no_grad():
        old = cast(nn.Linear, model.head)
        head.weight.copy_(torch.cat([old.weight[:, 8:], old.weight[:, 4:8], old.weight[:, :4]], 1))
        head.bias.copy_(old.bias)
    turned = MultimodalModel(
        {m: copy.deepcopy(model.encoder(m)) for m in names}, Concat(dict.fromkeys(names, WIDTH)), head
    )
    theirs = OGM(turned.double(), Classification(CLASSES), noise=noise).double().train()
    for step in range(2):
        ours.training_step(small_batch(3, step), engine_for(ours))
        theirs.training_step(small_batch(3, step), engine_for(theirs))
    for m in names:
        assert_near(weights(model.encoder(m)), weights(turned.encoder(m)), 1e-12)


# ---- generalisation enhancement -------------------------------------------------------------------------------------


def test_the_noise_is_the_sum_of_what_each_sample_adds_times_its_number() -> None:
    """xi = sum_i eps_i (c_i - mean), with the gradients of single samples taken one by one."""
    method = cast(Any, small_method("OGM", 2, noise="covariance", seed=5))
    reference = cast(MultimodalModel, copy.deepcopy(method.model))
    batch = small_batch(2, 0, absent=False)
    drawn = torch.randn(1, 12, generator=torch.Generator().manual_seed(5))[0].double()
    method.training_step([batch.select(torch.arange(5)), batch.select(torch.arange(5, 12))], engine_for(method))
    factors = coefficients_written_out(reference, batch, 0.8)
    output = reference.head(torch.cat(list(features_of(reference, batch).values()), 1))
    losses = nn.functional.cross_entropy(output, cast(Tensor, batch.target), reduction="none") / 12
    parameters = list(reference.parameters())
    single = [torch.autograd.grad(loss, parameters, retain_graph=True) for loss in losses]
    with torch.no_grad():
        for i, p in enumerate(parameters):
            c = torch.stack([row[i] for row in single])
            g = c.sum(0)
            m = next((m for m in factors if any(p is q for q in reference.encoder(m).parameters())), None)
            xi = torch.einsum("n,n...->...", drawn, c - g / 12) if m is not None else 0.0
            p.sub_(RATE * ((factors[m] if m is not None else 1.0) * g + xi))
    assert_near(weights(method.model), weights(reference), 1e-12)


def test_the_noise_has_the_covariance_of_the_gradient() -> None:
    """Over many draws, for one entry of an encoder: the variance that the samples' gradients have, and no mean."""
    method = cast(Any, small_method("OGM", 2, noise="covariance"))
    batch = small_batch(2, 0, absent=False)
    parameter = method.model.encoder("audio")[0].weight
    output = method.model.head(torch.cat(list(features_of(method.model, batch).values()), 1))
    losses = nn.functional.cross_entropy(output, cast(Tensor, batch.target), reduction="none") / 12
    c = torch.stack([torch.autograd.grad(loss, parameter, retain_graph=True)[0] for loss in losses])
    expected = (c - c.mean(0)).square().sum(0)
    engine, draws = engine_for(method), []
    phase = next(iter(method.phases([batch])))
    for _ in range(1500):
        prepared = method.prepare([batch])
        descent = engine.descend(phase, prepared)
        draws.append(method.gradient_noise.of([parameter], descent, engine)[0])
    found = torch.stack(draws)
    assert (found.mean(0).abs() < 5 * (expected / 1500).sqrt() + 1e-12).all()
    assert ((found.var(0) / expected - 1).abs() < 0.25).all()


def test_the_released_noise_is_drawn_by_the_written_rule() -> None:
    method = small_method("OGM", 2, noise="entries", seed=3)
    quiet = small_method("OGM", 2)
    batch = small_batch(2, 0, absent=False)
    start = weights(method.model)
    method.training_step(batch, engine_for(method))
    report = quiet.training_step(batch, engine_for(quiet))
    seed = int(torch.randint(2**62, (), generator=torch.Generator().manual_seed(3)))
    generator = torch.Generator().manual_seed(seed)
    for position, m in enumerate(method.modalities):
        k = float(report.coefficients["scale"][m])
        for tensor in ("weight", "bias"):
            name = f"encoders.{position}.0.{tensor}"
            gradient = (start[name] - weights(quiet.model)[name]) / (RATE * k)
            xi = gradient.std() * torch.randn(gradient.shape, generator=generator, dtype=torch.float64)
            expected = start[name] - RATE * (k * gradient + xi)
            assert (weights(method.model)[name] - expected).abs().max() < 1e-12


# ---- scores of every task -------------------------------------------------------------------------------------------


def score_of(task: Any, outputs: dict[str, Tensor], target: Tensor, present: Any = None) -> dict[str, float]:
    names = list(outputs)
    model = MultimodalModel(
        {m: nn.Linear(1, 1) for m in names}, Concat(dict.fromkeys(names, 1)), nn.Linear(len(names), task.outputs)
    )
    method = Joint(model, task)
    batch = Batch({m: torch.zeros(len(target), 1) for m in names}, target, present)
    scores, known = confidences(method, confidence_sums(method, outputs, batch))
    return {m: float(s) for m, s, k in zip(names, scores, known, strict=True) if k}


def logit(p: float) -> float:
    return math.log(p / (1 - p))


def test_classification_multilabel_and_regression_scores() -> None:
    z = torch.tensor([[math.log(3.0), 0.0], [0.0, math.log(3.0)]], dtype=torch.float64)
    assert score_of(Classification(2), {"a": z, "b": -z}, torch.tensor([0, 1])) == pytest.approx({"a": 0.75, "b": 0.25})
    present = {"a": torch.tensor([True, False])}
    assert score_of(Classification(2), {"a": z, "b": -z}, torch.tensor([0, 0]), present) == pytest.approx(
        {"a": 0.75, "b": 0.5}
    )
    z = torch.tensor([[logit(0.9), logit(0.4)]], dtype=torch.float64)
    assert score_of(MultiLabel(2), {"a": z, "b": -z}, torch.tensor([[1, 0]])) == pytest.approx({"a": 0.75, "b": 0.25})
    y = torch.tensor([1.0, 2.0], dtype=torch.float64)
    outputs = {"a": torch.tensor([[1.5], [2.5]], dtype=torch.float64), "b": torch.tensor([[3.0], [4.0]]).double()}
    assert score_of(Regression(), outputs, y) == pytest.approx({"a": 2, "b": 0.5})  # 1 / MAE: four times as good
    exact = {"a": y[:, None], "b": y[:, None]}
    assert score_of(Regression(), exact, y) == pytest.approx({"a": 1e8, "b": 1e8})


def test_segmentation_scores_leave_out_ignored_pixels() -> None:
    z = torch.tensor([[[[math.log(3.0), 0.0]], [[0.0, math.log(3.0)]]]], dtype=torch.float64)  # (1, 2, 1, 2)
    task = Segmentation(2, ignore_index=255)
    assert score_of(task, {"a": z, "b": -z}, torch.tensor([[[0, 255]]])) == pytest.approx({"a": 0.75, "b": 0.25})
    assert score_of(task, {"a": z, "b": z}, torch.tensor([[[255, 255]]])) == {}


# ---- where unimodal outputs come from -------------------------------------------------------------------------------


def test_heads_that_cannot_be_split_are_refused_with_the_next_step() -> None:
    encoders = {"a": nn.Linear(3, 4), "b": nn.Linear(3, 4)}
    model = MultimodalModel(encoders, Gated({"a": 4, "b": 4}), nn.Linear(4, 2))
    with pytest.raises(ModelError, match=r"split exactly.*unimodal='masked'"):
        OGM(model, Classification(2))
    method = OGM(model, Classification(2), unimodal="masked")
    batch = Batch({m: torch.randn(6, 3) for m in encoders}, torch.tensor([0, 1] * 3))
    assert set(method.training_step(batch, engine_for(method)).scores) == {"a", "b"}


def test_a_late_fusion_is_scored_by_its_heads() -> None:
    model = small_model(2)
    late = Late({"audio": WIDTH, "video": WIDTH}, CLASSES)
    whole = MultimodalModel({m: model.encoder(m) for m in model.modalities}, late, nn.Identity()).double()
    method = OGM(whole, Classification(CLASSES)).double()
    batch = small_batch(2, 0, absent=False)
    outputs = late.outputs(whole.encode(batch.inputs))
    expected = {
        m: float(z.detach().softmax(1).gather(1, cast(Tensor, batch.target)[:, None]).mean())
        for m, z in outputs.items()
    }
    report = method.training_step(batch, engine_for(method))
    assert {m: float(s) for m, s in report.scores.items()} == pytest.approx(expected, abs=1e-12)


def test_options_out_of_range() -> None:
    for options in ({"alpha": 0}, {"start": -1}, {"end": 1.5}, {"noise": "white"}):
        with pytest.raises(MethodError, match=f"`{next(iter(options))}`"):
            small_method("OGM", 2, **options)
