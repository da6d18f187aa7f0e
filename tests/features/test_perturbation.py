"""A second pass at weights that are moved in part: closed forms, what is restored, what is refused."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from equimodal import Batch, PlainEngine, Sharpness
from equimodal.engine import Descent, Objective, Perturbation, Phase
from equimodal.errors import MethodError, NonFiniteError, UnsupportedError
from tests.features import facility_workers, workers
from tests.features.users import Aligned, Dominant, indexed, user
from tests.helpers import any_batch, assert_identical, sgd, split, weights

F64 = torch.float64
Answer = Callable[[Descent], Perturbation | None]


class Two:
    """L = f(x, y) + h(x, y) with f = |x|^3 |y|^2 and h = x.y, on two vectors."""

    def __init__(self) -> None:
        self.x = nn.Parameter(torch.tensor([1.0, -2.0, 0.5], dtype=F64))
        self.y = nn.Parameter(torch.tensor([0.3, 0.7, -1.1], dtype=F64))
        self.calls = 0
        self.fail: int | None = None
        self.weight: float | Tensor = 1.0

    @staticmethod
    def f(x: Tensor, y: Tensor) -> Tensor:
        value: Tensor = x.norm() ** 3 * y.norm() ** 2
        return value

    @staticmethod
    def h(x: Tensor, y: Tensor) -> Tensor:
        return x @ y

    def objective(self, _: Batch) -> Objective:
        self.calls += 1
        if self.calls == self.fail:
            raise RuntimeError("on purpose")
        f, h = self.f(self.x, self.y), self.h(self.x, self.y)
        return Objective.sum_of({"f": f, "h": h}, {"f": self.weight, "h": 2.0})

    def phase(self, answer: Answer, **options: Any) -> Phase:
        return Phase("joint", self.objective, [self.x, self.y], perturbation=answer, **options)

    def engine(self, **options: Any) -> PlainEngine:
        return PlainEngine(torch.optim.SGD([self.x, self.y], lr=0.1), **options)


def slopes(function: Callable[[Tensor, Tensor], Tensor], x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Gradient of one function of the two vectors, by torch alone."""
    x, y = x.detach().clone().requires_grad_(), y.detach().clone().requires_grad_()
    found = torch.autograd.grad(function(x, y), (x, y))
    return found[0], found[1]


def near(found: Tensor | None, expected: Tensor) -> bool:
    return found is not None and bool((found - expected).abs().max() < 1e-12)


def test_one_part_at_one_moved_vector() -> None:
    """x takes f' at x + rho d / |d| and 2 h at x; y takes the plain gradient; so do the rows of the parts."""
    two = Two()
    x, y = two.x.detach().clone(), two.y.detach().clone()
    radius = torch.tensor(0.4, dtype=F64)

    def answer(descent: Descent) -> Perturbation:
        assert near(two.x.grad, f_x + 2 * h_x)  # final, in place
        return Perturbation([two.x], descent.gradients.of("h", [two.x]), radius, "f")

    (f_x, f_y), (h_x, h_y) = slopes(two.f, x, y), slopes(two.h, x, y)
    descent = two.engine().descend(two.phase(answer), [any_batch()])
    moved = slopes(two.f, x + radius * h_x / h_x.norm(), y)[0]
    assert near(two.x.grad, moved + 2 * h_x)
    assert near(two.y.grad, f_y + 2 * h_y)
    rows = descent.gradients
    assert near(rows["f"][0], moved)
    assert near(rows["f"][1], f_y)
    assert near(rows["h"][0], h_x)
    assert torch.equal(two.x, x)
    assert torch.equal(two.y, y)
    assert two.calls == 2


@pytest.mark.parametrize("weight", [0.25, torch.tensor(0.25, dtype=F64), 0.0])
def test_a_part_counts_with_its_weight(weight: float | Tensor) -> None:
    two = Two()
    two.weight = weight
    x, y = two.x.detach().clone(), two.y.detach().clone()
    f_x, h_x = slopes(two.f, x, y)[0], slopes(two.h, x, y)[0]

    def answer(descent: Descent) -> Perturbation:
        return Perturbation([two.x], descent.gradients.of("f", [two.x]), 0.4, "f")

    descent = two.engine().descend(two.phase(answer), [any_batch()])
    moved = slopes(two.f, x + 0.4 * f_x / f_x.norm(), y)[0]
    assert near(two.x.grad, float(weight) * moved + 2 * h_x)
    assert near(descent.gradients["f"][0], moved)


