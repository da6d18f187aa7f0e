"""From configuration to model, method, optimizer, schedule and cost."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import nn

from equimodal.errors import EquimodalError, MethodError, UnknownNameError
from equimodal.methods import available
from equimodal.studies import (
    ModelConfig,
    RunConfig,
    TrainingConfig,
    build_data,
    build_method,
    build_model,
    interleaved,
    measure_cost,
    method_options,
    ratios,
)
from equimodal.studies.setup import companion_options, optimizer_factory, scheduler_factory, seeded
from tests.studies.helpers import config


def test_every_method_starts_from_the_same_model() -> None:
    data = build_data(config().data)
    models = []
    for name in available():
        settings = config(name)
        settings.uses = dict.fromkeys(companion_options(name), "runs/teacher")  # named, and not needed to predict
        models.append(seeded(settings, data).model.state_dict())
    for model in models[1:]:
        assert model.keys() == models[0].keys()
        assert all(torch.equal(t, model[n]) for n, t in models[0].items())
    other = seeded(config("Joint", seed=1), data).model.state_dict()
    assert any(not torch.equal(t, other[n]) for n, t in models[0].items())


def test_the_model_follows_its_configuration() -> None:
    data = build_data(config().data)
    model = build_model(data, ModelConfig(feature_size=5, size="small", head_hidden=7))
    assert dict(model.feature_sizes) == {"m1": 5, "m2": 5}
    assert isinstance(model.head, nn.Sequential)
    assert [m.out_features for m in model.head if isinstance(m, nn.Linear)] == [7, 3]
    assert isinstance(build_model(data, ModelConfig(size="small")).head, nn.Linear)
    with pytest.raises(UnknownNameError, match=r"modality in model\.encoders 'm3'"):
        build_model(data, ModelConfig(encoders={"m3": {}}))
    with pytest.raises(EquimodalError, match="dropuot"):
        build_model(data, ModelConfig(encoders={"m1": {"dropuot": 0.1}}))


def test_options_reach_the_method_and_unknown_ones_are_refused() -> None:
    data = build_data(config().data)
    model = build_model(data, config().model)
    method = build_method(model, data, "cggm", {"direction_weight": 0, "sharpness": {"mode": "full", "radius": 0.1}})
    assert method.direction_weight == 0
    assert method.sharpness is not None
    assert method.sharpness.radius == 0.1
    with pytest.raises(UnknownNameError, match="Did you mean 'alpha'"):
        build_method(model, data, "MLA", {"alpa": 1})
    with pytest.raises(MethodError, match="Known: mode, radius"):
        build_method(model, data, "Joint", {"sharpness": {"strength": 1}})
    for name in available():
        assert not {"model", "task", "self"} & set(method_options(name))


@pytest.mark.parametrize(
    ("name", "kind"), [("adamw", torch.optim.AdamW), ("adam", torch.optim.Adam), ("sgd", torch.optim.SGD)]
)
def test_the_optimizer_is_the_one_asked_for(name: Any, kind: type[torch.optim.Optimizer]) -> None:
    settings = TrainingConfig(optimizer=name, lr=0.3, weight_decay=0.2)
    made = optimizer_factory(settings)([{"params": [nn.Parameter(torch.ones(1))]}])
    assert type(made) is kind
    assert made.param_groups[0]["lr"] == 0.3
    assert made.param_groups[0]["weight_decay"] == 0.2


@pytest.mark.parametrize("name", ["adamw", "adam"])
def test_adam_steps_at_once_in_host_memory_and_an_older_state_goes_on_as_it_began(name: Any) -> None:
    def trained(optimizer: torch.optim.Optimizer, parameters: list[nn.Parameter], steps: range) -> None:
        for step in steps:
            for p in parameters:
                p.grad = torch.randn(p.shape, generator=torch.Generator().manual_seed(step))
            optimizer.step()

    def start() -> list[nn.Parameter]:
        return [nn.Parameter(torch.linspace(-1, 1, n)) for n in (3, 40)]

    make = optimizer_factory(TrainingConfig(optimizer=name, lr=0.01, weight_decay=0.1))
    kind = {"adamw": torch.optim.AdamW, "adam": torch.optim.Adam}[name]
    fused, plain = start(), start()
    new, old = make([{"params": fused}]), kind(plain, lr=0.01, weight_decay=0.1)
    assert new.param_groups[0]["fused"] is True
    trained(new, fused, range(5))
    trained(old, plain, range(5))
    assert all(torch.allclose(p, q, rtol=1e-5, atol=1e-7) for p, q in zip(fused, plain, strict=True))

    # resumed from a state that was saved without it: not a bit differs from a run that was never stopped
    resumed = [nn.Parameter(p.detach().clone()) for p in plain]
    later = make([{"params": resumed}])
    later.load_state_dict(copy.deepcopy(old.state_dict()))
    assert later.param_groups[0]["fused"] is None
    trained(old, plain, range(5, 9))
    trained(later, resumed, range(5, 9))
    assert all(torch.equal(p, q) for p, q in zip(plain, resumed, strict=True))


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [("constant", [1.0, 1.0, 1.0, 1.0]), ("step", [1.0, 1.0, 1.0, 0.1]), ("cosine", [1.0, 0.853553, 0.5, 0.146447])],
)
def test_schedules_by_hand(schedule: Any, expected: list[float]) -> None:
    optimizer = torch.optim.SGD([nn.Parameter(torch.ones(1))], lr=1.0)
    scheduler = scheduler_factory(TrainingConfig(schedule=schedule, epochs=4))(optimizer)
    rates = []
    for _ in range(4):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    assert rates == pytest.approx(expected, abs=1e-6)


# ---- cost ----------------------------------------------------------------------------------------------------------


def test_steps_are_timed_in_turn() -> None:
    order: list[str] = []
    found = interleaved({"a": lambda: order.append("a"), "b": lambda: order.append("b")}, rounds=3, warmup=1)
    assert order == ["a", "b"] * 4
    assert {name: len(seconds) for name, seconds in found.items()} == {"a": 3, "b": 3}


def test_ratios_are_medians_of_the_ratios_of_each_round() -> None:
    seconds = {"Joint": [1.0, 2.0, 4.0], "MLA": [2.0, 3.0, 4.0]}
    assert ratios(seconds, "Joint") == {"Joint": 1.0, "MLA": 1.5}


def test_costs_of_every_method_are_measured_on_one_batch_without_a_trace() -> None:
    data = build_data(config().data)
    state = torch.get_rng_state()
    configs: dict[str, RunConfig] = {name: config(name) for name in ("Joint", "PretrainFinetune", "MIE")}
    found = measure_cost(data, configs, rounds=2)
    assert list(found) == ["Joint", "PretrainFinetune", "MIE"]
    assert all(value > 0 for value in found.values())
    assert torch.equal(torch.get_rng_state(), state)
