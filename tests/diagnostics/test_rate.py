"""The range test of the learning rate: its rule, that it leaves no trace, and what it refuses."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from equimodal import PlainEngine
from equimodal.data import loader
from equimodal.diagnostics import find_rate
from equimodal.diagnostics._rate import _chosen
from equimodal.errors import MethodError, UnsupportedError
from equimodal.methods import EpochContext, available
from equimodal.studies import ModelConfig, build_method, build_model
from tests.features.helpers import data, plain_method, tensors
from tests.studies.helpers import arrays

STEPS = 25


def sgd(groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
    return torch.optim.SGD(groups, lr=1e-3)


@pytest.mark.parametrize("name", available(outside=False))
def test_every_method_is_tested_and_left_as_it_was(name: str) -> None:
    method = plain_method((name, {}))
    batches = [data(12)]
    before, state = tensors(method), torch.get_rng_state()
    found = find_rate(method, batches, sgd, low=1e-3, high=1e2, steps=STEPS, validation=[data(12, 9)])
    after = tensors(method)
    assert before.keys() == after.keys()
    assert all(torch.equal(before[n], after[n]) for n in before), "a weight or statistic has changed"
    assert torch.equal(state, torch.get_rng_state())
    assert len(found.rates) == len(found.losses) == len(found.smoothed) <= STEPS
    lowest = min(range(9, len(found.smoothed)), key=found.smoothed.__getitem__)
    assert found.suggestion == found.rates[lowest] / 10
    assert "1506.01186" in found.rule


def test_rates_losses_and_means_by_hand() -> None:
    """Against a loop over the method's own steps."""
    method, batches = plain_method(("Joint", {})), [data(12, 0), data(12, 1)]
    found = find_rate(method, batches, sgd, low=1e-3, high=1.0, steps=STEPS)
    optimizer = sgd(method.parameter_groups(1e-3))
    engine, mean = PlainEngine(optimizer), 0.0
    method.train()
    method.on_train_epoch_start(EpochContext(0, 1, None, loader=batches, engine=engine))
    for step, (rate, loss, smooth) in enumerate(zip(found.rates, found.losses, found.smoothed, strict=True)):
        assert rate == pytest.approx(1e-3 * 1000 ** (step / (STEPS - 1)))
        optimizer.param_groups[0]["lr"] = rate
        own = float(method.training_step(batches[step % 2], engine).loss)
        mean = 0.9 * mean + 0.1 * own
        assert (own, mean / (1 - 0.9 ** (step + 1))) == pytest.approx((loss, smooth), abs=1e-9)


def test_groups_keep_their_ratios_and_the_loader_its_position() -> None:
    seen: list[list[float]] = []

    class Watched(torch.optim.SGD):
        def step(self, *rest: Any) -> Any:
            seen.append([group["lr"] for group in self.param_groups])
            return super().step(*rest)

    def halves(groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
        parameters = groups[0]["params"]
        return Watched([{"params": parameters[:2]}, {"params": parameters[2:], "lr": 5e-4}], lr=1e-3)

    batches = loader(arrays().train, 16, seed=1)
    next(iter(batches))
    position = batches.state_dict()
    model = build_model(arrays(), ModelConfig(feature_size=4, size="small"))
    find_rate(build_method(model, arrays(), "Joint", {}), batches, halves, steps=STEPS)
    assert batches.state_dict() == position
    assert all(b == pytest.approx(a / 2) for a, b in seen)


def test_what_is_refused() -> None:
    method, batches = plain_method(("Joint", {})), [data(12, 0)]
    with pytest.raises(MethodError, match="lowers the training loss"):
        _chosen([0.1] * 20, [1.0] * 20, [1.0 + i / 9 for i in range(20)])
    with pytest.raises(MethodError, match="no number"):
        find_rate(method, batches, sgd, low=1e8, high=1e9, steps=STEPS)
    with pytest.raises(MethodError, match="low < high"):
        find_rate(method, batches, sgd, low=1.0, high=0.1)
    with pytest.raises(MethodError, match="`steps`"):
        find_rate(method, batches, sgd, steps=3)
    with pytest.raises(UnsupportedError, match="iterator"):
        find_rate(method, iter(batches), sgd)
    with pytest.raises(MethodError, match="at least one training batch"):
        find_rate(method, [], sgd)
