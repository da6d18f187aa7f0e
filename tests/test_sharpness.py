"""Sharpness-aware gradients: restored weights, paused statistics, equal randomness, the closed form."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from equimodal import Batch, Classification, MultimodalModel, PlainEngine, Sharpness
from equimodal.engine import Objective, Phase, paused_statistics
from equimodal.engine._perturbation import perturbed
from equimodal.engine._random_state import random_state, restore_random_state
from equimodal.errors import MethodError, NonFiniteError
from equimodal.fusion import Concat
from equimodal.methods import Joint
from tests.helpers import any_batch, assert_identical, make_batch, make_model, quadratic_phase, sgd, weights

F64 = torch.float64
A = torch.tensor([[3.0, 1.0, 0.0], [1.0, 2.0, 0.5], [0.0, 0.5, 1.0]], dtype=F64)
X = torch.tensor([1.0, -2.0, 0.5], dtype=F64)


def quadratic(**options: Any) -> tuple[nn.Parameter, PlainEngine, Phase]:
    x = nn.Parameter(X.clone())
    return x, PlainEngine(torch.optim.SGD([x], lr=0.1, **options)), quadratic_phase(x, A)


@pytest.mark.parametrize(("radius", "ratio"), [(0.05, 0.3), (0.7, 1.0), (0.5, 0.0), (1e-10, 0.3)])
def test_a_quadratic_has_the_closed_form(radius: float, ratio: float) -> None:
    x, engine, phase = quadratic()
    engine.descend(phase, [any_batch()], Sharpness("full", radius=radius, ratio=ratio))
    g = A @ X
    expected = (1 - ratio) * g + ratio * A @ (X + radius * g / g.norm())
    assert x.grad is not None
    assert (x.grad - expected).abs().max() < 1e-14
    assert torch.equal(x.detach(), X)


def test_the_norm_is_over_all_parameters() -> None:
    x, y = nn.Parameter(X.clone()), nn.Parameter(torch.tensor([5.0], dtype=F64))
    phase = Phase("joint", lambda b: Objective(x @ A @ x / 2 + 3 * (y * y).sum()), [x, y])
    PlainEngine(torch.optim.SGD([x, y], lr=0.1)).descend(phase, [any_batch()], Sharpness(radius=0.2, ratio=1.0))
    g, h = A @ X, 6 * y.detach()
    norm = torch.cat([g, h]).norm()
    assert x.grad is not None
    assert y.grad is not None
    assert (x.grad - A @ (X + 0.2 * g / norm)).abs().max() < 1e-14
    assert (y.grad - 6 * (y.detach() + 0.2 * h / norm)).abs().max() < 1e-14


def test_a_zero_gradient_stays_zero() -> None:
    x = nn.Parameter(torch.zeros(3, dtype=F64))
    engine = PlainEngine(torch.optim.SGD([x], lr=0.1))
    engine.descend(quadratic_phase(x, A), [any_batch()], Sharpness(radius=0.5))
    assert x.grad is not None
    assert float(x.grad.abs().sum()) == 0
    assert float(x.detach().abs().sum()) == 0


def test_momentum_looks_along_the_optimizers_momentum() -> None:
    x, engine, phase = quadratic(momentum=0.9)
    sharpness = Sharpness("momentum", radius=0.3)
    engine.descend(phase, [any_batch()], sharpness)
    assert x.grad is not None
    assert torch.equal(x.grad, A @ X)  # no momentum yet
    engine.step(phase)
    buffer = engine.optimizers[0].state[x]["momentum_buffer"].clone()
    before = x.detach().clone()
    engine.descend(phase, [any_batch()], sharpness)
    assert (x.grad - A @ (before + 0.3 * buffer / buffer.norm())).abs().max() < 1e-14
    assert torch.equal(x.detach(), before)


def test_momentum_with_adam_takes_its_first_moment() -> None:
    x = nn.Parameter(X.clone())
    engine, phase = PlainEngine(torch.optim.AdamW([x], lr=0.1)), quadratic_phase(x, A)
    sharpness = Sharpness("momentum", radius=0.3)
    engine.descend(phase, [any_batch()], sharpness)
    engine.step(phase)
    moment, before = engine.optimizers[0].state[x]["exp_avg"].clone(), x.detach().clone()
    engine.descend(phase, [any_batch()], sharpness)
    assert x.grad is not None
    assert (x.grad - A @ (before + 0.3 * moment / moment.norm())).abs().max() < 1e-14


def test_every_k_adds_the_stored_difference() -> None:
    x, engine, phase = quadratic()
    sharpness = Sharpness("every_k", radius=0.4, ratio=0.5, every=3)
    passes: list[int] = []
    phase = Phase("joint", lambda b: passes.append(1) or Objective(x @ A @ x / 2), [x])  # type: ignore[func-returns-value]
    difference = torch.zeros(3, dtype=F64)
    for step in range(7):
        before, count = x.detach().clone(), len(passes)
        g = A @ before
        engine.descend(phase, [any_batch()], sharpness)
        if step % 3 == 0:
            difference = 0.5 * (A @ (before + 0.4 * g / g.norm()) - g)
            assert len(passes) - count == 2
        else:
            assert len(passes) - count == 1
        assert x.grad is not None
        assert (x.grad - (g + difference)).abs().max() < 1e-14
        engine.step(phase)


def test_every_k_counts_each_phase_for_itself_and_survives_a_checkpoint(tmp_path: Any) -> None:
    sharpness = Sharpness("every_k", every=2)
    assert [sharpness.due("a"), sharpness.due("b")] == [True, True]
    p, q = nn.Parameter(X.clone()), nn.Parameter(X.clone())
    p.grad = 2 * X
    sharpness.combine("a", [p, q], [X, None])
    torch.save(sharpness.state_dict(), tmp_path / "s.pt")
    other = Sharpness("every_k", every=2)
    other.load_state_dict(torch.load(tmp_path / "s.pt", weights_only=True))
    assert not other.due("a")
    p.grad, q.grad = X.clone(), X.clone()
    other.add_stored("a", [p, q])
    assert torch.equal(p.grad, 2 * X)
    assert torch.equal(q.grad, X)


def test_every_k_recovers_after_a_first_step_that_failed() -> None:
    x, engine, phase = quadratic()
    sharpness = Sharpness("every_k", every=3, radius=0.1)
    bad = Phase("joint", lambda b: Objective(x.sum() * math.nan), [x])
    with pytest.raises(NonFiniteError):
        engine.descend(bad, [any_batch()], sharpness)
    engine.descend(phase, [any_batch()], sharpness)  # nothing is stored yet, so both passes are made
    g = A @ X
    assert x.grad is not None
    assert (x.grad - A @ (X + 0.1 * g / g.norm())).abs().max() < 1e-14


class Moody(nn.Module):
    """Fails, or leaves out a parameter, in the pass that is asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Parameter(torch.tensor([0.1, 0.7]))
        self.b = nn.Parameter(torch.tensor([0.3]))
        self.calls = 0

    def loss(self, leave_out: int | None, fail: int | None) -> Tensor:
        self.calls += 1
        if self.calls == fail:
            raise RuntimeError("on purpose")
        value = (self.a**3).sum()
        return value if self.calls == leave_out else value + (self.b**3).sum()


