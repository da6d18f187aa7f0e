"""The plain engine: order of an update, idle parameters, scales of updates, non-finite losses, parity."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

import equimodal.engine._plain as engine_module
from equimodal import Batch, Classification, Engine, MultimodalModel, PlainEngine
from equimodal.engine import Descent, Objective, Phase, UpdateScale
from equimodal.engine._optimizers import is_scale_invariant
from equimodal.errors import MethodError, ModelError, NonFiniteError, OptimizerWarning
from equimodal.fusion import Concat
from equimodal.methods import CGGM, MLA, Ensemble, EpochContext, Joint, StepReport
from tests.helpers import (
    CLASSES,
    NAMES,
    adamw,
    any_batch,
    assert_identical,
    assert_near,
    make_batch,
    make_method,
    make_model,
    moved,
    sgd,
    split,
    weights,
)

Factory = Callable[[Any], Optimizer]
OPTIMIZERS: dict[str, Factory] = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9, weight_decay=0.01),
    "adam": lambda p: torch.optim.Adam(p, lr=0.01),
    "adamw": lambda p: torch.optim.AdamW(p, lr=0.01, weight_decay=0.1),
}


def test_it_is_an_engine() -> None:
    assert isinstance(sgd(make_model(2)), Engine)


# ---- parity ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("clip", [None, 0.1])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("count", [2, 5])
def test_joint_equals_a_plain_loop_bit_for_bit(optimizer: str, clip: float | None, count: int) -> None:
    ours, theirs = make_model(count).float(), make_model(count).float()
    method = Joint(ours, Classification(CLASSES)).train()
    engine = PlainEngine(OPTIMIZERS[optimizer](method.parameters()), clip_norm=clip)
    plain = OPTIMIZERS[optimizer](theirs.parameters())
    for step in range(4):
        batch = make_batch(count, seed=step)
        batch = Batch({m: _float(x) for m, x in batch.inputs.items()}, batch.target)
        report = method.training_step(batch, engine)
        plain.zero_grad()
        loss = nn.functional.cross_entropy(theirs(batch.inputs), batch.target)  # type: ignore[arg-type]
        loss.backward()  # type: ignore[no-untyped-call]
        if clip is not None:
            nn.utils.clip_grad_norm_(theirs.parameters(), clip)
        plain.step()
        assert torch.equal(report.losses["joint"], loss.detach())
        assert float(report.loss) == float(loss.detach())
    assert_identical(weights(ours), weights(theirs))


def _float(x: Any) -> Any:
    from equimodal.batch import tree_map

    return tree_map(lambda t: t.float(), x)


@pytest.mark.parametrize("parts", [2, 5])
def test_micro_batches_equal_the_joined_batch(parts: int) -> None:
    """12 samples in 5 parts: unequal parts count by their size."""
    whole, micro = make_method("Joint", 3), make_method("Joint", 3)
    engines = [sgd(whole, clip_norm=0.2), sgd(micro, clip_norm=0.2)]
    for step in range(3):
        batch = make_batch(3, seed=step)
        a = whole.training_step(batch, engines[0])
        b = micro.training_step(split(batch, parts), engines[1])
        assert float(a.loss) == pytest.approx(float(b.loss), abs=1e-12)
    assert_near(weights(whole), weights(micro))


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_ensemble_equals_separate_trainings(optimizer: str) -> None:
    method = make_method("Ensemble", 3)
    alone = copy.deepcopy(method)
    engine = PlainEngine(OPTIMIZERS[optimizer](method.parameters()), clip_norm=0.3)
    for step in range(4):
        method.training_step(make_batch(3, seed=step), engine)
    for m in method.modalities:
        encoder, head = alone.model.encoder(m), alone.heads[m]  # type: ignore[index, operator]
        parameters = [*encoder.parameters(), *head.parameters()]  # type: ignore[union-attr]
        plain = OPTIMIZERS[optimizer](parameters)
        for step in range(4):
            batch = make_batch(3, seed=step)
            plain.zero_grad()
            nn.functional.cross_entropy(head(encoder(batch.inputs[m])), batch.target).backward()  # type: ignore[arg-type, no-untyped-call, operator]
            nn.utils.clip_grad_norm_(parameters, 0.3)
            plain.step()
    assert_identical(weights(method), weights(alone))


# ---- order ----------------------------------------------------------------------------------------------------------


def test_the_order_of_an_update(monkeypatch: pytest.MonkeyPatch) -> None:
    """Backward, average over processes, the method, clip, step; the method sees unclipped gradients."""
    events: list[str] = []

    class Watched(Joint):
        def modify_gradients(
            self, phase: Phase, descent: Descent, engine: Engine, report: StepReport
        ) -> Sequence[UpdateScale]:
            events.append("modify")
            norm = torch.cat([p.grad.flatten() for p in self.parameters() if p.grad is not None]).norm()
            assert norm > 0.011
            return ()

        def after_step(self, phase: Phase, descent: Descent, engine: Engine, report: StepReport) -> None:
            events.append("after")

    real_clip = nn.utils.clip_grads_with_norm_

    def clip(*arguments: Any, **options: Any) -> None:
        events.append("clip")
        real_clip(*arguments, **options)

    monkeypatch.setattr("torch.nn.utils.clip_grads_with_norm_", clip)
    monkeypatch.setattr(engine_module, "is_distributed", lambda: True)
    monkeypatch.setattr("torch.distributed.get_world_size", lambda: 1)
    monkeypatch.setattr(engine_module, "average_gradients", lambda *a, **k: events.append("average"))
    monkeypatch.setattr(engine_module, "count_samples", lambda phase, batches, shared: (len(batches[0]), False))
    method = Watched(make_model(2), Classification(CLASSES)).train()
    optimizer = torch.optim.SGD(method.parameters(), lr=0.1)
    optimizer.register_step_pre_hook(lambda *a: events.append("step"))
    engine = PlainEngine(optimizer, clip_norm=0.01)

    def backward(loss: Tensor) -> None:
        events.append("backward")
        loss.backward()  # type: ignore[no-untyped-call]

    monkeypatch.setattr(engine, "_backward", backward)
    method.training_step(make_batch(2), engine)
    assert events == ["backward", "average", "modify", "clip", "step", "after"]


def test_clipping_counts_the_phase_only() -> None:
    method = make_method("CGGM", 2, direction=None, magnitude=False)
    reference = copy.deepcopy(method)
    batch = make_batch(2)
    before = weights(method)
    optimizer = torch.optim.SGD(method.parameters(), lr=1.0)
    method.training_step(batch, PlainEngine(optimizer, clip_norm=1e-3))
    model = torch.cat([t.flatten() for n, t in moved(before, method).items() if n.startswith("model.")])
    assert float(model.norm()) == pytest.approx(1e-3, rel=1e-3)
    free = torch.optim.SGD(reference.parameters(), lr=1.0)  # classifiers step as if nothing were clipped
    reference.training_step(batch, PlainEngine(free))
    heads = {n: t for n, t in weights(method).items() if n.startswith("classifiers.")}
    assert heads
    assert_identical(heads, {n: t for n, t in weights(reference).items() if n in heads})


# ---- idle parameters ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize(
    ("name", "options"), [("Ensemble", {}), ("MLA", {}), ("MIE", {"sam": "full"}), ("Unimodal", {"modality": NAMES[1]})]
)
def test_parameters_outside_a_phase_do_not_move_nor_does_their_state(
    name: str, options: dict[str, Any], optimizer: str
) -> None:
    method = make_method(name, 3, **options)
    stepper = OPTIMIZERS[optimizer]([p for p in method.parameters() if p.requires_grad])
    engine = PlainEngine(stepper)
    method.on_train_epoch_start(EpochContext(0, 1, 4))
    for step in range(2):
        method.training_step(make_batch(3, seed=step), engine)  # so that there is momentum to move with
    batch = make_batch(3, seed=5)
    phases = list(method.phases([batch]))
    for phase in phases:
        inside = {id(p) for p in phase.parameters}
        before = {n: (p.detach().clone(), _state(stepper, p)) for n, p in method.named_parameters()}
        descent = engine.descend(phase, [batch], method.sharpness)
        method.modify_gradients(phase, descent, engine, StepReport())
        engine.step(phase)
        for n, p in method.named_parameters():
            if id(p) not in inside:
                assert torch.equal(p, before[n][0]), n
                now = _state(stepper, p)
                assert now.keys() == before[n][1].keys()
                assert all(torch.equal(now[k], before[n][1][k]) for k in now), n
        assert any(not torch.equal(p, before[n][0]) for n, p in method.named_parameters() if id(p) in inside)


def _state(optimizer: Optimizer, p: nn.Parameter) -> dict[str, Tensor]:
    return {k: v.clone() for k, v in optimizer.state.get(p, {}).items() if isinstance(v, Tensor)}


def test_gradients_that_leak_out_of_a_phase_are_dropped() -> None:
    a, b = nn.Parameter(torch.ones(1)), nn.Parameter(torch.ones(1))
    engine = PlainEngine(torch.optim.SGD([a, b], lr=0.1))
    engine.descend(Phase("joint", lambda batch: Objective((a * b).sum()), [a]), [any_batch()])
    assert a.grad is not None
    assert b.grad is None


def test_gradients_of_parameters_without_an_optimizer_do_not_pile_up() -> None:
    """They would count in the clipped norm and in the perturbation."""
    a, b = nn.Parameter(torch.ones(1)), nn.Parameter(torch.ones(1))
    engine = PlainEngine(torch.optim.SGD([a], lr=0.0))
    phase = Phase("joint", lambda batch: Objective((a * 3 + b * 4).sum()), [a, b])
    with pytest.warns(OptimizerWarning, match="1 of its parameters are in no optimizer"):
        engine.descend(phase, [any_batch()])
    for _ in range(3):
        engine.descend(phase, [any_batch()])
        assert b.grad is not None
        assert b.grad.tolist() == [4.0]
        engine.step(phase)


def test_a_phase_with_nothing_to_train_is_an_error() -> None:
    model = make_model(2)
    model.requires_grad_(False)
    method = Joint(model, Classification(CLASSES)).train()
    with pytest.raises(ModelError, match="frozen"):
        method.training_step(make_batch(2), PlainEngine(torch.optim.SGD([nn.Parameter(torch.ones(1))], lr=0.1)))


# ---- scales of updates ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_a_constant_scale_divides_the_displacement(optimizer: str) -> None:
    def displacement(factor: float) -> list[Tensor]:
        p = nn.Parameter(torch.linspace(-1, 1, 5, dtype=torch.float64))
        engine = PlainEngine(OPTIMIZERS[optimizer]([p]))
        steps = []
        for step in range(20):
            phase = Phase("joint", lambda b, s=step: Objective((p.sin() * (1 + s % 3)).sum()), [p])  # type: ignore[misc]
            before = p.detach().clone()
            engine.descend(phase, [any_batch()])
            engine.step(phase, [UpdateScale([p], torch.tensor(factor))])
            steps.append(p.detach() - before)
            with torch.no_grad():
                p.copy_(before)  # same place, so that only the scale differs
        return steps

    for small, full in zip(displacement(0.1), displacement(1.0), strict=True):
        assert (small / full - 0.1).abs().max() < 1e-6
    for none in displacement(0.0):
        assert float(none.abs().max()) < 1e-15


def test_a_scale_of_one_is_the_update_itself_bit_for_bit() -> None:
    results = []
    for scaled in (False, True):
        torch.manual_seed(0)
        layer = nn.Linear(7, 5)
        engine = PlainEngine(torch.optim.AdamW(layer.parameters(), lr=0.01))
        x = torch.randn(4, 7)
        phase = Phase("joint", lambda b, f=layer, v=x: Objective(f(v).square().mean()), list(layer.parameters()))  # type: ignore[misc]
        for _ in range(5):
            engine.descend(phase, [any_batch()])
            engine.step(phase, [UpdateScale(list(layer.parameters()), torch.ones(()))] if scaled else [])
        results.append(weights(layer))
    assert_identical(*results)


@pytest.mark.parametrize(("optimizer", "ratio"), [("sgd", 0.1), ("adam", 1.0), ("adamw", 1.0)])
def test_gradient_mode_keeps_the_scale_under_sgd_and_loses_it_under_adam(optimizer: str, ratio: float) -> None:
    """Why the warning exists: the numbers behind it."""
    displacements = []
    for factor in (1.0, 0.1):
        p = nn.Parameter(torch.ones(1, dtype=torch.float64))
        o: Optimizer = {
            "sgd": lambda q: torch.optim.SGD(q, lr=0.01, momentum=0.9),
            "adam": lambda q: torch.optim.Adam(q, lr=0.01),
            "adamw": lambda q: torch.optim.AdamW(q, lr=0.01, weight_decay=0),
        }[optimizer]([p])  # type: ignore[no-untyped-call]
        for _ in range(50):
            p.grad = torch.full_like(p, factor)
            o.step()
        displacements.append(float((1 - p).detach()))
    assert displacements[1] / displacements[0] == pytest.approx(ratio, rel=1e-4)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("apply_to", ["auto", "update", "gradient"])
def test_apply_to_of_cggm_in_displacements(optimizer: str, apply_to: Any) -> None:
    """One step from rest with B fixed at 1/2 and rho = 0.2: encoders move a tenth of what they move without."""
    change = {}
    for rho in (0.2, 2.0):
        method = make_method("CGGM", 2, rho=rho, apply_to=apply_to, direction=None)
        factory: Factory = {
            "sgd": lambda p: torch.optim.SGD(p, lr=0.05),
            "adam": lambda p: torch.optim.Adam(p, lr=0.01),
            "adamw": lambda p: torch.optim.AdamW(p, lr=0.01, weight_decay=0.1),
        }[optimizer]
        engine = PlainEngine(factory(method.parameters()))
        before = weights(method)
        if apply_to == "gradient" and optimizer != "sgd":
            with pytest.warns(OptimizerWarning, match="apply_to='gradient'"):
                method.training_step(make_batch(2), engine)
        else:
            method.training_step(make_batch(2), engine)
        change[rho] = moved(before, method)
    kept = apply_to != "gradient" or optimizer == "sgd"
    encoder = [n for n in change[2.0] if n.startswith("model.encoders.") and float(change[2.0][n].abs().max()) > 0]
    assert encoder
    for n in encoder:
        small, full = change[0.2][n], change[2.0][n]
        where = full.abs() > 1e-5
        ratio = small[where] / full[where]
        if kept:
            assert (ratio - 0.1).abs().max() < 1e-5, n
        elif where.any():  # cancelled, up to the optimizer's epsilon
            assert float(ratio.median()) > 0.9, n
    assert torch.equal(change[2.0]["model.head.weight"], change[0.2]["model.head.weight"])


def test_optimizers_that_cancel_a_scale() -> None:
    """Each optimizer of torch, judged by what it does to a constant scale."""
    classes = [
        torch.optim.SGD, torch.optim.ASGD, torch.optim.Adam, torch.optim.AdamW, torch.optim.Adamax, torch.optim.NAdam,
        torch.optim.RAdam, torch.optim.Adadelta, torch.optim.Adagrad, torch.optim.RMSprop, torch.optim.Rprop,
        torch.optim.Adafactor,
    ]  # fmt: skip
    for kind in classes:
        steps = []
        for factor in (1.0, 0.1):
            p = nn.Parameter(torch.ones(2, 2, dtype=torch.float64))
            o = kind([p], lr=1e-3)
            for step in range(80):
                p.grad = torch.full_like(p, factor * (1 + step % 2))
                before = float(p.detach().max())
                o.step()
            steps.append(abs(float(p.detach().max()) - before))
        cancels = steps[1] / steps[0] > 0.3
        assert is_scale_invariant(o) == cancels, kind.__name__


# ---- non-finite losses ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["Joint", "MLA", "CGGM", "MIE", "Ensemble"])
def test_a_nan_input_names_modality_and_samples_and_steps_nothing(name: str) -> None:
    method = make_method(name, 2)
    engine = adamw(method)
    method.on_train_epoch_start(EpochContext(0, 1, 4))
    batch = make_batch(2)
    x = {m: v.clone() for m, v in batch.inputs.items()}
    x[NAMES[0]][[4, 7]] = math.nan
    before = weights(method)
    with pytest.raises(NonFiniteError, match=rf"inputs\['{NAMES[0]}'\].*2 sample\(s\).*\[1004, 1007\]"):
        method.training_step(Batch(x, batch.target, None, batch.index), engine)
    assert_identical(before, weights(method))
    assert all(p.grad is None for p in method.parameters())
    assert not engine.optimizers[0].state
    method.training_step(batch, engine)  # and training can go on
    assert all(torch.isfinite(t).all() for t in weights(method).values())


def test_an_infinite_loss_with_finite_inputs_names_phase_and_samples() -> None:
    method = make_method("Joint", 2)
    with torch.no_grad():
        method.model.head.weight.fill_(1e308)  # type: ignore[operator]
    before = weights(method)
    with pytest.raises(NonFiniteError, match=r"phase 'joint'.*finite inputs.*\[1000, 1001"):
        method.training_step(make_batch(2), sgd(method))
    assert_identical(before, weights(method))


def test_a_nan_in_the_last_micro_batch_steps_nothing() -> None:
    method = make_method("Joint", 2)
    parts = split(make_batch(2), 3)
    bad = {m: v.clone() for m, v in parts[2].inputs.items()}
    bad[NAMES[0]][0] = math.inf
    before = weights(method)
    with pytest.raises(NonFiniteError, match="1008"):
        method.training_step([*parts[:2], Batch(bad, parts[2].target, None, parts[2].index)], sgd(method))
    assert_identical(before, weights(method))
    assert all(p.grad is None for p in method.parameters())


def test_losses_that_are_not_looked_at_are_remembered() -> None:
    method = make_method("Joint", 2)
    engine = sgd(method, check_finite=False)
    method.training_step(make_batch(2), engine)
    engine.raise_if_not_finite()
    with torch.no_grad():
        method.model.head.bias.fill_(math.nan)  # type: ignore[operator]
    method.training_step(make_batch(2), engine)
    with pytest.raises(NonFiniteError, match="joint"):
        engine.raise_if_not_finite()
    engine.raise_if_not_finite()  # said once


# ---- the rest -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_reset_optimizer_forgets_what_is_named(optimizer: str) -> None:
    a, b = nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(2))
    stepper = OPTIMIZERS[optimizer]([a, b])
    engine = PlainEngine(stepper)
    phase = Phase("joint", lambda batch: Objective((a * b).sum()), [a, b])
    for _ in range(2):
        engine.descend(phase, [any_batch()])
        engine.step(phase)
    engine.reset_optimizer([a])
    assert a not in stepper.state
    assert b in stepper.state
    engine.descend(phase, [any_batch()])
    engine.step(phase)


def test_several_optimizers() -> None:
    method = make_method("CGGM", 2)
    model = torch.optim.SGD(method.model.parameters(), lr=0.1)
    heads = torch.optim.Adam(method.classifiers.parameters(), lr=0.01)  # type: ignore[union-attr]
    engine = PlainEngine([model, heads])
    before = weights(method)
    method.training_step(make_batch(2), engine)
    after = weights(method)
    assert not torch.equal(before["model.head.weight"], after["model.head.weight"])
    assert any(not torch.equal(before[n], after[n]) for n in before if n.startswith("classifiers."))
    assert engine.optimizers == [model, heads]


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({"clip_norm": 0.0}, "clip_norm"),
        ({"clip_norm": -1.0}, "clip_norm"),
        ({"clip_norm": math.nan}, "clip_norm"),
        ({"autocast": torch.float16}, "autocast"),
    ],
)
def test_bad_arguments(options: dict[str, Any], name: str) -> None:
    with pytest.raises(MethodError, match=f"`{name}`"):
        sgd(make_model(2), **options)
    with pytest.raises(MethodError, match="`optimizer`"):
        PlainEngine([])


def test_statistics_are_made_in_full_precision_under_autocast() -> None:
    torch.manual_seed(0)
    encoders = {m: nn.Linear(5, 6) for m in NAMES[:2]}
    batch = Batch({m: torch.randn(8, 5) for m in encoders}, torch.arange(8) % 3)
    seen: list[Tensor] = []
    for projector in ("orthogonal", "flat"):
        model = MultimodalModel(encoders, Concat(dict.fromkeys(encoders, 6)), nn.Linear(12, 3))
        method = MLA(model, Classification(3), projector=projector)
        engine = PlainEngine(torch.optim.SGD(method.parameters(), lr=0.1), autocast=torch.bfloat16)
        phase = next(iter(method.phases([batch])))
        method.head.register_forward_pre_hook(lambda _, x: seen.append(x[0].detach().double()))
        sums = engine.descend(phase, [batch]).sums
        rows = seen[-1]
        assert rows.shape == (8, 6)
        if projector == "orthogonal":
            assert (sums["statistic/0"].double() - rows.sum(0)).abs().max() < 1e-5
        else:
            assert sums["statistic/0"].dtype == torch.float32
            assert (sums["statistic/0"].double() - rows.mT @ rows).abs().max() < 1e-5


@pytest.mark.parametrize("name", ["Joint", "MLA", "CGGM", "MIE"])
def test_bfloat16_forward_passes(name: str) -> None:
    method = make_method(name, 2).float()
    batch = make_batch(2)
    batch = Batch({m: _float(x) for m, x in batch.inputs.items()}, batch.target)
    engine = PlainEngine(torch.optim.SGD(method.parameters(), lr=0.05), autocast=torch.bfloat16)
    method.on_train_epoch_start(EpochContext(0, 1, 2, [batch], engine))
    first = method.training_step(batch, engine)
    for _ in range(10):
        last = method.training_step(batch, engine)
    assert all(p.dtype == torch.float32 and torch.isfinite(p).all() for p in method.parameters())
    assert float(last.loss) < float(first.loss)


def test_cggm_equals_joint_bit_for_bit_where_it_is_neutral() -> None:
    """direction off, rho = M / (M - 1), equal improvements: the released gradient is the plain one."""
    for count in (2, 3, 5):
        for options in ({"direction": None}, {"direction_weight": 0.0}):
            rho = count / (count - 1)
            joint = make_method("Joint", count)
            cggm = make_method("CGGM", count, rho=rho, **options)
            a, b = sgd(joint, clip_norm=0.2), sgd(cggm, clip_norm=0.2)
            c = make_method("CGGM", count, rho=rho, apply_to="update", **options)
            d = adamw(c)
            plain, e = make_method("Joint", count), None
            e = adamw(plain)
            for step in range(4):
                batch = make_batch(count, seed=step)
                joint.training_step(batch, a)
                cggm.training_step(batch, b)
                plain.training_step(batch, e)
                c.training_step(batch, d)
            assert_identical(weights(joint.model), weights(cggm.model))
            assert_identical(weights(plain.model), weights(c.model))


@pytest.mark.parametrize("count", [2, 3, 5])
def test_cggm_equals_joint_bit_for_bit_with_equal_positive_improvements(count: int) -> None:
    """All modalities improve by the same amount in every step."""

    class Same(CGGM):
        improvement = 0.013

        def modify_gradients(
            self, phase: Phase, descent: Descent, engine: Engine, report: StepReport
        ) -> Sequence[UpdateScale]:
            from equimodal.functional import balance_terms

            balance = balance_terms(torch.full((count,), self.improvement), floor=1e-3)
            self.progress.update = lambda *_: self.progress.balance.copy_(balance)  # type: ignore[method-assign,assignment]
            return super().modify_gradients(phase, descent, engine, report)

    for improvement in (0.013, 1 / 7, 0.5, 1e-6):
        joint = make_method("Joint", count)
        same = (
            Same(make_model(count), Classification(CLASSES), rho=count / (count - 1), direction=None).double().train()
        )
        same.improvement = improvement
        a, b = sgd(joint), sgd(same)
        for step in range(2):
            joint.training_step(make_batch(count, seed=step), a)
            same.training_step(make_batch(count, seed=step), b)
        assert_identical(weights(joint.model), weights(same.model))


def test_ensemble_reports_scores() -> None:
    method = make_method("Ensemble", 2)
    assert isinstance(method, Ensemble)
    report = method.training_step(make_batch(2), sgd(method))
    assert set(report.scores) == set(NAMES[:2])
