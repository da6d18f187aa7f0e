"""What makes small steps cheap: things kept from step to step are found anew where they have changed."""

from __future__ import annotations

from typing import Any, cast

import pytest
import torch
from torch import Tensor, nn

from equimodal import Batch, Classification, MultimodalModel, PlainEngine, Sharpness
from equimodal._utils.modules import parameters_in
from equimodal.engine import Objective, Phase, RunningStatistics, recorded_call, recorded_inputs
from equimodal.engine import _plain as engine_module
from equimodal.engine._finite import FiniteGradients
from equimodal.errors import NonFiniteError
from equimodal.fusion import Concat
from equimodal.methods import CGGM, MLA


def batch(rows: int = 6) -> Batch:
    return Batch({"x": torch.randn(rows, 3, generator=torch.Generator().manual_seed(0))})


# ---- parameters ------------------------------------------------------------------------------------------------------


def same(module: nn.Module) -> bool:
    found, expected = parameters_in(module), list(module.parameters())
    return len(found) == len(expected) and all(a is b for a, b in zip(found, expected, strict=True))


def test_parameters_are_found_anew_where_a_module_has_changed() -> None:
    shared = nn.Linear(2, 2)
    module: Any = nn.Sequential(nn.Sequential(shared, nn.ReLU()), shared, nn.BatchNorm1d(2))
    assert same(module)
    shared.weight = nn.Parameter(torch.zeros(2, 2))  # replaced, at depth
    assert same(module)
    module[0].append(nn.Linear(2, 1))  # a module more
    assert same(module)
    module[0][2].bias = None  # a parameter less
    assert same(module)
    del module[1]
    assert same(module)
    module[0][1].register_parameter("scale", nn.Parameter(torch.ones(())))  # in a module that had none
    assert same(module)
    assert len(parameters_in(nn.ReLU())) == 0


