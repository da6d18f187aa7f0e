"""OPM: against a loop written out, whose q it is, what is kept, and the released rescaling."""

from __future__ import annotations

import copy
import math
from typing import Any, cast

import pytest
import torch
from torch import Tensor, nn

from equimodal import Batch, MultimodalModel, PlainEngine
from equimodal.errors import MethodError
from equimodal.methods import EpochContext, Method
from tests.helpers import assert_identical, assert_near, weights
from tests.methods.toys import RATE, WIDTH, features_of, mask_of, small_batch, small_method


def drops_of(model: MultimodalModel, batch: Batch, base: float, strength: float) -> dict[str, float]:
    """q that follows from a batch, before the step."""
    features, head = features_of(model, batch), cast(nn.Linear, model.head)
    s = {}
    for i, (m, h) in enumerate(features.items()):
        z = (h @ head.weight[:, i * WIDTH : (i + 1) * WIDTH].T + head.bias / len(features)).detach()
        mask = mask_of(batch, m)
        s[m] = float(z[mask].softmax(1)[torch.arange(int(mask.sum())), cast(Tensor, batch.target)[mask]].mean())
    rho = {m: sum(s[m] / s[j] for j in s if j != m) / (len(s) - 1) for m in s}
    return {m: base * (1 + strength * math.tanh(r - 1)) if r > 1 else 0.0 for m, r in rho.items()}


def plain_step(model: MultimodalModel, batch: Batch, q: dict[str, float], drawn: Tensor, gain: float = 1.0) -> int:
    """One step of SGD with dropped features; how many were dropped."""
    features = features_of(model, batch)
    has = torch.stack([mask_of(batch, m) for m in features], 1)
    kept = has & (drawn >= torch.tensor(list(q.values()), dtype=torch.float64))
    kept = torch.where(kept.any(1, keepdim=True), kept, has)
    left = [h * kept[:, i : i + 1] * gain for i, h in enumerate(features.values())]
    loss = nn.functional.cross_entropy(model.head(torch.cat(left, 1)), cast(Tensor, batch.target))
    parameters = list(model.parameters())
    with torch.no_grad():
        for p, g in zip(parameters, torch.autograd.grad(loss, parameters), strict=True):
            p.sub_(RATE * g)
    return int((has & ~kept).sum())


def numbers(seed: int, count: int, steps: int, execution: float = 1.0) -> list[Tensor]:
    """What a method with this seed draws for batches of 12."""
    generator = torch.Generator().manual_seed(seed)
    drawn = []
    for _ in range(steps):
        executed = float(torch.rand((), generator=generator)) < execution
        step = torch.rand(1, 12, count, generator=generator)[0]
        drawn.append(step.double() if executed else torch.full((12, count), 2.0).double())
    return drawn


def engine_for(method: Method) -> PlainEngine:
    return PlainEngine(torch.optim.SGD(method.parameters(), lr=RATE))


@pytest.mark.parametrize("absent", [False, True])
@pytest.mark.parametrize("count", [2, 3])
def test_steps_against_the_algorithm_written_out(count: int, absent: bool) -> None:
    """q of the batch before; nothing is dropped from the first."""
    method = small_method("OPM", count, warm_up=0, base=0.6, strength=0.9, seed=3)
    reference = cast(MultimodalModel, copy.deepcopy(method.model))
    engine, q, dropped = engine_for(method), dict.fromkeys(method.modalities, 0.0), []
    for step, drawn in enumerate(numbers(3, count, 4)):
        batch = small_batch(count, step, absent)
        report = method.training_step(batch, engine)
        assert {m: float(p) for m, p in report.coefficients["drop"].items()} == pytest.approx(q, abs=1e-12)
        following = drops_of(reference, batch, 0.6, 0.9)
        dropped.append(plain_step(reference, batch, q, drawn))
        assert_near(weights(method.model), weights(reference), 1e-12)
        q = following
    assert dropped[0] == 0
    assert sum(dropped[1:]) > 5


