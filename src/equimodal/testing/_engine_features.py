"""Properties under engine features: what :data:`equimodal.engine.FEATURES` claims of a method that says no more."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch

from equimodal.batch import Batch
from equimodal.engine import PlainEngine, Sharpness
from equimodal.errors import NonFiniteError, UnsupportedError
from equimodal.methods import Method
from equimodal.testing._cases import SIZES, Case
from equimodal.testing._data import ToyData
from equimodal.testing._engines import Overflowing, Watched, scaler, spoilt
from equimodal.testing._expect import (
    NotApplicable,
    expect,
    expect_error,
    expect_finite,
    expect_identical,
    expect_near,
    same_tree,
    subset,
)
from equimodal.testing._loops import loss_of, sgd, single, split, tensors, train, weights
from equimodal.testing._models import CLASSES, plain_batch
from equimodal.testing._optimizers import OPTIMIZERS
from equimodal.testing._property import Property


def vectors(size: int = 12, seed: int = 0) -> Batch:
    """Random vectors and labels for the MLP model."""
    return plain_batch(SIZES, CLASSES, size, seed)


def start(method: Method, engine: PlainEngine, batch: Batch) -> None:
    """The moment before an epoch."""
    method.on_train_epoch_start(ToyData([batch]).context(0, 4, engine))


def accumulation(case: Case, parts: int) -> None:
    """Micro-batches, equal or not, count as one batch: one update, the same weights (1e-9); or they are refused."""
    kind = case.departure("accumulation")
    micro, whole = case.plain(), case.plain()
    engine, reference = sgd(micro, clip_norm=0.5), sgd(whole, clip_norm=0.5)
    steps = [0, 0]
    engine.optimizers[0].register_step_pre_hook(lambda *_: steps.__setitem__(0, steps[0] + 1))
    reference.optimizers[0].register_step_pre_hook(lambda *_: steps.__setitem__(1, steps[1] + 1))
    batches = [vectors(12 if parts == 3 else 11, seed) for seed in range(3)]
    if kind == "refused":
        before = tensors(micro)
        with expect_error(UnsupportedError, "", "accumulation, which is declared as refused"):
            train(micro, engine, range(2), [split(b, parts) for b in batches], total=2)
        expect_identical(before, tensors(micro), "after the refusal")
        return
    train(micro, engine, range(2), [split(b, parts) for b in batches], total=2)
    train(whole, reference, range(2), batches, total=2)
    expect(steps[0] == steps[1], f"expected {steps[1]} updates, as for whole batches. Found {steps[0]}.")
    expect_finite(dict(micro.named_parameters()), "after training")
    if kind is None:
        expect_near(dict(micro.named_parameters()), dict(whole.named_parameters()), 1e-9, f"in {parts} micro-batches")


# ---- half precision --------------------------------------------------------------------------------------------------


def half_engine(case: Case, method: Method, dtype: torch.dtype, **options: Any) -> PlainEngine:
    """SGD under autocast."""
    optimizer = torch.optim.SGD(method.parameters(), lr=1e-3 if case.is_wild else 0.02, momentum=0.9)
    return PlainEngine(optimizer, autocast=dtype, clip_norm=1.0, **options)


def bfloat16(case: Case) -> None:
    """Forward passes in bfloat16: weights and buffers stay in float32 and finite, the loss falls; or it is refused."""
    method = case.plain().float()
    _half_precision(case, method, half_engine(case, method, torch.bfloat16), "bfloat16")


def float16(case: Case) -> None:
    """The same in float16 under a loss scale."""
    method = case.plain().float()
    _half_precision(case, method, half_engine(case, method, torch.float16, scaler=scaler()), "float16")


def _half_precision(case: Case, method: Method, engine: PlainEngine, feature: str) -> None:
    batch = single(vectors(24))
    if case.departure(feature) == "refused":
        with expect_error(UnsupportedError, "", f"{feature}, which is declared as refused"):
            train(method, engine, range(1), [batch], total=2)
        return
    types = {n: t.dtype for n, t in weights(method).items()}
    first = loss_of(method, batch)
    train(method, engine, range(8), [batch] * 3, total=8)
    last = loss_of(method, batch)
    changed = {n: t.dtype for n, t in weights(method).items() if t.dtype != types.get(n, t.dtype)}
    expect(not changed, f"expected weights and buffers in the types they had. Found {changed}.")
    expect_finite(weights(method), "after training")
    expect(case.is_wild or last < first, f"expected the loss to fall below {first:.4f}. Found {last:.4f}.")


def a_loss_scale_alone_changes_nothing(case: Case) -> None:
    """A power of two multiplies and divides without rounding, so the weights are equal bit for bit."""
    if case.departure("float16") == "refused":
        raise NotApplicable("refuses float16 (`info.engine`)")
    plain, scaled = case.plain().float(), case.plain().float()
    batches = [single(vectors(seed=s)) for s in range(3)]
    train(plain, sgd(plain, lr=1e-3, clip_norm=0.5), range(2), batches, total=2)
    train(scaled, sgd(scaled, lr=1e-3, clip_norm=0.5, scaler=scaler(2.0**10)), range(2), batches, total=2)
    expect_identical(weights(plain), weights(scaled), "under a loss scale")


def an_overflow_leaves_no_trace(case: Case) -> None:
    """Weights, optimizer, statistics of the method and of batch normalisation stay; the scale is halved once."""
    case.claims("float16")
    method = case.plain(norm=True).float()
    optimizer = torch.optim.SGD(method.parameters(), lr=1e-3, momentum=0.9)
    scale = scaler(2.0**8)
    engine = Overflowing(optimizer, scaler=scale, clip_norm=1.0)
    engine.bad = set()
    train(method, engine, range(1), [single(vectors(seed=s)) for s in range(2)], total=4)
    method.train()
    method.on_train_epoch_start(ToyData([single(vectors())]).context(1, 4, engine))
    before = {n: t for n, t in tensors(method).items() if "generator" not in n}
    states, size = copy.deepcopy(optimizer.state_dict()), float(scale.get_scale())
    engine.bad = None
    report = method.training_step(single(vectors(seed=5)), engine)
    expect(report.phases == [], f"expected every phase to be skipped. Found {report.phases} stepped.")
    now = float(scale.get_scale())
    expect(now == size / 2, f"expected the loss scale to be halved from {size:g}. Found {now:g}.")
    expect_identical(before, subset(tensors(method), before), "after an overflow")
    expect(same_tree(optimizer.state_dict(), states), "expected the optimizer's state as it was. Found another one.")
    left = [n for n, p in method.named_parameters() if p.grad is not None]
    expect(not left, f"expected no gradients left behind. Found some of {left[:5]}.")
    engine.bad = set()
    report = method.training_step(single(vectors(seed=5)), engine)
    expect(report.phases, "expected training to go on after an overflow. Found no phase stepped.")
    expect_finite(weights(method), "after an overflow")


# ---- steps -----------------------------------------------------------------------------------------------------------


def order_of_an_update(case: Case) -> None:
    """Average, unscale, modify, clip, step, then the method's own state; in every phase."""
    method = case.plain().float()
    optimizer = torch.optim.SGD(method.parameters(), lr=1e-3, momentum=0.9)
    engine = Watched(optimizer, clip_norm=0.5, scaler=torch.amp.GradScaler("cpu", init_scale=4.0))
    start(method, engine, single(vectors()))

    def spy(name: str, event: str) -> None:
        original: Callable[..., Any] = getattr(method, name)

        def spied(*arguments: Any) -> Any:
            engine.events.append(event)
            return original(*arguments)

        setattr(method, name, spied)

    spy("modify_gradients", "modify")
    spy("after_step", "after")
    report = method.training_step(single(vectors()), engine)
    one_pass = ["average", "unscale"]
    sharp = method.sharpness is not None and method.sharpness.mode != "momentum"
    passes = {p: one_pass * 2 if sharp or p in engine.moved else one_pass for p in report.phases}
    expect(report.phases, "expected at least one phase. Found none.")
    expected = [e for p in report.phases for e in [f"phase {p}", *passes[p], "modify", "clip", "step", "after"]]
    expect(engine.events == expected, f"expected {expected}. Found {engine.events}.")