# ---- gradients -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.complex64])
def test_looking_at_gradients_changes_no_bit_and_finds_the_bad_one(dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(1)
    gradients = [torch.randn(n, 5, generator=generator).to(dtype) * 1e-3 for n in (1, 7, 40)]
    before = [g.clone() for g in gradients]
    finite = FiniteGradients()
    for _ in range(2):
        assert finite(gradients)
    assert all(map(torch.equal, before, gradients))
    for bad in (float("nan"), float("inf"), -float("inf")):
        gradient = gradients[1]
        kept = gradient[3, 2].clone()
        gradient[3, 2] = bad
        assert not finite(gradients)
        gradient[3, 2] = kept
        assert finite(gradients)  # one that was bad says nothing about the next


def test_gradients_outside_the_phase_are_dropped_and_new_parameters_seen() -> None:
    a, b = nn.Parameter(torch.ones(3)), nn.Parameter(torch.ones(3))
    optimizer = torch.optim.SGD([a], lr=0.1)
    engine = PlainEngine(optimizer)
    phase = Phase("joint", lambda x: Objective((x.inputs["x"] @ (a * b)).mean()), [a])
    engine.descend(phase, [batch()])
    assert b.grad is not None  # no optimizer of this engine has it
    b.grad = None
    optimizer.add_param_group({"params": [b]})
    engine.descend(phase, [batch()])
    assert b.grad is None
    engine.descend(Phase("joint", phase.objective, [b]), [batch()])  # the same name, another parameter
    assert a.grad is None
    assert b.grad is not None


# ---- second passes ---------------------------------------------------------------------------------------------------


def test_a_second_pass_has_its_own_objective_and_the_same_gradient() -> None:
    calls: list[str] = []
    w = nn.Parameter(torch.tensor([0.3, -0.2, 0.9], dtype=torch.float64))
    data = Batch({"x": batch().inputs["x"].double()})

    def loss(x: Batch) -> Tensor:
        error: Tensor = x.inputs["x"] @ w
        return error.square().mean()

    def first(x: Batch) -> Objective:
        calls.append("first")
        return Objective(loss(x), sums={"seen": torch.tensor(len(x))})

    def second(x: Batch) -> Objective:
        calls.append("second")
        return Objective(loss(x))

    engine = PlainEngine(torch.optim.SGD([w], lr=0.1))
    found = []
    for phase in (Phase("joint", first, [w]), Phase("joint", first, [w], second=second)):
        descent = engine.descend(phase, [data], Sharpness("full", radius=0.1, ratio=0.3))
        assert int(descent.sums["seen"]) == 6
        found.append(w.grad)
    assert calls == ["first", "first", "first", "second"]
    assert found[0] is not None
    assert found[1] is not None
    assert torch.equal(found[0], found[1])


# ---- running statistics ----------------------------------------------------------------------------------------------


def test_statistics_are_copied_once_per_step_and_again_where_they_moved() -> None:
    layers = nn.ModuleList(nn.BatchNorm1d(3) for _ in range(4))
    statistics, x = RunningStatistics(layers), batch().inputs["x"]
    copied: list[int] = []

    def copies() -> int:
        before = {id(t) for _, _, saved in statistics._saved.values() for t in saved}
        statistics.copy()
        return sum(id(t) not in before for _, _, saved in statistics._saved.values() for t in saved)

    statistics.begin()
    copied.append(copies())
    layers[2](x)
    copied.append(copies())
    copied.append(copies())
    assert copied == [12, 3, 0]
    expected = {name: t.clone() for name, t in layers.state_dict().items()}
    layers[1](x)
    layers[2](x)
    statistics.restore()
    assert all(torch.equal(t, expected[name]) for name, t in layers.state_dict().items())


def test_a_phase_that_fails_restores_what_moved_in_it_and_not_the_phase_before() -> None:
    model = nn.ModuleDict({m: nn.Sequential(nn.BatchNorm1d(3), nn.Linear(3, 1)) for m in "ab"})
    engine = PlainEngine(torch.optim.SGD(model.parameters(), lr=0.1))

    def objective(m: str, factor: float) -> Any:
        return lambda x: Objective(model[m](x.inputs["x"]).mean() * factor)

    with engine.iteration(model):
        good = Phase("a", objective("a", 1.0), list(model["a"].parameters()))
        engine.descend(good, [batch()])
        engine.step(good)
        bad = Phase("b", objective("b", float("nan")), list(model["b"].parameters()))
        with pytest.raises(NonFiniteError):
            engine.descend(bad, [batch()])
    counts: dict[str, Any] = {m: model[m][0].num_batches_tracked for m in "ab"}  # type: ignore[index]
    assert {m: int(n) for m, n in counts.items()} == {"a": 1, "b": 0}


# ---- what is asked once per step -------------------------------------------------------------------------------------


def test_whether_there_are_other_processes_is_asked_anew_in_each_step(monkeypatch: pytest.MonkeyPatch) -> None:
    module, sums, others = nn.Linear(1, 1), {"n": torch.ones(())}, [False]
    engine = PlainEngine(torch.optim.SGD(module.parameters(), lr=0.1))
    monkeypatch.setattr(engine_module, "is_distributed", lambda: others[0])
    monkeypatch.setattr(engine_module, "all_sum", lambda found: {name: 2 * t for name, t in found.items()})
    seen = []
    for others[0] in (False, True, False):
        with engine.iteration(module):
            seen.append(float(engine.all_sum(sums)["n"]))
    assert seen == [1, 2, 1]
    assert float(engine.all_sum(sums)["n"]) == 2  # outside of a step nothing is known


def test_a_model_that_changes_between_steps_trains_as_one_that_was_so_from_the_start() -> None:
    data = Batch({m: torch.randn(6, 3, dtype=torch.float64) for m in "ab"}, torch.tensor([0, 1, 1, 0, 1, 0]))

    def method() -> MLA:
        torch.manual_seed(0)
        encoders = {m: nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4)) for m in "ab"}
        model = MultimodalModel(encoders, Concat(dict.fromkeys("ab", 4)), nn.Linear(8, 2))
        return MLA(model, Classification(2), alpha_schedule="constant").double().train()

    def steps(trained: MLA, engine: PlainEngine) -> dict[str, Tensor]:
        for _ in range(3):
            trained.training_step(data, engine)
        return {name: t.clone() for name, t in trained.state_dict().items() if isinstance(t, Tensor)}

    changed = method()
    optimizer = torch.optim.SGD(changed.parameters(), lr=0.1, momentum=0.9)
    engine = PlainEngine(optimizer)
    before = steps(changed, engine)
    encoder: Any = changed.multimodal.encoder("a")  # type: ignore[attr-defined]
    encoder[0] = nn.Linear(3, 4, dtype=torch.float64)  # another layer
    optimizer.add_param_group({"params": list(encoder[0].parameters())})
    changed.multimodal.encoder("b")[0].bias.requires_grad_(False)  # type: ignore[attr-defined]
    start = {name: t.clone() for name, t in changed.state_dict().items() if isinstance(t, Tensor)}
    optimizer.state.clear()
    found = steps(changed, engine)

    fresh = method()
    fresh.load_state_dict({**changed.state_dict(), **start})
    fresh.multimodal.encoder("b")[0].bias.requires_grad_(False)  # type: ignore[attr-defined]
    expected = steps(fresh, PlainEngine(torch.optim.SGD(fresh.parameters(), lr=0.1, momentum=0.9)))
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    assert torch.equal(found["model.encoders.1.0.bias"], start["model.encoders.1.0.bias"])  # frozen
    assert not torch.equal(found["model.encoders.0.0.weight"], start["model.encoders.0.0.weight"])  # new, and trained

    changed.load_state_dict({**changed.state_dict(), **start})  # and a state that is loaded
    optimizer.state.clear()
    again = steps(changed, engine)
    assert all(torch.equal(again[name], expected[name]) for name in expected)
    assert before.keys() == again.keys()