def test_nothing_is_dropped_before_the_warm_up_is_over() -> None:
    method, joint = small_method("OPM", 2, warm_up=2), small_method("Joint", 2)
    for epoch in range(2):
        method.on_train_epoch_start(EpochContext(epoch))
        for one in (method, joint):
            report = one.training_step(small_batch(2, epoch), engine_for(one))
        assert_identical(weights(method.model), weights(joint.model))
    del report
    method.on_train_epoch_start(EpochContext(2))
    engine = engine_for(method)
    first = method.training_step(small_batch(2, 5), engine).coefficients["drop"]
    second = method.training_step(small_batch(2, 6), engine).coefficients["drop"]
    assert max(float(q) for q in first.values()) == 0
    assert max(float(q) for q in second.values()) > 0.5


def test_a_coin_decides_for_the_whole_batch() -> None:
    method = small_method("OPM", 2, warm_up=0, execution=0.4, seed=1)
    reference = cast(MultimodalModel, copy.deepcopy(method.model))
    engine, q, dropped = engine_for(method), dict.fromkeys(method.modalities, 0.0), []
    drawn = numbers(1, 2, 6, execution=0.4)
    for step in range(6):
        batch = small_batch(2, step, absent=False)
        method.training_step(batch, engine)
        following = drops_of(reference, batch, 0.5, 0.5)
        dropped.append(plain_step(reference, batch, q, drawn[step]))
        q = following
    assert_near(weights(method.model), weights(reference), 1e-12)
    executed = [bool(d[0, 0] <= 1) for d in drawn]
    assert 0 < sum(executed[1:]) < 5
    assert all((n > 0) == e for n, e in zip(dropped[1:], executed[1:], strict=True))


@pytest.mark.parametrize("pieces", [[(0, 12)], [(0, 4), (4, 12)]])
def test_the_released_code_takes_q_of_the_same_batch_and_divides_all_features(pieces: list[tuple[int, int]]) -> None:
    method = small_method("OPM", 2, warm_up=0, variant="released", seed=2)
    reference = cast(MultimodalModel, copy.deepcopy(method.model))
    engine = engine_for(method)
    for step, drawn in enumerate(numbers(2, 2, 3)):
        batch = small_batch(2, step, absent=False)
        method.training_step([batch.select(torch.arange(a, b)) for a, b in pieces], engine)
        q = drops_of(reference, batch, 0.5, 0.5)
        dropped = plain_step(reference, batch, q, drawn, gain=1 / (1 - sum(q.values()) / 2))
        assert dropped > 0
        assert_near(weights(method.model), weights(reference), 1e-12)


def test_a_sample_with_one_modality_keeps_it() -> None:
    method = cast(Any, small_method("OPM", 2, warm_up=0))
    batch = small_batch(2, 0, absent=False)
    alone = Batch(batch.inputs, batch.target, {"video": torch.zeros(12, dtype=torch.bool)})
    joint = small_method("Joint", 2)
    method.probabilities.fill_(1.0)  # both would be dropped from every sample
    for one in (method, joint):
        one.training_step(alone, engine_for(one))
    assert_near(weights(method.model), weights(joint.model), 0.0)


def test_an_encoder_still_runs_on_what_is_dropped() -> None:
    """Its scores are of all samples; what is dropped gives it no gradient."""
    method = cast(Any, small_method("OPM", 2, warm_up=0))
    batch = small_batch(2, 0, absent=False)
    method.probabilities.copy_(torch.tensor([1.0, 0.0]))
    before = weights(method.model.encoder("audio"))
    report = method.training_step(batch, engine_for(method))
    assert_identical(before, weights(method.model.encoder("audio")))
    assert float(report.scores["audio"]) > 0


def test_a_modality_that_nobody_has_is_not_compared() -> None:
    method = cast(Any, small_method("OPM", 3, warm_up=0))
    batch = small_batch(3, 0, absent=False)
    gone = Batch(batch.inputs, batch.target, {"audio": torch.zeros(12, dtype=torch.bool)})
    method.training_step(gone, engine_for(method))
    assert method.probabilities[0] == 0
    assert sorted(float(q) > 0 for q in method.probabilities[1:]) == [False, True]


def test_options_out_of_range() -> None:
    for options in ({"base": 1.1}, {"strength": -1}, {"warm_up": -1}, {"execution": 0}):
        with pytest.raises(MethodError, match=f"`{next(iter(options))}`"):
            small_method("OPM", 2, **options)
