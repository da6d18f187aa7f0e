"""Gradients of the parts of a loss, each against a forward and backward pass of its own."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from equimodal import Batch, PlainEngine, Sharpness
from equimodal.engine import Descent, Gradients, Objective, Phase, Survey
from equimodal.errors import MethodError, NonFiniteError, UnsupportedError
from equimodal.testing import scaler
from tests.features import facility_workers, workers
from tests.features.users import Pareto, User, indexed, user
from tests.helpers import any_batch, assert_identical, sgd, split, weights

F64 = torch.float64
Rows = dict[str, list[Tensor | None]]
TOTALS: dict[str, Callable[[User, dict[str, Tensor]], Tensor]] = {
    "weights": lambda _, parts: parts["fused"] + 0.7 * (parts["a"] + parts["keys"]) + 0 * parts["b.c"],
    "not linear": lambda _, parts: torch.stack(list(parts.values())).logsumexp(0),
    "and a rest": lambda method, parts: parts["fused"] + sum(p.square().sum() for p in method.parameters()),
    "no part of it": lambda method, parts: parts["a"] * 0 + sum(p.square().sum() for p in method.parameters()),
}


class Chosen(User):
    """The total is any function of the parts and the parameters."""

    def __init__(self, base: User, total: Callable[[User, dict[str, Tensor]], Tensor], declared: bool = False) -> None:
        super().__init__(base.model)  # type: ignore[arg-type]
        self.alone, self.total, self.declared = base.alone, total, declared
        self.separate: Sequence[nn.Parameter] | None = None
        self.ask = True

    def objective(self, batch: Batch) -> Objective:
        parts = {name: loss.mean() for name, loss in self.losses(batch).items()}
        if self.declared:
            return Objective.sum_of(parts, {"a": 0.7, "b.c": torch.tensor(0.0), "keys": 0.7})
        return Objective(self.total(self, parts), parts=parts if self.ask else {})

    def phase(self) -> Phase:
        return Phase("joint", self.objective, list(self.parameters()), separate=self.separate)


def chosen(total: str, seed: int = 0) -> Chosen:
    return Chosen(user("parts", seed), TOTALS.get(total, TOTALS["weights"]), total == "declared").double().train()


def of_its_own(method: Chosen, name: str | None, *batches: Batch) -> list[Tensor | None]:
    """Forward and backward passes by plain torch, for one loss alone; the mean over all samples."""
    parameters, samples = list(method.parameters()), sum(map(len, batches))
    added: list[Tensor | None] = [None] * len(parameters)
    for batch in batches:
        losses = {n: loss.mean() for n, loss in method.losses(batch).items()}
        loss = method.total(method, losses) if name is None else losses[name]
        for i, g in enumerate(torch.autograd.grad(loss, parameters, allow_unused=True)):
            part = None if g is None else g * len(batch) / samples
            before = added[i]
            added[i] = part if before is None else before if part is None else before + part
    return added


def gap(found: Sequence[Tensor | None], expected: Sequence[Tensor | None]) -> float:
    assert [g is None for g in found] == [g is None for g in expected]
    pairs = [(f, e) for f, e in zip(found, expected, strict=True) if f is not None and e is not None]
    return max((float((f - e).abs().max()) for f, e in pairs), default=0.0)


@pytest.mark.parametrize("parts", [1, 3, 5])
@pytest.mark.parametrize("total", [*TOTALS, "declared"])
def test_each_equals_a_full_backward_of_its_own(total: str, parts: int) -> None:
    """With one joint forward pass per micro-batch; ``.grad`` is the gradient of the total, whatever the parts are."""
    method, batch = chosen(total), indexed()
    forwards = dict.fromkeys(method.modalities, 0)
    for m in method.modalities:
        encoder = method.multimodal.encoder(m)  # type: ignore[attr-defined]
        encoder.register_forward_hook(lambda *_, m=m: forwards.__setitem__(m, forwards[m] + 1))
    micro = split(batch, parts)
    descent = sgd(method).descend(method.phase(), micro)
    assert forwards == dict.fromkeys(method.modalities, parts)
    assert list(descent.gradients) == ["fused", *method.modalities]
    found = [p.grad for p in method.parameters()]
    for name in ("fused", *method.modalities):
        assert gap(descent.gradients[name], of_its_own(method, name, batch)) < 1e-12, name
    wanted = of_its_own(method, None, *micro)
    if total == "declared":  # a weight of 0 gives a gradient of 0
        wanted = [torch.zeros_like(f) if w is None and f is not None else w for w, f in zip(wanted, found, strict=True)]
    assert gap(found, wanted) < 1e-12


@pytest.mark.parametrize("total", list(TOTALS))
def test_asking_for_parts_changes_no_bit_of_the_training(total: str) -> None:
    asked, plain = chosen(total), chosen(total)
    plain.ask = False
    for method in (asked, plain):
        method.phases = lambda _, m=method: [m.phase()]  # type: ignore[method-assign, misc]
        engine = sgd(method, clip_norm=0.3)
        for seed in range(3):
            method.training_step(split(indexed(12, seed), 2), engine)
    assert_identical(weights(asked), weights(plain))


def test_a_declared_sum_needs_one_backward_pass_less() -> None:
    counts = []
    for total in ("weights", "declared"):
        method = chosen(total)
        engine, calls = sgd(method), [0]
        backward = engine._backward

        def counted(loss: Tensor, calls: list[int] = calls, backward: Any = backward, **options: Any) -> None:
            calls[0] += 1
            backward(loss, **options)

        engine._backward = counted  # type: ignore[method-assign]
        engine.descend(method.phase(), [indexed()])
        counts.append(calls[0])
    assert counts == [5, 4]


@pytest.mark.parametrize("total", ["weights", "declared"])
def test_apart_for_some_parameters_only(total: str) -> None:
    method, batch = chosen(total), indexed()
    method.separate = method.multimodal.parameters_of("a")
    descent = sgd(method).descend(method.phase(), split(batch, 2))
    inside = {id(p) for p in method.separate}
    for name in ("fused", *method.modalities):
        own = of_its_own(method, name, batch)
        wanted = [g if id(p) in inside else None for p, g in zip(method.parameters(), own, strict=True)]
        assert gap(descent.gradients[name], wanted) < 1e-12
    whole = chosen(total)
    sgd(whole).descend(whole.phase(), split(batch, 2))
    assert gap([p.grad for p in method.parameters()], [p.grad for p in whole.parameters()]) < 1e-12


def test_a_part_may_be_missing_in_a_micro_batch_or_have_no_graph() -> None:
    x, y = nn.Parameter(torch.tensor([1.0, 2.0], dtype=F64)), nn.Parameter(torch.ones(1, dtype=F64))

    def objective(batch: Batch) -> Objective:
        scale = batch.inputs["a"].double().mean()
        parts = {"x": (x * scale).sum(), "constant": torch.ones((), dtype=F64)}
        if float(scale) > 1:
            parts["both"] = (x.sum() * y).sum()
        return Objective(torch.stack(list(parts.values())).sum(), parts=parts)

    batches = [Batch({"a": torch.full((n, 1), float(s))}) for n, s in ((2, 1), (1, 3))]
    descent = PlainEngine(torch.optim.SGD([x, y], lr=0.1)).descend(Phase("joint", objective, [x, y]), batches)
    found = {name: [None if g is None else g.tolist() for g in row] for name, row in descent.gradients.items()}
    assert found["constant"] == [None, None]
    assert found["x"] == [pytest.approx([5 / 3, 5 / 3]), None]
    assert found["both"] == [pytest.approx([1 / 3, 1 / 3]), pytest.approx([1.0])]
    assert x.grad is not None
    assert x.grad.tolist() == pytest.approx([2.0, 2.0])


def test_modifying_a_gradient_leaves_those_of_the_parts_alone() -> None:
    for total in ("weights", "declared"):
        method = chosen(total)
        descent = sgd(method).descend(method.phase(), [indexed()])
        before: Rows = {n: [None if g is None else g.clone() for g in row] for n, row in descent.gradients.items()}
        for p in method.parameters():
            if p.grad is not None:
                p.grad.mul_(0)
        assert all(gap(row, before[n]) == 0 for n, row in descent.gradients.items())


# ---- the mapping -----------------------------------------------------------------------------------------------------


def test_rows_are_found_by_parameter_and_by_name() -> None:
    method = chosen("weights")
    frozen = nn.Parameter(torch.ones(1), requires_grad=False)
    descent = sgd(method).descend(method.phase(), [indexed()])
    parameters = method.multimodal.parameters_of("b.c")
    wanted = of_its_own(method, "b.c", indexed())
    place = {id(p): g for p, g in zip(method.parameters(), wanted, strict=True)}
    order = [parameters[2], frozen, parameters[0]]
    assert gap(descent.gradients.of("b.c", order), [place.get(id(p)) for p in order]) < 1e-12
    assert len(descent.gradients) == 4
    assert "b.c" in descent.gradients
    assert "fusd" not in descent.gradients
    assert descent.gradients.get("fusd") is None
    assert gap(descent.gradients.get("b.c"), wanted) < 1e-12
    with pytest.raises(MethodError, match=r"expected one of the parts \['fused'.*Found 'fusd'"):
        descent.gradients["fusd"]
    with pytest.raises(MethodError, match=r"parts \[\].*Objective\(\.\.\., parts=\.\.\.\)"):
        Descent.nothing().gradients["a"]


def test_the_gram_matrix_is_that_of_the_joined_vectors() -> None:
    method = chosen("weights")
    gradients = sgd(method).descend(method.phase(), [indexed()]).gradients
    parameters = [*method.multimodal.parameters_of("a"), *method.alone.parameters()]
    names = ["a", "fused", "keys"]
    rows = torch.stack(
        [
            torch.cat([torch.zeros_like(p).flatten() if g is None else g.flatten()
                       for p, g in zip(parameters, gradients.of(n, parameters), strict=True)]) for n in names
        ]
    )  # fmt: skip
    assert (gradients.gram(parameters, names) - rows @ rows.mT).abs().max() < 1e-14
    assert gradients.gram(parameters).shape == (4, 4)
    assert gradients.gram([]).abs().sum() == 0
    half = nn.Parameter(torch.ones(3, dtype=torch.bfloat16))
    held = half.detach()
    held.grad = torch.full_like(half, 2.0)
    assert Gradients([half], {"a": [held]}).gram([half]).dtype == torch.float32


def test_what_sum_of_refuses() -> None:
    x = nn.Parameter(torch.ones(()))
    with pytest.raises(MethodError, match=r"parts \['a'\] and weights of \['b'\]"):
        Objective.sum_of({"a": x * 1}, {"b": 1.0})
    with pytest.raises(MethodError, match=r"weights\['a'\].*Detach it"):
        Objective.sum_of({"a": x * 1}, {"a": x})
    with pytest.raises(MethodError, match="parts"):
        Objective.sum_of({})
    made = Objective.sum_of({"a": x * 3, "b": x * 5}, {"b": torch.tensor(2.0)})
    assert made.total.item() == 13
    assert made.losses["b"].item() == 5
    assert not made.losses["b"].requires_grad


# ---- engine features -------------------------------------------------------------------------------------------------


@pytest.mark.distributed
def test_processes_agree_on_the_names(tmp_path: Path) -> None:
    """Other orders, a part on one process only, a process without samples; by hand, scales 1 and 2, y = 1."""
    ranks = workers.run(facility_workers.part_gradients, tmp_path / "group")
    for ours, theirs in zip(*ranks, strict=True):
        assert list(ours[0]) == list(theirs[0])
        for name, row in ours[0].items():
            assert gap(row, theirs[0][name]) == 0
        assert torch.equal(ours[1], theirs[1])
        assert torch.equal(ours[2], theirs[2])
    (both, x, y), (one, x_one, _), (some, _, _) = ranks[0]
    assert set(both) == {"a", "b", "only 0"}
    assert both["a"][0].tolist() == [1.5, 1.5]  # the mean of 1 and 2
    assert both["a"][1] is None
    assert both["b"][0].tolist() == [4.5, 4.5]  # 3 times that
    assert both["b"][1].tolist() == [6.0, 6.0, 6.0]  # 2 y sum(x) times that
    assert both["only 0"][1].tolist() == [2.5] * 3  # 5 and nothing
    assert both["only 0"][0] is None
    assert x.tolist() == [6.0, 6.0]
    assert y.tolist() == [8.5] * 3
    assert set(one) == {"a", "b", "only 0"}
    assert one["only 0"][1].tolist() == [5.0] * 3
    assert x_one.tolist() == [4.0, 4.0]
    assert some["b"][0] is None
    assert some["b"][1].tolist() == [6.0, 6.0, 6.0]


def test_gradients_are_unscaled_under_a_loss_scale() -> None:
    for total in ("weights", "declared"):
        plain, scaled = chosen(total), chosen(total)
        a = sgd(plain).descend(plain.phase(), split(indexed(), 2))
        b = sgd(scaled, scaler=scaler(2.0**12)).descend(scaled.phase(), split(indexed(), 2))
        assert all(gap(row, b.gradients[n]) == 0 for n, row in a.gradients.items())


@pytest.mark.parametrize("declared", [False, True])
def test_an_overflow_in_one_part_alone_skips_the_phase(declared: bool) -> None:
    """The gradient of the part is infinite at this scale, while that of the total is 0."""
    x = nn.Parameter(torch.full((2,), 1e-3))

    def objective(_: Batch) -> Objective:
        large = (x * 1e30).sum()
        if declared:
            return Objective.sum_of({"large": large, "small": x.sum()}, {"large": 0.0})
        return Objective(x.sum(), parts={"large": large, "small": x.sum()})

    scale = scaler(2.0**40)
    engine = PlainEngine(torch.optim.SGD([x], lr=0.1), scaler=scale)
    assert engine.descend(Phase("joint", objective, [x]), [any_batch()]).count == 0
    assert scale.get_scale() == 2.0**39
    assert x.grad is None


def sharp_by_hand(method: Chosen, name: str | None, batch: Batch, sharpness: Sharpness) -> list[Tensor | None]:
    """(1 - a) g + a g' of one loss, g' where the total has climbed."""
    first = of_its_own(method, name, batch)
    direction = of_its_own(method, None, batch)
    norm = torch.cat([g.flatten() for g in direction if g is not None]).norm()
    moved = copy.deepcopy(method)
    with torch.no_grad():
        for p, g in zip(moved.parameters(), direction, strict=True):
            if g is not None:
                p.add_(g, alpha=float(sharpness.radius / norm))
    second = of_its_own(moved, name, batch)
    a = sharpness.ratio
    return [None if g is None or h is None else (1 - a) * g + a * h for g, h in zip(first, second, strict=True)]


@pytest.mark.parametrize("mode", ["full", "every_k"])
def test_under_sharpness_parts_combine_as_the_total_does(mode: Any) -> None:
    method, batch = chosen("weights"), indexed()
    engine = sgd(method)
    sharpness = Sharpness(mode, radius=0.2, ratio=0.6, every=2)
    descent = engine.descend(method.phase(), split(batch, 2), sharpness)
    wanted: Rows = {n: sharp_by_hand(method, n, batch, sharpness) for n in ("fused", *method.modalities)}
    for name, row in wanted.items():
        assert gap(descent.gradients[name], row) < 1e-12
    whole = sharp_by_hand(method, None, batch, sharpness)
    assert gap([p.grad for p in method.parameters()], whole) < 1e-12
    other = indexed(12, 1)
    again = engine.descend(method.phase(), [other], sharpness)
    for name in wanted:
        if mode == "every_k":  # the difference of the first step on the gradient of the second
            difference = [None if g is None or h is None else g - h
                          for g, h in zip(wanted[name], of_its_own(method, name, batch), strict=True)]  # fmt: skip
            plain = of_its_own(method, name, other)
            new = [None if g is None or d is None else g + d for g, d in zip(plain, difference, strict=True)]
        else:
            new = sharp_by_hand(method, name, other, sharpness)
        assert gap(again.gradients[name], new) < 1e-12
    restored = Sharpness(mode, every=2)
    restored.load_state_dict(sharpness.state_dict())
    assert restored.due("joint") == sharpness.due("joint")


def test_along_the_momentum_there_is_one_pass() -> None:
    method, batch = chosen("weights"), indexed()
    engine = sgd(method)
    sharpness = Sharpness("momentum", radius=0.2)
    engine.descend(method.phase(), [batch], sharpness)
    engine.step(method.phase())
    state = engine.optimizers[0].state
    momenta = [state[p].get("momentum_buffer") for p in method.parameters()]
    norm = torch.cat([v.flatten() for v in momenta if v is not None]).norm()
    moved = copy.deepcopy(method)
    with torch.no_grad():
        for p, v in zip(moved.parameters(), momenta, strict=True):
            if v is not None:
                p.add_(v, alpha=float(0.2 / norm))
    descent = engine.descend(method.phase(), [batch], sharpness)
    for name in ("fused", *method.modalities):
        assert gap(descent.gradients[name], of_its_own(moved, name, batch)) < 1e-12


def test_parts_are_not_clipped_and_the_total_is() -> None:
    seen: list[float] = []

    class Looking(Pareto):
        def modify_gradients(self, phase: Any, descent: Descent, engine: Any, report: Any) -> Any:
            seen.append(float(descent.gradients.gram(phase.trained).diagonal().max().sqrt()))
            return ()

    method = Looking(user("parts").model).double()  # type: ignore[arg-type]
    before = torch.cat([p.detach().flatten().clone() for p in method.parameters()])
    method.training_step(indexed(), PlainEngine(torch.optim.SGD(method.parameters(), lr=1.0), clip_norm=1e-3))
    after = torch.cat([p.detach().flatten() for p in method.parameters()])
    assert seen[0] > 0.1
    assert float((after - before).norm()) == pytest.approx(1e-3, rel=1e-3)


def test_auxiliary_parameters_have_rows_too() -> None:
    x, probe = nn.Parameter(torch.ones(2, dtype=F64)), nn.Parameter(torch.ones(2, dtype=F64))

    def objective(_: Batch) -> Objective:
        parts = {"x": x.pow(3).sum(), "probe": (probe * x.detach()).pow(2).sum()}
        return Objective.sum_of(parts)

    engine = PlainEngine(torch.optim.SGD([x, probe], lr=0.1))
    phase = Phase("joint", objective, [x], [probe])
    descent = engine.descend(phase, [any_batch()], Sharpness("full", radius=0.5))
    moved = 1 + 0.5 / math.sqrt(2)
    assert gap(descent.gradients["x"], [torch.full((2,), 3 * moved**2, dtype=F64), None]) < 1e-12
    assert gap(descent.gradients["probe"], [None, torch.full((2,), 2.0, dtype=F64)]) < 1e-12  # that of the first pass


def test_a_part_that_is_not_finite_is_named_although_the_total_is() -> None:
    x = nn.Parameter(torch.ones(2))

    def objective(_: Batch) -> Objective:
        return Objective(x.sum(), parts={"fine": x.sum(), "broken": (x - 1).log().sum()})

    engine = PlainEngine(torch.optim.SGD([x], lr=0.1))
    with pytest.raises(NonFiniteError, match=r"phase 'joint', part 'broken'.*Found -inf"):
        engine.descend(Phase("joint", objective, [x]), [any_batch()])
    assert x.grad is None
    later = PlainEngine(torch.optim.SGD([x], lr=0.1), check_finite=False)
    later.descend(Phase("joint", objective, [x]), [any_batch()])
    with pytest.raises(NonFiniteError, match="joint"):
        later.raise_if_not_finite()


def test_a_coupled_loss_keeps_its_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a survey adds after the sums over processes is in the total; a declared sum is none any more."""
    from equimodal.engine._survey import coupled

    x = nn.Parameter(torch.tensor(2.0, dtype=F64))
    survey = Survey(lambda _: {}, lambda _: None, lambda own, _: Objective(own["s"] * 3, parts={"late": own["s"] * 1}))
    made = Objective.sum_of({"a": x * 2})
    made = coupled(Phase("joint", lambda _: made, [x], survey=survey), Objective(**{**vars(made), "shared": {"s": x}}))
    assert made.total.item() == 10
    assert set(made.parts) == {"a", "late"}
    assert made.weights is None
    descent = PlainEngine(torch.optim.SGD([x], lr=0.1)).descend(Phase("joint", lambda _: made, [x]), [any_batch()])
    assert [float(g) for g in (descent.gradients["a"][0], descent.gradients["late"][0], x.grad)] == [2, 1, 5]  # type: ignore[arg-type]


