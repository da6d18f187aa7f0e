"""Order of an update, sharpness-aware passes, optimizers, and losses that are not finite, for every method."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from equimodal import Batch, PlainEngine, Sharpness
from equimodal.engine import Objective, Phase, UpdateScale
from equimodal.engine._optimizers import has_momentum, is_scale_invariant, is_schedule_free
from equimodal.errors import NonFiniteError, UnsupportedError
from equimodal.methods import EpochContext, Method
from tests.features.helpers import (
    OPTIMIZERS,
    Setting,
    Watched,
    data,
    departure,
    every_setting,
    nan_batch,
    plain_method,
    single,
    tensors,
)
from tests.helpers import any_batch, assert_identical, is_wild, train, weights
from tests.trees import assert_same_tree


def start(method: Method, engine: PlainEngine, batch: Batch) -> None:
    method.on_train_epoch_start(EpochContext(0, 4, 9, [batch], engine))


# ---- order -----------------------------------------------------------------------------------------------------------


@every_setting
def test_order(setting: Setting, monkeypatch: pytest.MonkeyPatch) -> None:
    """Average, unscale, modify, clip, step, then the method's own state; in every phase."""
    method = plain_method(setting).float()
    optimizer = torch.optim.SGD(method.parameters(), lr=1e-3, momentum=0.9)
    engine = Watched(optimizer, clip_norm=0.5, scaler=torch.amp.GradScaler("cpu", init_scale=4.0))
    start(method, engine, single(data()))

    def spy(name: str, event: str) -> None:
        original: Callable[..., Any] = getattr(method, name)

        def spied(*arguments: Any) -> Any:
            engine.events.append(event)
            return original(*arguments)

        monkeypatch.setattr(method, name, spied)

    spy("modify_gradients", "modify")
    spy("after_step", "after")
    report = method.training_step(single(data()), engine)
    one_pass = ["average", "unscale"]
    passes = one_pass if method.sharpness is None or method.sharpness.mode == "momentum" else one_pass * 2
    assert report.phases
    expected = [e for p in report.phases for e in [f"phase {p}", *passes, "modify", "clip", "step", "after"]]
    assert engine.events == expected


# ---- sharpness -------------------------------------------------------------------------------------------------------


@every_setting
@pytest.mark.parametrize("mode", ["full", "every_k", "momentum"])
def test_sharpness(setting: Setting, mode: Any) -> None:
    """With a rate of 0 nothing but statistics moves: weights come back to the bit, statistics are counted once."""
    if departure(setting, "sharpness") is not None:
        pytest.skip("says that it departs")
    plain, sharp = plain_method(setting, norm=True), plain_method(setting, norm=True)
    plain.sharpness = None
    sharp.sharpness = Sharpness(mode, radius=0.1)
    sharp.sharpness.attach(sharp)
    for method in (plain, sharp):
        engine = PlainEngine(torch.optim.SGD(method.parameters(), lr=0.0, momentum=0.9), clip_norm=0.5)
        before = {n: p.detach().clone() for n, p in method.named_parameters()}
        start(method, engine, data())
        for seed in range(3):
            method.training_step(data(seed=seed), engine)
        if setting[1].get("variant") != "released" or setting[0] != "MIE":
            assert_identical(before, dict(method.named_parameters()))
    if mode == "momentum" or (setting[0] == "MIE" and setting[1].get("variant") == "released"):
        return  # one pass, at the perturbed weights, whose statistics they are
    counted = [n for n in tensors(plain) if "running_" in n or "num_batches" in n]
    assert counted
    a, b = tensors(plain), tensors(sharp)
    assert_identical({n: a[n] for n in counted}, {n: b[n] for n in counted})


# ---- optimizers ------------------------------------------------------------------------------------------------------