def test_weights_that_differ_between_micro_batches() -> None:
    """1 in the first of three, which alone need not be remembered."""
    x = nn.Parameter(torch.tensor([1.0, -2.0], dtype=F64))
    factor = {1: 1.0, 2: 0.5, 3: 3.0}

    def objective(batch: Batch) -> Objective:
        kind = int(batch.inputs["a"][0, 0])
        parts = {"f": (x**3).sum() * kind, "h": x.sum()}
        return Objective.sum_of(parts, {"f": factor[kind]})

    phase = Phase(
        "joint", objective, [x], perturbation=lambda _: Perturbation([x], [torch.ones(2, dtype=F64)], 0.1, "f")
    )
    batches = [Batch({"a": torch.full((1, 1), float(k))}) for k in factor]
    PlainEngine(torch.optim.SGD([x], lr=0.1)).descend(phase, batches)
    there = x.detach() + 0.1 / 2**0.5
    assert near(x.grad, sum(k * w for k, w in factor.items()) / 3 * 3 * there**2 + 1)


def test_the_whole_loss_and_other_receivers() -> None:
    two = Two()
    x, y = two.x.detach().clone(), two.y.detach().clone()
    (f_x, f_y), (h_x, h_y) = slopes(two.f, x, y), slopes(two.h, x, y)
    d = f_x + 2 * h_x
    there = x + 0.3 * d / d.norm()
    g_x, g_y = slopes(lambda a, b: two.f(a, b) + 2 * two.h(a, b), there, y)

    def to_itself(_: Descent) -> Perturbation:
        return Perturbation([two.x], [two.x.grad], 0.3)

    def to_the_other(_: Descent) -> Perturbation:
        return Perturbation([two.x], [two.x.grad], 0.3, receivers=[two.y])

    descent = two.engine().descend(two.phase(to_itself), [any_batch()])
    assert near(two.x.grad, g_x)
    assert near(two.y.grad, f_y + 2 * h_y)
    assert near(descent.gradients["f"][0], slopes(two.f, there, y)[0])
    assert near(descent.gradients["f"][1], f_y)
    descent = two.engine().descend(two.phase(to_the_other), [any_batch()])
    assert near(two.x.grad, d)
    assert near(two.y.grad, g_y)
    assert near(descent.gradients["h"][1], slopes(two.h, there, y)[1])
    assert near(descent.gradients["h"][0], h_x)


def test_nothing_moves_along_a_direction_of_zero_or_none() -> None:
    plain = Two()
    plain.engine().descend(Phase("joint", plain.objective, [plain.x, plain.y]), [any_batch()])
    for direction in (None, torch.zeros(3, dtype=F64)):
        two = Two()
        answer: Answer = lambda _, t=two, d=direction: Perturbation([t.x, t.y], [d, None], 0.3, "f")  # type: ignore[misc]  # noqa: E731
        two.engine().descend(two.phase(answer), [any_batch()])
        assert near(two.x.grad, plain.x.grad)  # type: ignore[arg-type]
        assert near(two.y.grad, plain.y.grad)  # type: ignore[arg-type]
    two = Two()
    two.engine().descend(two.phase(lambda _: None), [any_batch()])
    assert two.calls == 1
    assert torch.equal(two.x.grad, plain.x.grad)  # type: ignore[arg-type]


@pytest.mark.parametrize("fail", [1, 2])
def test_weights_are_restored_after_an_exception(fail: int) -> None:
    two = Two()
    two.fail = fail
    x = two.x.detach().clone()
    with pytest.raises(RuntimeError, match="on purpose"):
        two.engine().descend(two.phase(lambda _: Perturbation([two.x], [two.x.grad], 1 / 3, "f")), [any_batch()])
    assert torch.equal(two.x, x)
    assert two.x.grad is None
    assert two.y.grad is None


def test_a_second_pass_that_is_not_finite_restores_and_steps_nothing() -> None:
    x = nn.Parameter(torch.ones(1))

    def objective(_: Batch) -> Objective:
        return Objective(-torch.sqrt(1.05 - x).sum())

    phase = Phase("joint", objective, [x], perturbation=lambda _: Perturbation([x], [x.grad], 0.2))
    with pytest.raises(NonFiniteError, match="joint"):
        PlainEngine(torch.optim.SGD([x], lr=0.1)).descend(phase, [any_batch()])
    assert x.tolist() == [1.0]
    assert x.grad is None