@pytest.mark.parametrize("fail", [1, 2])
def test_weights_are_restored_after_an_exception(fail: int) -> None:
    module = Moody()
    before = weights(module)
    engine = PlainEngine(torch.optim.SGD(module.parameters(), lr=0.1))
    phase = Phase("joint", lambda b: Objective(module.loss(None, fail)), list(module.parameters()))
    with pytest.raises(RuntimeError, match="on purpose"):
        engine.descend(phase, [any_batch()], Sharpness(radius=1 / 3))
    assert_identical(before, weights(module))


@pytest.mark.parametrize("leave_out", [1, 2])
def test_weights_are_restored_where_a_pass_has_no_gradient(leave_out: int) -> None:
    module = Moody()
    before = weights(module)
    engine = PlainEngine(torch.optim.SGD(module.parameters(), lr=0.1))
    phase = Phase("joint", lambda b: Objective(module.loss(leave_out, None)), list(module.parameters()))
    engine.descend(phase, [any_batch()], Sharpness(radius=1 / 3, ratio=0.25))
    assert_identical(before, weights(module))
    assert module.b.grad is not None
    g = 3 * before["b"] ** 2
    if leave_out == 2:  # the missing second gradient counts as zero
        assert torch.allclose(module.b.grad, 0.75 * g)
    else:  # not perturbed, because it had no first gradient
        assert torch.allclose(module.b.grad, 0.25 * g)


def test_a_non_finite_second_pass_restores_and_steps_nothing() -> None:
    x = nn.Parameter(torch.tensor([1.0]))
    engine = PlainEngine(torch.optim.SGD([x], lr=0.1))
    phase = Phase("joint", lambda b: Objective(torch.sqrt(1.05 - x).sum()), [x])
    with pytest.raises(NonFiniteError, match="joint"):
        engine.descend(phase, [any_batch()], Sharpness(radius=-1 + 1.2))  # climbing down the root is fine ...
        engine.descend(Phase("joint", lambda b: Objective(-torch.sqrt(1.05 - x).sum()), [x]), [any_batch()],
                       Sharpness(radius=0.2))  # fmt: skip
    assert x.tolist() == [1.0]
    assert x.grad is None


