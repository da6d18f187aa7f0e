"""MMPareto: against a loop written out, its special cases, and what it reports."""

from __future__ import annotations

import copy
from typing import Any, cast

import pytest
import torch
from torch import Tensor, nn

from equimodal import Batch, Classification, MultimodalModel, PlainEngine
from equimodal.engine import Objective
from equimodal.errors import MethodError
from equimodal.fusion import Concat
from equimodal.methods import Method, get
from tests.helpers import adamw, assert_identical, assert_near, sgd, weights
from tests.methods.toys import RATE, features_of, mask_of, small_batch, small_method


def written_out(method: Method, batch: Batch, gamma: float) -> dict[str, bool]:
    """One step of SGD by the paper's algorithm; whether each encoder was in conflict."""
    model, heads = cast(MultimodalModel, method.model), cast(Any, method).heads
    h = features_of(model, batch)
    target = cast(Tensor, batch.target)
    fused = nn.functional.cross_entropy(model.head(torch.cat(list(h.values()), 1)), target)
    own = {m: nn.functional.cross_entropy(heads[m](h[m][mask_of(batch, m)]), target[mask_of(batch, m)]) for m in h}
    steps: list[tuple[nn.Parameter, Tensor]] = []
    conflicts = {}
    for m in h:
        parameters = list(model.encoder(m).parameters())
        first = torch.autograd.grad(fused, parameters, retain_graph=True)
        second = torch.autograd.grad(own[m], parameters, retain_graph=True)
        g0, g1 = (torch.cat([g.flatten() for g in row]) for row in (first, second))
        conflicts[m] = bool(g0 @ g1 <= 0)
        w = float((g1 - g0) @ g1 / (g0 - g1).square().sum()) if conflicts[m] else 0.5
        direction = 2 * w * g0 + 2 * (1 - w) * g1
        length = max(1.0, float((g0 + g1).norm() / direction.norm()))
        steps += [
            (p, gamma * length * 2 * (w * a + (1 - w) * b)) for p, a, b in zip(parameters, first, second, strict=True)
        ]
    rest = [*model.head.parameters(), *heads.parameters()]
    total = fused + torch.stack(list(own.values())).sum()
    steps += list(zip(rest, torch.autograd.grad(total, rest), strict=True))
    with torch.no_grad():
        for p, g in steps:
            p.sub_(RATE * g)
    return conflicts


def crossed(method: Method) -> Method:
    """The first modality's head turned against the fused head, the second's along it: one conflict, one agreement."""
    with torch.no_grad():
        heads, model = cast(Any, method).heads, cast(MultimodalModel, method.model)
        weight = cast(nn.Linear, model.head).weight
        next(heads["audio"].parameters()).copy_(-2 * weight[:, :4])
        next(heads["video"].parameters()).copy_(weight[:, 4:8])
    return method


@pytest.mark.parametrize("absent", [False, True])
@pytest.mark.parametrize("count", [2, 3])
def test_three_steps_against_the_algorithm_written_out(count: int, absent: bool) -> None:
    method = crossed(small_method("MMPareto", count, gamma=1.7))
    reference = copy.deepcopy(method)
    engine = PlainEngine(torch.optim.SGD(method.parameters(), lr=RATE))
    seen = set()
    for step in range(3):
        batch = small_batch(count, step, absent)
        report = method.training_step(batch, engine)
        conflicts = written_out(reference, batch, 1.7)
        for m, conflict in conflicts.items():
            assert bool(report.extras[f"conflict/{m}"]) is conflict
        seen |= set(conflicts.values())
        assert_near(weights(method), weights(reference), 1e-12)
    assert seen == {True, False}


def test_without_conflict_it_is_multi_loss_with_a_larger_rate_for_the_encoders() -> None:
    ours, theirs = small_method("MMPareto", 2, gamma=1.5), small_method("MultiLoss", 2)
    theirs.load_state_dict(ours.state_dict())
    for m in ours.modalities:  # the same heads as the fused one: gradients agree
        block = cast(nn.Linear, ours.multimodal.head).weight[:, slice(0, 4) if m == "audio" else slice(4, 8)]
        for method in (ours, theirs):
            next(cast(Any, method).heads[m].parameters()).data.copy_(block.detach())
    before = weights(ours)
    batch = small_batch(2, 0, absent=False)
    report = ours.training_step(batch, PlainEngine(torch.optim.SGD(ours.parameters(), lr=RATE)))
    theirs.training_step(batch, PlainEngine(torch.optim.SGD(theirs.parameters(), lr=RATE)))
    assert all(float(report.extras[f"conflict/{m}"]) == 0 for m in ours.modalities)
    assert {m: float(w) for m, w in report.coefficients["fused weight"].items()} == {"audio": 0.5, "video": 0.5}
    a, b = weights(ours), weights(theirs)
    for name in a:
        factor = 1.5 if "encoders" in name else 1.0
        assert (a[name] - before[name] - factor * (b[name] - before[name])).abs().max() < 1e-14, name