# ---- reports, inputs of layers, factors ------------------------------------------------------------------------------


class Counting(Classification):
    """Counts how often a score is computed."""

    asked = 0

    def score_terms(self, output: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        self.asked += 1
        return super().score_terms(output, target)


def two_modalities(rows: int = 12, seed: int = 0) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    inputs = {m: torch.randn(rows, 3, generator=generator) for m in ("a", "b")}
    return Batch(inputs, torch.randint(0, 3, (rows,), generator=generator))


def two_encoders() -> MultimodalModel:
    torch.manual_seed(0)
    return MultimodalModel({m: nn.Linear(3, 4) for m in ("a", "b")}, Concat({"a": 4, "b": 4}), nn.Linear(8, 3))


def test_a_score_is_computed_once_where_it_is_read_and_is_that_of_its_step() -> None:
    method = MLA(two_encoders(), Counting(3), alpha_schedule="constant")
    engine, data = PlainEngine(torch.optim.SGD(method.parameters(), lr=0.5)), two_modalities()
    expected = {}
    with torch.no_grad():
        output = method.head(method.multimodal.encode(data.inputs)["a"])
        expected["a"] = float((output.argmax(1) == data.target).double().mean())
    report = method.training_step(data, engine)
    later = [method.training_step([data.select(torch.arange(5)), data.select(torch.arange(5, 12))], engine)
             for _ in range(5)]  # fmt: skip
    assert cast(Counting, method.task).asked == 0
    assert float(report.scores["a"]) == pytest.approx(expected["a"])
    assert list(report.scores) == ["a", "b"]
    assert cast(Counting, method.task).asked == 2
    assert float(later[0].scores["b"]) == pytest.approx(
        float(twin_report(1).scores["b"]), abs=1e-6
    )  # of both micro-batches


def test_a_score_outlives_the_memory_of_its_batch_and_a_score_that_fails() -> None:
    method = MLA(two_encoders(), Counting(3), alpha_schedule="constant")
    data = two_modalities()
    report = method.training_step(data, PlainEngine(torch.optim.SGD(method.parameters(), lr=0.5)))
    expected = {m: float(s) for m, s in twin_report(0).scores.items()}
    cast(Tensor, data.target).fill_(0)  # as a loader does that fills the same memory again
    assert {m: float(s) for m, s in report.scores.items()} == pytest.approx(expected, abs=1e-6)

    def fails() -> Tensor:
        raise ValueError("of a task")

    report.score_later("b", fails)
    for _ in range(2):
        with pytest.raises(ValueError, match="of a task"):
            _ = report.scores


def twin_report(steps: int) -> Any:
    """The report of whole batches after some steps."""
    method = MLA(two_encoders(), Classification(3), alpha_schedule="constant")
    engine = PlainEngine(torch.optim.SGD(method.parameters(), lr=0.5))
    return [method.training_step(two_modalities(), engine) for _ in range(steps + 1)][-1]


def test_the_inputs_of_a_layer_are_those_that_it_was_given() -> None:
    torch.manual_seed(0)
    layer, x = nn.Linear(3, 2), torch.randn(5, 3, requires_grad=True)
    body = nn.Sequential(nn.ReLU(), layer)
    for module, expected in ((layer, x), (body, x.relu())):
        output, ((seen,),) = recorded_call(module, x, [layer])
        assert torch.equal(seen, expected)
        assert not seen.requires_grad
        assert torch.equal(output, layer(expected))
    deep: Any = nn.Sequential(nn.Sequential(nn.Linear(3, 3), nn.Sequential(nn.Tanh(), layer)), nn.ReLU())
    first = deep[0][0]
    with recorded_inputs([layer, first]) as recorded:
        whole = deep(x)
        hooked = [list(own) for own in recorded]
    again, found = recorded_call(deep, x, [layer, first])
    assert torch.equal(whole, again)
    assert all(
        torch.equal(a, b) for one, other in zip(hooked, found, strict=True) for a, b in zip(one, other, strict=True)
    )
    called: list[Any] = []
    handle = deep[0].register_forward_hook(lambda *_: called.append(1))
    assert torch.equal(recorded_call(deep, x, [layer])[1][0][0], hooked[0][0])
    assert called == [1]  # a hook on a sequence is called as ever
    handle.remove()
    _, ((kept,),) = recorded_call(layer, x, [layer], detach=False)
    assert kept is x
    layer.register_forward_pre_hook(lambda _, given: (given[0] * 2,))
    _, ((seen,),) = recorded_call(layer, x, [layer])
    assert torch.equal(seen, 2 * x)  # what another hook made of it
    assert recorded_call(body, x, [layer, nn.Linear(2, 2)])[1][1] == []


def test_factors_are_made_anew_where_the_balance_has_changed() -> None:
    method = CGGM(two_encoders(), Classification(3), rho=1.5)
    progress = method.progress
    first = progress.factors(1.5)
    assert progress.factors(1.5)[1] is first[1]
    known = {m: float(v) for m, v in first[0].items()}
    progress.balance.copy_(torch.tensor([0.2, 0.8]))
    assert {m: float(v) for m, v in first[0].items()} == known  # a report keeps what it was given
    balance, scaled = progress.factors(1.5)
    assert [float(v) for v in balance.values()] == pytest.approx([0.2, 0.8])
    assert [float(v) for v in scaled.values()] == pytest.approx([0.3, 1.2])
    assert float(progress.factors(1.0)[1]["a"]) == pytest.approx(0.2)
    progress.load_state_dict({**progress.state_dict(), "balance": torch.tensor([0.5, 0.5])})
    assert float(progress.factors(1.0)[1]["a"]) == pytest.approx(0.5)
    method.double()
    assert progress.factors(1.0)[0]["a"].dtype == torch.float64