class Noisy(nn.Module):
    """Batch, instance and group statistics, and dropout."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv1d(2, 4, 3)
        self.norm = nn.BatchNorm1d(4)
        self.instance = nn.InstanceNorm1d(4, affine=True, track_running_stats=True)
        self.drop = nn.Dropout(0.5)
        self.out = nn.Linear(4, 3)
        self.masks: list[Tensor] = []

    def forward(self, x: Tensor) -> Tensor:
        h = self.drop(self.instance(self.norm(self.first(x))))
        self.masks.append((h == 0).detach())
        out: Tensor = self.out(h.mean(2))
        return out


def noisy(sharpness: Sharpness | None) -> tuple[Joint, Noisy, Batch]:
    torch.manual_seed(1)
    encoder = Noisy()
    model = MultimodalModel({"a.b": encoder}, Concat({"a.b": 3}), nn.Linear(3, 3))
    g = torch.Generator().manual_seed(0)
    batch = Batch({"a.b": torch.randn(6, 2, 9, generator=g)}, torch.arange(6) % 3)
    return Joint(model, Classification(3), sharpness=sharpness).train(), encoder, batch


@pytest.mark.parametrize("mode", ["full", "every_k"])
def test_running_statistics_are_updated_once_and_dropout_is_the_same_in_both_passes(mode: Any) -> None:
    plain, _, batch = noisy(None)
    sharp, encoder, _ = noisy(Sharpness(mode, radius=0.5))
    torch.manual_seed(7)
    sgd(plain, lr=0.0).descend(next(iter(plain.phases([batch]))), [batch])
    after_plain = torch.get_rng_state()
    torch.manual_seed(7)
    sgd(sharp, lr=0.0).descend(next(iter(sharp.phases([batch]))), [batch], sharp.sharpness)
    for (name, ours), (_, theirs) in zip(sharp.named_buffers(), plain.named_buffers(), strict=True):
        assert torch.equal(ours, theirs), name
    assert int(encoder.norm.num_batches_tracked or 0) == 1
    assert len(encoder.masks) == 2
    assert torch.equal(encoder.masks[0], encoder.masks[1])
    assert torch.equal(torch.get_rng_state(), after_plain)
    assert all(m.training for m in sharp.modules())
    assert encoder.norm.track_running_stats
    assert encoder.instance.track_running_stats


def test_paused_statistics_leave_evaluation_mode_alone_and_survive_an_exception() -> None:
    norm, frozen = nn.BatchNorm1d(2), nn.BatchNorm1d(2).eval()
    with pytest.raises(RuntimeError), paused_statistics(nn.ModuleList([norm, frozen])):
        assert frozen.track_running_stats
        norm(torch.randn(4, 2))
        raise RuntimeError
    assert norm.track_running_stats
    assert norm.running_mean is not None
    assert norm.running_mean.tolist() == [0, 0]


def test_micro_batches_share_one_perturbation() -> None:
    model, batch = make_model(2), make_batch(2)
    from tests.helpers import split

    results = []
    for batches in ([batch], split(batch, 3)):
        method = Joint(model, Classification(3), sharpness=Sharpness(radius=0.3)).train()
        engine = sgd(method)
        engine.descend(next(iter(method.phases(batches))), batches, method.sharpness)
        results.append([p.grad.clone() for p in method.parameters() if p.grad is not None])
    assert all((a - b).abs().max() < 1e-12 for a, b in zip(*results, strict=True))


def test_perturbed_and_random_state_helpers() -> None:
    p = nn.Parameter(torch.tensor([3.0, 0.0], dtype=F64))
    with perturbed([p], [torch.tensor([0.0, 2.0], dtype=F64)], 0.5):
        assert p.tolist() == [3.0, 0.5]
    assert p.tolist() == [3.0, 0.0]
    with perturbed([p], [None], 0.5):
        assert p.tolist() == [3.0, 0.0]
    state = random_state([p])
    first = torch.rand(2)
    restore_random_state(state)
    assert torch.equal(first, torch.rand(2))


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        ({"mode": "ful"}, "mode"),
        ({"radius": 0.0}, "radius"),
        ({"radius": -1.0}, "radius"),
        ({"radius": math.nan}, "radius"),
        ({"ratio": 1.1}, "ratio"),
        ({"ratio": -0.1}, "ratio"),
        ({"ratio": math.nan}, "ratio"),
        ({"every": 0}, "every"),
    ],
)
def test_bad_arguments(arguments: dict[str, Any], name: str) -> None:
    with pytest.raises(MethodError, match=f"`{name}`"):
        Sharpness(**arguments)


def test_mode_none_is_plain() -> None:
    x, engine, phase = quadratic()
    engine.descend(phase, [any_batch()], Sharpness(None))
    assert x.grad is not None
    assert torch.equal(x.grad, A @ X)