def sharpness_counts_once(case: Case, mode: Any) -> None:
    """With a rate of 0 nothing but statistics moves: weights come back to the bit, statistics are counted once."""
    case.claims("sharpness")
    plain, sharp = case.plain(norm=True), case.plain(norm=True)
    plain.sharpness = None
    sharp.sharpness = Sharpness(mode, radius=0.1)
    sharp.sharpness.attach(sharp)
    for method in (plain, sharp):
        engine = PlainEngine(torch.optim.SGD(method.parameters(), lr=0.0, momentum=0.9), clip_norm=0.5)
        before = {n: p.detach().clone() for n, p in method.named_parameters()}
        start(method, engine, vectors())
        for seed in range(3):
            method.training_step(vectors(seed=seed), engine)
        expect_identical(before, dict(method.named_parameters()), "with a learning rate of 0")
    if mode == "momentum":
        return  # one pass, at the perturbed weights, whose statistics they are
    a, b = tensors(plain), tensors(sharp)
    counted = [n for n in a if "running_" in n or "num_batches" in n]
    expect(counted, "expected statistics of batch normalisation. Found none.")
    expect_identical(subset(a, counted), subset(b, counted), "statistics of batch normalisation")


def optimizers(case: Case, name: str) -> None:
    """Each kind of optimizer trains; what a phase leaves out keeps still, with its state."""
    if case.is_wild and name != "sgd":
        raise NotApplicable("a released rule needs its published optimizer")
    method = case.plain()
    optimizer = OPTIMIZERS[name]([p for p in method.parameters() if p.requires_grad])
    if case.is_wild:
        optimizer.param_groups[0]["lr"] = 1e-4
    engine = PlainEngine(optimizer, clip_norm=1.0)
    if name == "schedule-free" and method.sharpness is not None and method.sharpness.mode == "momentum":
        start(method, engine, vectors())
        with expect_error(UnsupportedError, "momentum", "sharpness along a momentum that does not exist"):
            method.training_step(vectors(), engine)
        return
    train(method, engine, range(2), [vectors(seed=s) for s in range(3)], total=4)
    expect_finite(weights(method), "after training")
    method.on_train_epoch_start(ToyData([vectors()]).context(2, 4, engine))
    batches = method.prepare([vectors(seed=7)])
    for phase in method.phases(batches):
        inside = {id(p) for p in (*phase.parameters, *phase.auxiliary)}
        idle = {
            n: (p, p.detach().clone(), copy.deepcopy(optimizer.state.get(p)))
            for n, p in method.named_parameters()
            if id(p) not in inside
        }
        engine.descend(phase, batches)
        engine.step(phase)
        for key, (p, value, state) in idle.items():
            expect(torch.equal(p, value), f"{key}: expected it to keep still in the phase {phase.name!r}.")
            same = same_tree(optimizer.state.get(p), state)
            expect(same, f"{key}: expected its optimizer state to keep still in the phase {phase.name!r}.")


