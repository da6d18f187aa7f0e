"""Fresh optimizers for copies of parameters, and an engine with the same settings for them."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import nn

from equimodal import PlainEngine
from equimodal.engine import engine_beside, fresh_optimizer
from tests.features.helpers import OPTIMIZERS


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_fresh_optimizer_steps_as_a_new_one(name: str) -> None:
    """After steps of the first and a change of its rate by a schedule."""
    old, new, other = (nn.Parameter(torch.tensor([1.0, -2.0])) for _ in range(3))
    optimizer: Any = OPTIMIZERS[name]([old])
    for _ in range(3):
        old.grad = torch.ones(2)
        optimizer.step()
    optimizer.param_groups[0]["lr"] /= 2
    optimizer.param_groups[0]["note"] = "the user's own"
    before = copy.deepcopy(optimizer.state_dict())
    fresh: Any = fresh_optimizer(optimizer, {id(old): new})
    expected: Any = OPTIMIZERS[name]([other])
    expected.param_groups[0]["lr"] /= 2
    assert type(fresh) is type(optimizer)
    assert not fresh.state
    assert fresh.param_groups[0]["note"] == "the user's own"
    for _ in range(2):
        for p, o in ((new, fresh), (other, expected)):
            p.grad = torch.tensor([0.5, 2.0])
            o.step()
    assert torch.equal(new, other)
    assert str(before) == str(optimizer.state_dict())


def test_fresh_optimizers_of_other_kinds() -> None:
    """Groups keep their settings; names, foreign parameters and schedulers do not hinder; arguments that are not kept
    are copied."""
    first, second, foreign = (nn.Parameter(torch.ones(1)) for _ in range(3))
    copies = [nn.Parameter(torch.ones(1)) for _ in range(2)]
    optimizer = torch.optim.AdamW([
        {"params": [("one", first)], "lr": 0.1}, {"params": [("two", second), ("three", foreign)], "weight_decay": 0.5},
    ])  # fmt: skip
    torch.optim.lr_scheduler.StepLR(optimizer, 1)  # wraps the method `step` of the object
    fresh = fresh_optimizer(optimizer, {id(first): copies[0], id(second): copies[1]})
    assert fresh is not None
    assert [(g["lr"], g["weight_decay"], g["params"]) for g in fresh.param_groups] == [
        (0.1, 0.01, [copies[0]]), (0.001, 0.5, [copies[1]]),
    ]  # fmt: skip
    assert "step" not in vars(fresh)
    assert fresh_optimizer(optimizer, {}) is None

    class Odd(torch.optim.SGD):
        def __init__(self, params: Any, strength: float, **options: Any) -> None:
            super().__init__(params, lr=0.1, **options)
            self.strength, self.seen = strength, {"steps": 0}

    odd: Any = Odd([first], 3.0, momentum=0.5)
    again: Any = fresh_optimizer(odd, {id(first): copies[0]})
    assert (type(again), again.strength, again.param_groups[0]["momentum"]) == (Odd, 3.0, 0.5)
    assert again.seen == odd.seen
    assert again.seen is not odd.seen
    copies[0].grad = torch.ones(1)
    again.step()
    assert float(copies[0].detach()) == pytest.approx(0.9)


def test_an_engine_beside_has_the_same_settings() -> None:
    p, q = (nn.Parameter(torch.ones(1)) for _ in range(2))
    scaler = torch.amp.GradScaler("cpu", init_scale=8.0, growth_factor=4.0)
    engine = PlainEngine(torch.optim.SGD([p], lr=0.1), clip_norm=2.0, autocast=torch.float16, scaler=scaler,
                         compile={"backend": "eager"}, check_finite=True)  # fmt: skip
    beside = engine_beside(engine, [torch.optim.SGD([q], lr=0.1)])
    assert (beside.clip_norm, beside.autocast, beside.check_finite) == (2.0, torch.float16, True)
    assert beside._compiled is not None
    assert beside._compiled.options == {"backend": "eager"}
    assert beside._scale is not None
    assert beside._scale.scaler is not scaler
    assert (beside._scale.scaler.get_scale(), beside._scale.scaler.get_growth_factor()) == (8.0, 4.0)