def test_adam_takes_gamma_on_the_update() -> None:
    """A factor on the gradient would leave no trace."""
    moves = []
    for gamma in (1.0, 3.0):
        method = small_method("MMPareto", 2, gamma=gamma)
        before = weights(method)
        method.training_step(
            small_batch(2, 0, absent=False), PlainEngine(torch.optim.Adam(method.parameters(), lr=0.01))
        )
        moves.append({n: t - before[n] for n, t in weights(method).items()})
    for name, move in moves[0].items():
        assert (moves[1][name] - (3 if "encoders" in name else 1) * move).abs().max() < 1e-12, name


class Vector(nn.Module):
    """An encoder of two tensors of one element each."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Parameter(torch.zeros(1)), nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.a, self.b]).expand(len(x), 2) + 0 * x


@pytest.mark.parametrize(("variant", "expected"), [("paper", (0.620174, 0.930261)), ("released", (0.615385, 1.0))])
def test_the_released_code_restores_the_length_of_each_tensor(variant: str, expected: tuple[float, float]) -> None:
    """g0 = (1, 0) and g1 = (-1/2, 1): h = (8/13, 12/13), G = (1/2, 1)."""
    encoders = {"x": Vector(), "y": Vector()}
    model = MultimodalModel(encoders, Concat({"x": 2, "y": 2}), nn.Linear(4, 2)).double()
    method = cast(Any, get("MMPareto"))(model, Classification(2), gamma=1.0, variant=variant).double()
    slopes = {"fused": (1.0, 0.0), "unimodal/x": (-0.5, 1.0)}
    x = encoders["x"]

    def objective(batch: Batch) -> Objective:
        return Objective.sum_of({n: s[0] * x.a.sum() + s[1] * x.b.sum() for n, s in slopes.items()})

    method._objective = objective
    batch = Batch({m: torch.zeros(2, 2, dtype=torch.float64) for m in encoders}, torch.tensor([0, 1]))
    method.training_step(batch, PlainEngine(torch.optim.SGD(method.parameters(), lr=1.0)))
    assert (-float(x.a.detach()), -float(x.b.detach())) == pytest.approx(expected, abs=1e-6)


def test_an_encoder_without_gradient_stays_as_it_is() -> None:
    """Dead tensors (0/0 in the released rule) and a modality that nobody has."""
    for variant in ("paper", "released"):
        method = small_method("MMPareto", 3, variant=variant)
        with torch.no_grad():
            next(cast(Any, method).heads["text"].parameters()).zero_()
            cast(nn.Linear, method.multimodal.head).weight[:, 8:].zero_()
        batch = small_batch(3, 0)
        gone = Batch(batch.inputs, batch.target, {**(batch.present or {}), "audio": torch.zeros(12, dtype=torch.bool)})
        before = weights(method)
        report = method.training_step(gone, sgd(method))
        after = weights(method)
        still = [n for n in before if n.startswith(("model.encoders.0", "model.encoders.2"))]
        assert len(still) == 4
        assert_identical({n: before[n] for n in still}, {n: after[n] for n in still})
        assert all(bool(torch.isfinite(t).all()) for t in after.values())
        assert "conflict/audio" not in report.extras
        assert "conflict/video" in report.extras


def test_micro_batches_take_the_dot_products_of_the_whole_batch() -> None:
    whole, parts = (crossed(small_method("MMPareto", 3)) for _ in range(2))
    batch = small_batch(3, 0)
    pieces = [batch.select(torch.arange(a, b)) for a, b in ((0, 5), (5, 7), (7, 12))]
    whole.training_step(batch, adamw(whole))
    parts.training_step(pieces, adamw(parts))
    assert_near(weights(whole), weights(parts), 1e-12)


def test_gamma_must_be_positive() -> None:
    with pytest.raises(MethodError, match=r"`gamma`: expected a number > 0. Found 0"):
        small_method("MMPareto", 2, gamma=0)