def a_nan_changes_nothing(case: Case) -> None:
    """A NaN in the inputs is an error that names them; weights, optimizer, statistics and method stay as they were."""
    case.claims("nonfinite")
    method = case.plain(norm=True)
    optimizer = torch.optim.SGD(method.parameters(), lr=1e-3, momentum=0.9)
    engine = PlainEngine(optimizer, clip_norm=0.5)
    start(method, engine, vectors())
    method.training_step(vectors(), engine)
    # phases before the one that fails are whole updates: let the first one fail
    twin = copy.deepcopy(method)
    first = twin.training_step(vectors(), sgd(twin)).phases[0]
    modality = first if first in SIZES else next(iter(SIZES))
    before = {n: t for n, t in tensors(method).items() if "generator" not in n}
    states = copy.deepcopy(optimizer.state_dict())
    with expect_error(NonFiniteError, rf"inputs\['{modality}'\].*\d sample", f"a NaN in {modality!r}"):
        method.training_step(spoilt(vectors(), modality), engine)
    expect_identical(before, subset(tensors(method), before), "after a NaN")
    expect(same_tree(optimizer.state_dict(), states), "expected the optimizer's state as it was. Found another one.")
    left = [n for n, p in method.named_parameters() if p.grad is not None]
    expect(not left, f"expected no gradients left behind. Found some of {left[:5]}.")


PROPERTIES = (
    Property(accumulation, "engine", ((3,), (4,))),
    Property(bfloat16, "engine"),
    Property(float16, "engine"),
    Property(a_loss_scale_alone_changes_nothing, "engine"),
    Property(an_overflow_leaves_no_trace, "engine"),
    Property(order_of_an_update, "engine"),
    Property(sharpness_counts_once, "engine", (("full",), ("every_k",), ("momentum",))),
    Property(optimizers, "engine", tuple((name,) for name in OPTIMIZERS)),
    Property(a_nan_changes_nothing, "engine"),
)
