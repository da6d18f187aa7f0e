"""What is made or looked up in every step, in less time than the usual way takes: it does what the usual way does."""

from __future__ import annotations

import copy
import gc
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from equimodal import Batch, Classification, MultimodalModel, PlainEngine
from equimodal._utils import modules
from equimodal._utils.modules import QuickParameters, parameters_in
from equimodal.engine import Objective, Phase
from equimodal.errors import BatchError, MethodError, NonFiniteError
from equimodal.fusion import Concat
from equimodal.methods import MLA, StepReport
from equimodal.operators import OrthogonalProjector

# ---- phases ----------------------------------------------------------------------------------------------------------


def test_a_phase_lists_generators_and_refuses_what_is_no_list() -> None:
    module = nn.Linear(2, 1)
    phase = Phase("joint", lambda _: Objective(torch.zeros(())), module.parameters(), nn.Linear(1, 1).parameters())  # type: ignore[arg-type]
    assert phase.parameters == list(module.parameters())
    assert [tuple(p.shape) for p in phase.every] == [(1, 2), (1,), (1, 1), (1,)]
    with pytest.raises(MethodError, match="`auxiliary`: expected several"):
        Phase("joint", lambda _: Objective(torch.zeros(())), [*module.parameters()], module.weight)  # type: ignore[arg-type]
    with pytest.raises(MethodError, match="expected at least one"):
        Phase("joint", lambda _: Objective(torch.zeros(())), ())


# ---- parameters of modules -------------------------------------------------------------------------------------------


def test_parameters_are_one_object_until_the_module_changes() -> None:
    module: Any = nn.Sequential(nn.Linear(2, 2), nn.Sequential(nn.Linear(2, 2)), nn.Sequential())
    known = parameters_in(module)
    assert parameters_in(module) is known
    moved = module[1][0]
    del module[1][0]
    module[2].append(moved)  # as many modules and parameters as before, elsewhere
    assert list(map(id, parameters_in(module))) == list(map(id, module.parameters()))
    for table in (module[0]._parameters, moved._parameters):  # the first and the last place where something is found
        bias = table.pop("bias")
        assert len(parameters_in(module)) == 3
        table["bias"] = bias
        assert len(parameters_in(module)) == 4
        table["more"] = nn.Parameter(torch.zeros(1))
        assert len(parameters_in(module)) == 5
        table["more"], table["bias"] = bias, table["more"]  # another order
        assert list(map(id, parameters_in(module))) == list(map(id, module.parameters()))
        del table["more"]


def test_a_module_that_is_gone_leaves_nothing_and_its_number_is_not_taken_for_it() -> None:
    module: Any = nn.Sequential(nn.Linear(2, 2))
    parameters_in(module)
    number = id(module)
    walk = modules._WALKS[number]
    other: Any = nn.Sequential(nn.Linear(3, 3))
    modules._WALKS[id(other)] = walk  # as if the number had been given again
    assert [tuple(p.shape) for p in parameters_in(other)] == [(3, 3), (3,)]
    del module, walk
    gc.collect()
    assert number not in modules._WALKS or modules._WALKS[number].module() is not None


class Half(QuickParameters):
    """Tells of its weights only."""

    def __init__(self) -> None:
        super().__init__()
        self.inside = nn.Linear(2, 2)

    def parameters(self, recurse: bool = True) -> Iterator[nn.Parameter]:
        """Without biases."""
        return (p for p in super().parameters(recurse) if p.ndim == 2)


def test_a_class_with_another_idea_of_its_parameters_is_asked() -> None:
    assert [tuple(p.shape) for p in parameters_in(Half())] == [(2, 2)]


# ---- reports ---------------------------------------------------------------------------------------------------------


def test_extras_are_computed_where_they_are_read_and_once() -> None:
    asked: list[str] = []

    def later(name: str) -> Tensor:
        asked.append(name)
        return torch.ones(())

    report = StepReport(extras={"known": torch.zeros(())})
    report.extras_later({"a": lambda: later("a")})
    assert not asked
    report.extras["b"] = torch.zeros(())
    assert list(report.extras) == ["known", "a", "b"]
    assert asked == ["a"]
    report.extras_later({"a": lambda: torch.full((), 2.0)})
    assert float(report.extras["a"]) == 2
    report.extras_later({"c": lambda: later("c")})
    report.extras = {}
    assert report.extras == {}