@pytest.mark.parametrize("name", ["perturbed encoder", "perturbed by a part"])
def test_both_passes_see_the_same_random_numbers_and_statistics_count_once(name: str) -> None:
    plain, moved = user("parts", norm=True), user(name, norm=True)
    masks: list[Tensor] = []
    moved.model.encoders[0][2].register_forward_hook(lambda *a: masks.append((a[2] == 0).detach()))  # type: ignore[index, union-attr]
    after = []
    for method in (plain, moved):
        torch.manual_seed(7)
        engine = PlainEngine(torch.optim.SGD(method.parameters(), lr=0.0))
        batches = split(indexed(), 2)
        with engine.iteration(method):
            engine.descend(next(iter(method.phases(batches))), batches)
        after.append(torch.get_rng_state())
    assert torch.equal(after[0], after[1])
    assert len(masks) == 4
    assert torch.equal(masks[0], masks[2])
    assert torch.equal(masks[1], masks[3])
    assert not torch.equal(masks[0], masks[1])
    assert_identical(dict(plain.named_buffers()), dict(moved.named_buffers()))
    assert_identical(dict(plain.named_parameters()), dict(moved.named_parameters()))


def test_what_the_choice_draws_is_not_drawn_again() -> None:
    two = Two()

    def answer(_: Descent) -> Perturbation:
        torch.rand(3)
        return Perturbation([two.x], [two.x.grad], 0.1)

    torch.manual_seed(0)
    two.engine().descend(two.phase(answer), [any_batch()])
    here = torch.rand(2)
    torch.manual_seed(0)
    torch.rand(3)
    assert torch.equal(here, torch.rand(2))


def test_only_the_receivers_are_differentiated_in_the_second_pass() -> None:
    """Which is what makes it cheap: the other encoders' layers see no gradient."""
    method = user("perturbed encoder")
    assert isinstance(method, Aligned)
    chosen: list[str] = []
    seen: list[int] = []
    answer = method.perturbation

    def spy(descent: Descent) -> Perturbation | None:
        move = answer(descent)
        assert move is not None
        chosen.extend(m for m in method.modalities if method.multimodal.parameters_of(m)[0] is move.parameters[0])
        for p in method.parameters():
            p.register_post_accumulate_grad_hook(lambda p: seen.append(id(p)))  # type: ignore[no-untyped-call]
        return move

    method.perturbation = spy  # type: ignore[method-assign]
    sgd(method).descend(next(iter(method.phases([indexed()]))), [indexed()])
    assert set(seen) == {id(p) for p in method.multimodal.parameters_of(chosen[0])}


def test_the_published_update_by_hand() -> None:
    """One encoder: v = fused' at the moved weights + 0.7 alone; the others plain; against copies that are moved."""
    import copy

    method = user("perturbed encoder")
    assert isinstance(method, Aligned)
    batch = indexed()
    names = [n for n, _ in method.named_parameters()]

    def slope(model: Any, part: str) -> dict[str, Tensor]:
        loss = model.losses(batch)[part].mean()
        found = torch.autograd.grad(loss, list(model.parameters()), allow_unused=True)
        return {n: torch.zeros_like(p) if g is None else g
                for n, p, g in zip(names, model.parameters(), found, strict=True)}  # fmt: skip

    fused, alone = slope(method, "fused"), {m: slope(method, m) for m in method.modalities}
    of = {m: [n for n, p in method.named_parameters() if any(p is q for q in method.multimodal.parameters_of(m))]
          for m in method.modalities}  # fmt: skip

    def joined(values: dict[str, Tensor], m: str) -> Tensor:
        return torch.cat([values[n].flatten() for n in of[m]])

    cosine = {m: torch.cosine_similarity(joined(fused, m), joined(alone[m], m), 0) for m in method.modalities}
    first = max(cosine, key=lambda m: float(cosine[m]))
    moved = copy.deepcopy(method)
    with torch.no_grad():
        for n, p in moved.named_parameters():
            if n in of[first]:
                p.add_(fused[n] * method.radius * cosine[first].clamp_min(0) / joined(fused, first).norm())
    there = slope(moved, "fused")
    sgd(method).descend(next(iter(method.phases([batch]))), [batch])
    for n, p in method.named_parameters():
        base = there[n] if n in of[first] else fused[n]
        wanted = base + 0.7 * sum(alone[m][n] for m in method.modalities)
        assert (p.grad - wanted).abs().max() < 1e-12, n  # type: ignore[operator]


