"""G-Blend: against a loop written out, when it estimates, and what it needs."""

from __future__ import annotations

import copy
from typing import Any, cast

import pytest
import torch
from torch import Tensor, nn

from equimodal import Batch, MultimodalModel, PlainEngine
from equimodal.errors import MethodError
from equimodal.methods import EpochContext, Method
from tests.helpers import assert_identical, assert_near, weights
from tests.methods.toys import RATE, features_of, mask_of, small_batch, small_method


def losses_of(model: MultimodalModel, heads: Any, batches: list[Batch]) -> dict[str, Tensor]:
    """Means over all samples that have the modality."""
    found: dict[str, list[Tensor]] = {"fused": [], **{m: [] for m in model.modalities}}
    for batch in batches:
        h, y = features_of(model, batch), cast(Tensor, batch.target)
        found["fused"].append(
            nn.functional.cross_entropy(model.head(torch.cat(list(h.values()), 1)), y, reduction="none")
        )
        for m in h:
            mask = mask_of(batch, m)
            found[m].append(nn.functional.cross_entropy(heads[m](h[m][mask]), y[mask], reduction="none"))
    return {n: torch.cat(rows).mean() for n, rows in found.items()}


def trained_alone(method: Method, name: str, batches: list[Batch], epochs: int) -> tuple[MultimodalModel, Any]:
    """A copy after SGD with momentum on one loss."""
    copied = cast(Any, copy.deepcopy(method))
    model, heads = copied.model, copied.heads
    parameters = (
        [*model.parameters()] if name == "fused" else [*model.encoder(name).parameters(), *heads[name].parameters()]
    )
    optimizer = torch.optim.SGD(parameters, lr=RATE, momentum=0.9)
    for _ in range(epochs):
        for batch in batches:
            optimizer.zero_grad()
            losses_of(model, heads, [batch])[name].backward()  # type: ignore[no-untyped-call]
            optimizer.step()
    return model, heads


def estimated(method: Method, train: list[Batch], validation: list[Batch], epochs: int) -> dict[str, float]:
    """The weights by the paper's rule."""
    start, found = cast(Any, method), {}
    with torch.no_grad():
        t0, v0 = (losses_of(start.model, start.heads, b) for b in (train, validation))
    for name in t0:
        model, heads = trained_alone(method, name, train, epochs)
        with torch.no_grad():
            t1, v1 = (float(losses_of(model, heads, b)[name]) for b in (train, validation))
        gain = max(0.0, float(v0[name]) - v1)
        growth = (v1 - t1) - (float(v0[name]) - float(t0[name]))
        found[name] = gain / growth**2
    return {name: value / sum(found.values()) for name, value in found.items()}


def engine_for(method: Method) -> PlainEngine:
    return PlainEngine(torch.optim.SGD(method.parameters(), lr=RATE, momentum=0.9))


@pytest.mark.parametrize("absent", [False, True])
@pytest.mark.parametrize("count", [2, 3])
def test_an_estimate_and_three_steps_against_the_algorithm_written_out(count: int, absent: bool) -> None:
    method = small_method("GBlend", count, super_epoch=3, floor=1e-9)
    reference = cast(Any, copy.deepcopy(method))
    train = [small_batch(count, seed, absent) for seed in range(3)]
    validation = [small_batch(count, 9, absent, size=10)]
    engine = engine_for(method)
    expected = estimated(method, train, validation, 3)
    assert max(expected.values()) - min(expected.values()) > 0.05
    before = weights(method.model)
    method.on_train_epoch_start(EpochContext(0, loader=train, engine=engine, validation=validation))
    assert_identical(before, weights(method.model))
    optimizer = torch.optim.SGD(reference.parameters(), lr=RATE, momentum=0.9)
    for batch in train:
        report = method.training_step(batch, engine)
        assert {n: float(w) for n, w in report.coefficients["weight"].items()} == pytest.approx(expected, abs=1e-10)
        optimizer.zero_grad()
        losses = losses_of(reference.model, reference.heads, [batch])
        torch.stack([expected[n] * loss for n, loss in losses.items()]).sum().backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        assert_near(weights(method.model), weights(reference.model), 1e-10)
        assert_near(weights(method.heads), weights(reference.heads), 1e-10)  # type: ignore[arg-type]


def test_it_estimates_at_the_start_of_each_super_epoch_and_says_what_it_cost() -> None:
    method = cast(Any, small_method("GBlend", 2, super_epoch=2))
    train = [small_batch(2, 0), small_batch(2, 1)]
    engine, steps = engine_for(method), []
    for epoch in range(5):
        method.on_train_epoch_start(EpochContext(epoch, 5, loader=train, engine=engine, validation=[small_batch(2, 7)]))
        report = method.training_step(train[0], engine)
        steps.append(float(report.extras.get("probe_run/steps", 0)))
    # three copies, two batches, for two epochs or for the one that is left
    assert steps == [12, 0, 12, 0, 6]
    method = cast(Any, small_method("GBlend", 2, super_epoch=2, probe_epochs=1))
    engine = engine_for(method)
    method.on_train_epoch_start(EpochContext(0, 5, loader=train, engine=engine, validation=[small_batch(2, 7)]))
    assert float(method.training_step(train[0], engine).extras["probe_run/steps"]) == 6


def test_another_inference_rule_does_not_change_the_estimate() -> None:
    found = []
    for rule in ("fused", "mean"):
        method = cast(Any, small_method("GBlend", 2, super_epoch=1, inference=rule))
        context = EpochContext(
            0, 1, loader=[small_batch(2, 0)], engine=engine_for(method), validation=[small_batch(2, 5)]
        )
        method.on_train_epoch_start(context)
        found.append(method.weights)
        assert method.inference.rule == rule
    assert torch.equal(*found)


def test_a_modality_that_no_validation_sample_has_gets_no_weight() -> None:
    method = cast(Any, small_method("GBlend", 3, super_epoch=1))
    batch = small_batch(3, 0, absent=False)
    without = Batch({m: x for m, x in batch.inputs.items() if m != "text"}, batch.target)
    method.on_train_epoch_start(EpochContext(0, 1, loader=[batch], engine=engine_for(method), validation=[without]))
    assert method.weights[3] == 0
    assert float(method.weights.sum()) == pytest.approx(1)


def test_what_it_needs_is_named() -> None:
    method = small_method("GBlend", 2)
    batches = [small_batch(2, 0)]
    for missing in ("validation", "loader", "engine"):
        given: dict[str, Any] = {"validation": batches, "loader": batches, "engine": engine_for(method)}
        given.pop(missing)
        with pytest.raises(MethodError, match=rf"`context.{missing}`: GBlend .*Found None. Give EpochContext\("):
            method.on_train_epoch_start(EpochContext(0, **given))
    method.on_train_epoch_start(EpochContext(1))  # no start of a super-epoch
    for options in ({"super_epoch": 0}, {"probe_epochs": 1.5}, {"floor": 0}):
        with pytest.raises(MethodError, match=f"`{next(iter(options))}`"):
            small_method("GBlend", 2, **options)