def test_what_a_report_shows_of_a_projector_is_that_of_its_step() -> None:
    torch.manual_seed(0)
    model = MultimodalModel({m: nn.Linear(3, 4) for m in "ab"}, Concat(dict.fromkeys("ab", 4)), nn.Linear(8, 3))
    data = Batch({m: torch.randn(6, 3) for m in "ab"}, torch.tensor([0, 1, 2, 0, 1, 2]))
    first = MLA(model, Classification(3), alpha_schedule="constant")
    read: list[list[dict[str, float]]] = []
    for method, at_once in ((copy.deepcopy(first), True), (first, False)):
        engine, reports, found = PlainEngine(torch.optim.SGD(method.parameters(), lr=0.1)), [], []
        for _ in range(3):
            reports.append(method.training_step(data, engine))
            if at_once:
                found.append({name: float(t) for name, t in reports[-1].extras.items()})
        read.append(found or [{name: float(t) for name, t in report.extras.items()} for report in reports])
    assert read[0] == read[1]
    values = [r["plasticity/0"] for r in read[0]]
    assert values == sorted(values, reverse=True)
    assert len(set(values)) == 3
    trace = float(next(iter(first.projection.projectors)).matrix.trace())  # type: ignore[arg-type]
    assert values[-1] == pytest.approx(trace / 4)


def test_the_running_energy_takes_the_first_mean_whole_even_if_it_is_zero() -> None:
    projector = OrthogonalProjector(2).double()
    energies = []
    for mean in ([0.0, 0.0], [3.0, 4.0], [0.0, 1.0]):
        projector.update(torch.tensor(mean, dtype=torch.float64), alpha=0.5, relative=False)
        energies.append(float(projector.energy))
    assert energies == pytest.approx([0.0, 2.5, 2.5 + 0.1 * (1 - 2.5)], abs=1e-15)
    strength = projector.update(torch.tensor([1.0, 0.0], dtype=torch.float64), alpha=0.5, relative=False)
    assert float(strength) == pytest.approx(0.5 / (2.35 + 0.1 * (1 - 2.35)), abs=1e-15)
    assert strength.dtype == torch.float64


# ---- gradients that are clipped --------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("size", [1e-3, 0.5, 0.985, 0.999, 1.0, 1.001, 30.0])
def test_gradients_are_clipped_as_torch_does_bit_for_bit(size: float, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    drawn = [torch.randn(7, 5, dtype=dtype), torch.randn(3, dtype=dtype)]
    drawn = [g * (size / nn.utils.get_total_norm(drawn)) for g in drawn]
    ours, theirs = ([nn.Parameter(torch.zeros_like(g)) for g in drawn] for _ in range(2))
    engine = PlainEngine(torch.optim.SGD(ours, lr=1.0), clip_norm=1.0)
    for p, q, g in zip(ours, theirs, drawn, strict=True):
        p.grad, q.grad = g.clone(), g.clone()
    engine.step(Phase("joint", lambda _: Objective(torch.zeros(())), ours))
    nn.utils.clip_grad_norm_(theirs, 1.0)
    torch.optim.SGD(theirs, lr=1.0).step()
    assert all(torch.equal(p, q) for p, q in zip(ours, theirs, strict=True))


def test_a_norm_that_overflows_says_nothing_about_its_gradients() -> None:
    p = nn.Parameter(torch.zeros(3))
    engine = PlainEngine(torch.optim.SGD([p], lr=1.0), clip_norm=1.0)
    phase = Phase("joint", lambda _: Objective(torch.zeros(())), [p])
    p.grad = torch.full((3,), 1e30)
    assert not torch.isfinite(nn.utils.get_total_norm([p.grad]))
    engine.step(phase)  # as torch, which then multiplies by 0
    assert p.tolist() == [0.0, 0.0, 0.0]
    p.grad = torch.tensor([0.0, float("nan"), 0.0])
    with pytest.raises(NonFiniteError, match="Gradient of phase 'joint'"):
        engine.step(phase)
    assert p.tolist() == [0.0, 0.0, 0.0]
    assert p.grad is None


# ---- models ----------------------------------------------------------------------------------------------------------


def test_encode_refuses_modalities_that_it_was_not_given() -> None:
    model = MultimodalModel({m: nn.Linear(3, 4) for m in "ab"}, Concat(dict.fromkeys("ab", 4)), nn.Linear(8, 3))
    inputs = {m: torch.zeros(2, 3) for m in "ab"}
    with pytest.raises(BatchError, match=r"expected an entry for \['c'\]"):
        model.encode(inputs, None, ["a", "c"])
    with pytest.raises(BatchError, match=r"expected an entry for \['b'\]"):
        model.encode({"a": inputs["a"]}, None, ["b"])
    with pytest.raises(BatchError, match=r"Found unknown \['c'\]"):
        model.encode({"a": inputs["a"], "c": inputs["b"]})
    assert list(model.encode({"b": inputs["b"], "a": inputs["a"]})) == ["a", "b"]  # in the order of the encoders
    assert list(model.encode(inputs, None, ["b", "a"])) == ["b", "a"]
    assert list(model.encode({"b": inputs["b"]})) == ["b"]