def test_what_does_not_fit_is_refused() -> None:
    two, stranger = Two(), nn.Parameter(torch.ones(3, dtype=F64))
    d = torch.ones(3, dtype=F64)

    def refused(move: Perturbation, match: str, **options: Any) -> None:
        before = two.x.detach().clone()
        with pytest.raises(MethodError, match=match):
            two.engine().descend(two.phase(lambda _: move, **options), [any_batch()])
        assert torch.equal(two.x, before)
        assert two.x.grad is None

    refused(Perturbation([stranger], [d], 0.1), r"`perturbation` \(phase 'joint'\).*2 that the phase does not train")
    refused(Perturbation([two.x], [d], 0.1, receivers=[stranger]), "1 that the phase does not train")
    refused(Perturbation([two.x, two.y], [d], 0.1), "2 parameters, 1 directions")
    refused(Perturbation([], [], 0.1), "0 receivers")
    refused(Perturbation([two.x], [d], 0.1, "g"), r"one of the parts \['f', 'h'\].*Found 'g'")
    refused(Perturbation([two.x], [d], 0.1, "f"), r"`separate`.*'f' is replaced", separate=[two.y])
    declared = two.objective
    two.objective = lambda _: replace(declared(_), weights=None)  # type: ignore[method-assign]
    refused(Perturbation([two.x], [d], 0.1, "f"), r"`part` \(perturbation of phase 'joint'\).*Objective.sum_of")
    two.objective = declared  # type: ignore[method-assign]
    calls = two.calls
    modes: tuple[Any, ...] = ("full", "every_k", "momentum")
    for mode in modes:
        with pytest.raises(UnsupportedError, match=r"phase 'joint' has a second pass.*Use sharpness=None"):
            two.engine().descend(two.phase(lambda _: None), [any_batch()], Sharpness(mode))
    assert two.calls == calls  # before anything is computed
    two.engine().descend(two.phase(lambda _: None), [any_batch()], Sharpness(None))


@pytest.mark.distributed
def test_processes_that_disagree_all_raise(tmp_path: Path) -> None:
    ranks = workers.run(facility_workers.perturbations, tmp_path / "group")
    for found in ranks:
        assert found[0].startswith("MethodError: `perturbation` (phase 'joint'): expected the same answer")
        assert "1 of 2 that ask" in found[0]
        assert "grad None, at [1.0, 1.0]" in found[0]
        assert found[2] == "gradient [3.0, 3.0]"
        assert found[3] == ranks[0][3]
        # (1 + 0.5) / 2 of f' = 6 x^2 y at x + 0.1 for the first, whose y is 2 on one process and 0 on the other
        assert found[3][0] == pytest.approx([0.5 * (6 * 1.1**2 * 2) + 1], abs=1e-12)
        assert found[3][1] == pytest.approx([0.5 * 2 * 1.1**3], abs=1e-12)
    assert "RuntimeError: on purpose" in ranks[1][1]
    assert "1 that failed" in ranks[0][1]


def test_a_survey_is_made_again_at_the_moved_weights() -> None:
    from equimodal.engine import Survey

    x = nn.Parameter(torch.tensor([2.0], dtype=F64))
    received: list[float] = []

    def receive(sums: Any) -> None:
        received.append(float(sums["x"]))

    survey = Survey(lambda _: {"x": x.detach().clone()}, receive, always=True)
    phase = Phase("joint", lambda _: Objective((x * received[-1]).sum()), [x], survey=survey,
                  perturbation=lambda _: Perturbation([x], [torch.ones(1, dtype=F64)], 0.5))  # fmt: skip
    PlainEngine(torch.optim.SGD([x], lr=0.1)).descend(phase, [any_batch()])
    assert received == [2.0, 2.5]
    assert x.grad is not None
    assert x.grad.tolist() == [2.5]


def test_the_dominant_part_alone_is_differentiated_there() -> None:
    """M-SAM's update: grad L_d at theta + e, e along grad L_d, plus the plain gradient of all else."""
    import copy

    method = user("perturbed by a part")
    assert isinstance(method, Dominant)
    batch = indexed()

    def slope(model: Any, part: str) -> Tensor:
        found = torch.autograd.grad(model.losses(batch)[part].mean(), list(model.parameters()), allow_unused=True)
        return torch.cat([torch.zeros_like(p).flatten() if g is None else g.flatten()
                          for p, g in zip(model.parameters(), found, strict=True)])  # fmt: skip

    parts = {n: slope(method, n) for n in ("fused", *method.modalities)}
    first = max(method.modalities, key=lambda m: float(parts[m].norm()))
    moved = copy.deepcopy(method)
    step = 0.1 * parts[first] / parts[first].norm()
    with torch.no_grad():
        for p, d in zip(moved.parameters(), torch.split(step, [p.numel() for p in moved.parameters()]), strict=True):
            p.add_(d.view_as(p))
    rest = parts["fused"] + 0.7 * sum(parts[m] for m in method.modalities if m != first)
    wanted = rest + 0.7 * slope(moved, first)
    before = weights(method)
    sgd(method).descend(next(iter(method.phases([batch]))), split(batch, 3))
    grads = torch.cat([torch.zeros_like(p).flatten() if p.grad is None else p.grad.flatten()
                       for p in method.parameters()])  # fmt: skip
    assert (grads - wanted).abs().max() < 1e-12
    assert_identical(before, weights(method))