def test_code_compiled_for_one_backward_pass_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    method = chosen("weights")
    engine = sgd(method)

    def refuse(loss: Tensor, **options: Any) -> None:
        raise RuntimeError("This backward function was compiled with non-empty donated buffers which requires ...")

    monkeypatch.setattr(engine, "_backward", refuse)
    with pytest.raises(UnsupportedError, match=r"donated_buffer = False before the first step"):
        engine.descend(method.phase(), [indexed()])


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")  # raised inside torch
def test_inductor() -> None:
    """Generated code runs the backward pass several times; where it was made for one, that is said."""
    import shutil

    if shutil.which("g++") is None and shutil.which("clang++") is None:
        pytest.skip("no C++ compiler")
    if " " in torch.__file__:
        pytest.skip("torch's own linker command does not quote its path, which has a space here")
    torch.compiler.reset()
    eager, compiled = user("parts", norm=True).float(), user("parts", norm=True, compiled="inductor").float()
    for method in (eager, compiled):
        engine = sgd(method)
        for seed in range(2):
            torch.manual_seed(seed)
            batch = indexed(12, seed)._map(lambda t: t.float() if t.is_floating_point() else t)
            method.eval()  # dropout of generated code draws other numbers
            method.training_step(batch, engine)
    a, b = weights(eager), {n.replace("_orig_mod.", ""): t for n, t in weights(compiled).items()}
    assert max(float((a[n] - b[n]).abs().max()) for n in a) < 1e-4
    torch.compiler.reset()