@every_setting
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_optimizers(setting: Setting, optimizer: str) -> None:
    """Each trains, and what a phase leaves out keeps still, with its state."""
    if is_wild(setting) and optimizer != "sgd":
        pytest.skip("the released rule needs its published optimizer")
    method = plain_method(setting)
    made = OPTIMIZERS[optimizer]([p for p in method.parameters() if p.requires_grad])
    if is_wild(setting):
        made.param_groups[0]["lr"] = 1e-4
    engine = PlainEngine(made, clip_norm=1.0)
    if optimizer == "schedule-free" and method.sharpness is not None and method.sharpness.mode == "momentum":
        start(method, engine, data())
        with pytest.raises(UnsupportedError, match="momentum"):
            method.training_step(data(), engine)
        return
    train(method, engine, range(2), [data(seed=s) for s in range(3)], total=4)
    assert all(torch.isfinite(t).all() for t in weights(method).values())
    context = EpochContext(2, 4, 1, [data()], engine)
    method.on_train_epoch_start(context)
    batches = method.prepare([data(seed=7)])
    for phase in method.phases(batches):
        inside = {id(p) for p in (*phase.parameters, *phase.auxiliary)}
        left = {n: p for n, p in method.named_parameters() if id(p) not in inside}
        idle = {n: (p, p.detach().clone(), copy.deepcopy(made.state.get(p))) for n, p in left.items()}
        engine.descend(phase, batches)
        engine.step(phase)
        for name, (p, value, state) in idle.items():
            assert torch.equal(p, value), name
            assert_same_tree(made.state.get(p), state)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_a_constant_coefficient_of_a_tenth_moves_a_tenth(optimizer: str) -> None:
    """Scaled by the engine; for schedule-free the averaged point, which is what is evaluated, moves a tenth too."""
    ends = []
    for factor in (1.0, 0.1):
        p = nn.Parameter(torch.linspace(0.5, 1, 5, dtype=torch.float64))
        made: Any = OPTIMIZERS[optimizer]([p])
        engine = PlainEngine(made)
        moves = []
        for step in range(6):
            phase = Phase("joint", lambda b, s=step, q=p: Objective((q.sin() * (1 + s % 3)).sum()), [p])  # type: ignore[misc]
            point, before = made.state.get(p, {}).get("z"), p.detach().clone()
            z = before.clone() if point is None else point.clone()
            engine.descend(phase, [any_batch()])
            engine.step(phase, [UpdateScale([p], torch.tensor(factor))])
            moves.append(p.detach() - before)
            if optimizer == "schedule-free":
                y = p.detach().clone()
                made.eval()
                moves.append(p.detach() - ((before - 0.1 * z) / 0.9))  # where the average was
                made.train()
                assert (p.detach() - y).abs().max() < 1e-12
                made.state[p]["z"].copy_(z)
            with torch.no_grad():
                p.copy_(before)  # from the same place, so that only the factor differs
        ends.append(moves)
    for full, small in zip(*ends, strict=True):
        where = full.abs() > 1e-9
        assert where.any() or optimizer == "schedule-free"
        assert ((small / full)[where] - 0.1).abs().max() < 1e-6 if where.any() else True


def test_what_an_engine_knows_about_optimizers() -> None:
    p = [nn.Parameter(torch.ones(1))]
    known = {name: (is_scale_invariant(o), has_momentum(o), is_schedule_free(o)) for name, make in OPTIMIZERS.items()
             for o in [make(p)]}  # fmt: skip
    assert known == {
        "sgd": (False, True, False),
        "adamw": (True, True, False),
        "lion": (True, True, False),
        "schedule-free": (False, False, True),
    }
    assert not has_momentum(torch.optim.SGD(p, lr=0.1))


# ---- losses that are not finite --------------------------------------------------------------------------------------


@every_setting
def test_nonfinite(setting: Setting) -> None:
    """A NaN in the inputs: an error that names it; weights, optimizer, statistics and method as before."""
    if departure(setting, "nonfinite") is not None:
        pytest.skip("says that it departs")
    method = plain_method(setting, norm=True)
    optimizer = torch.optim.SGD(method.parameters(), lr=1e-3, momentum=0.9)
    engine = PlainEngine(optimizer, clip_norm=0.5)
    start(method, engine, data())
    if setting[0] != "MIE" or not setting[1].get("mixup_alpha"):
        method.training_step(data(), engine)
    before = {n: t for n, t in tensors(method).items() if "generator" not in n}
    states = copy.deepcopy(optimizer.state_dict())
    if setting[1].get("order") == "shuffled":
        setattr(method, "order", "fixed")  # noqa: B010 (the phase of "a" first: those before it are whole updates)
    with pytest.raises(NonFiniteError, match=r"inputs\['a'\].*\d sample"):
        method.training_step(nan_batch(data(), "a"), engine)
    assert_identical(before, {n: t for n, t in tensors(method).items() if n in before})
    assert_same_tree(optimizer.state_dict(), states)
    assert all(p.grad is None for p in method.parameters())


def test_an_error_of_the_model_leaves_batch_statistics_as_they_were() -> None:
    class Late(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fail = False
            self.head = nn.Linear(18, 3)

        def forward(self, x: Tensor) -> Tensor:
            if self.fail:
                raise RuntimeError("on purpose")
            out: Tensor = self.head(x)
            return out

    method = plain_method(("Joint", {}), norm=True)
    late = Late().double()
    setattr(method.model, "head", late)  # noqa: B010
    engine = PlainEngine(torch.optim.SGD(method.parameters(), lr=0.1))
    method.training_step(data(), engine)
    before = tensors(method)
    late.fail = True
    with pytest.raises(RuntimeError, match="on purpose"):
        method.training_step(data(), engine)
    assert_identical(before, tensors(method))
