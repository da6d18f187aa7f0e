"""Graph mode, emulated: what a step hands over outlives the next one; nothing is compiled again; absent rows fall back.

That every method gives the eager weights and reports in this mode is in ``test_compile.py``.
"""

from __future__ import annotations

import math
import warnings
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from equimodal import Batch, PlainEngine
from equimodal.engine import Descent, Objective, Phase, SampleValues
from equimodal.errors import EquimodalWarning, MethodError
from equimodal.testing._graphs import EmulatedGraphs, GraphEngine
from equimodal.testing._waits import DEVICE, moved
from tests.features.helpers import TWO, Setting, data, plain_method, single
from tests.helpers import assert_near, setting_id, sgd, split, train, weights

pytestmark = pytest.mark.usefixtures("fresh_compiler")


# ---- what lasts ------------------------------------------------------------------------------------------------------


def batch(seed: int) -> Batch:
    x = torch.randn(4, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return Batch({"x": x}, index=torch.arange(4) + 10 * seed)


def descents(graphs: EmulatedGraphs | None) -> tuple[list[Descent], Tensor]:
    """What three steps hand over, looked at after the last of them."""
    w = nn.Parameter(torch.ones(3, dtype=torch.float64))

    def objective(b: Batch) -> Objective:
        error = b.inputs["x"] @ w
        assert b.index is not None
        index = b.index.index_select(0, torch.arange(4))  # not the batch's own memory
        return Objective(error.square().mean(), {"part": error.detach().mean()}, {"sum": error.detach().sum()},
                         rows={"error": SampleValues(error.detach(), index)},
                         score_inputs=(error.detach(), index + 1))  # fmt: skip

    optimizer = torch.optim.SGD([w], lr=0.1, momentum=0.9)
    engine = PlainEngine(optimizer) if graphs is None else GraphEngine(graphs, optimizer)
    found = []
    for seed in range(3):
        phase = Phase("joint", objective, [w])
        found.append(engine.descend(phase, [batch(seed)]))
        engine.step(phase)
    return found, w.detach().clone()


def test_all_that_a_descent_holds_outlives_the_next_steps() -> None:
    expected, w = descents(None)
    graphs = EmulatedGraphs()
    with graphs.running():
        found, ours = descents(graphs)
    assert graphs.steps == 4  # outside of a training step each phase is one
    assert torch.equal(w, ours)
    for a, b in zip(expected, found, strict=True):
        assert float(a.loss) == float(b.loss)
        assert a.losses == b.losses
        assert a.sums == b.sums
        assert torch.equal(a.rows["error"].values, b.rows["error"].values)
        assert torch.equal(a.rows["error"].index, b.rows["error"].index)
        assert all(map(torch.equal, a.score_inputs[0], b.score_inputs[0]))


def test_the_emulation_overwrites_what_is_kept() -> None:
    graphs = EmulatedGraphs()

    def both(x: Tensor) -> tuple[Tensor, Tensor]:
        return x * 2, x

    double: Any = torch.compile(both, **graphs.options())
    x = torch.ones(3)
    with graphs.running():
        torch.compiler.cudagraph_mark_step_begin()  # type: ignore[no-untyped-call]
        first, same = double(x)
        assert first.tolist() == [2, 2, 2]
        torch.compiler.cudagraph_mark_step_begin()  # type: ignore[no-untyped-call]
        assert all(map(math.isnan, first.tolist()))
        assert same.tolist() == [1, 1, 1]  # what is given stays
        assert double(x)[0].tolist() == [2, 2, 2]


@pytest.mark.parametrize("name", ["MLA", "CGGM"])
def test_micro_batches_add_up_in_graphs(name: str) -> None:
    eager, compiled = (plain_method((name, {}), sizes=TWO) for _ in range(2))
    parts = split(data(sizes=TWO), 2)
    graphs = EmulatedGraphs(backward=True)
    for method in (eager, compiled):
        method.predict(parts[0].inputs)
    train(eager, sgd(eager, clip_norm=0.5), range(2), [parts], total=2)
    with graphs.running():
        train(compiled, GraphEngine(graphs, sgd(compiled).optimizers, clip_norm=0.5), range(2), [parts], total=2)
    assert_near(weights(eager), weights(compiled))


def test_a_loss_scale_unscales_what_graphs_gave() -> None:
    eager, compiled = (plain_method(("MLA", {}), sizes=TWO) for _ in range(2))
    batch, scalers = data(sizes=TWO), [torch.amp.GradScaler("cpu", init_scale=8.0, growth_interval=2) for _ in range(2)]
    graphs = EmulatedGraphs(backward=True)
    for method in (eager, compiled):
        method.predict(batch.inputs)
    train(eager, sgd(eager, scaler=scalers[0]), range(2), [batch, batch], total=2)
    with graphs.running():
        train(
            compiled,
            GraphEngine(graphs, sgd(compiled).optimizers, scaler=scalers[1]),
            range(2),
            [batch, batch],
            total=2,
        )
    assert [scaler.get_scale() for scaler in scalers] == [32.0, 32.0]
    assert_near(weights(eager), weights(compiled))


# ---- what is in a graph ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "losses"), [("Joint", 1), ("MLA", 2), ("CGGM", 1), ("MIE", 4)])
def test_schedules_and_counters_are_no_numbers_of_a_graph(name: str, losses: int) -> None:
    """A number of the host in a loss would be compiled in, and compiled anew when it changes."""
    method = plain_method((name, {}), sizes=TWO)
    graphs = EmulatedGraphs()
    engine, b = GraphEngine(graphs, sgd(method).optimizers), data(sizes=TWO)
    method.predict(b.inputs)
    with graphs.running():
        train(method, engine, range(4), [b, b], total=4)
    # torch 2.11 compiles equal losses once
    assert 1 <= graphs.compilations <= losses
    assert graphs.numbers == []


@pytest.mark.parametrize(
    "setting", [("Joint", {}), ("MLA", {"alpha_schedule": "constant"}), ("CGGM", {})], ids=setting_id
)
def test_nothing_of_the_host_is_in_a_graph(setting: Setting) -> None:
    """On the emulated device: a tensor of the host in a loss would keep it from becoming a graph."""
    method, b = plain_method(setting, norm=True).float(), single(data())
    method.predict(b.inputs)
    there = moved(method)
    devices: set[Any] = set()

    def look(module: torch.fx.GraphModule, inputs: Any) -> Any:
        devices.update(x.device if isinstance(x, Tensor) else type(x) for x in inputs)
        values = (node.meta.get("example_value") for node in module.graph.nodes)
        devices.update(value.device for value in values if isinstance(value, Tensor))
        return module.forward

    there.training_step(b.to(DEVICE), sgd(there, compile={"backend": look, "fullgraph": True}))
    assert devices == {DEVICE}


# ---- what falls back -------------------------------------------------------------------------------------------------


def test_absent_rows_are_compiled_without_graphs_and_said_once() -> None:
    eager, compiled = (plain_method(("Joint", {}), sizes=TWO) for _ in range(2))
    whole = data(sizes=TWO)
    torn = Batch(whole.inputs, whole.target, {"b.c": torch.arange(12) % 3 > 0})
    graphs = EmulatedGraphs()
    engine = GraphEngine(graphs, sgd(compiled).optimizers)
    for method in (eager, compiled):
        method.predict(whole.inputs)
    train(eager, sgd(eager), range(2), [whole, torn, torn], total=2)
    kept = []
    graphs.keep = lambda results, given: kept.append(results)  # type: ignore[method-assign]
    with graphs.running(), pytest.warns(EquimodalWarning, match=r"phase 'joint'.*without \['b.c'\]") as told:
        train(compiled, engine, range(2), [whole, torn, torn], total=2)
    assert len(told) == 1
    assert len(kept) == 6 + 2  # the gradients of each step, and the results of whole batches
    assert_near(weights(eager), weights(compiled))
    with graphs.running(), warnings.catch_warnings():
        warnings.simplefilter("error")
        full = Batch(whole.inputs, whole.target, {"b.c": torch.ones(12, dtype=torch.bool)})
        compiled.training_step(full, GraphEngine(graphs, sgd(compiled).optimizers))  # a mask without absent rows


# ---- options ---------------------------------------------------------------------------------------------------------


def asked(monkeypatch: pytest.MonkeyPatch, option: Any, torn: bool) -> tuple[list[dict[str, Any]], int]:
    options: list[dict[str, Any]] = []
    marks: list[None] = []

    def compile_(function: Any, **given: Any) -> Any:
        options.append(given)
        return function

    monkeypatch.setattr(torch, "compile", compile_)
    monkeypatch.setattr(torch.compiler, "cudagraph_mark_step_begin", lambda: marks.append(None))
    method, whole = plain_method(("Joint", {})), data()
    mask = {"a": torch.arange(12) > 0} if torn else None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", EquimodalWarning)
        engine = sgd(method, compile=option)
        for _ in range(2):  # what is compiled is made once
            method.training_step(Batch(whole.inputs, whole.target, mask), engine)
    return options, len(marks) // 2


@pytest.mark.parametrize(
    ("option", "complete", "torn", "marks"),
    [
        (True, {}, {}, 0),
        ("default", {"mode": "default"}, {"mode": "default"}, 0),
        ("reduce-overhead", {"mode": "reduce-overhead"}, {"mode": None}, 1),
        ("max-autotune", {"mode": "max-autotune"}, {"mode": "max-autotune-no-cudagraphs"}, 1),
        (
            {"options": {"triton.cudagraphs": True}}, {"options": {"triton.cudagraphs": True}},
            {"options": {"triton.cudagraphs": False}}, 1,
        ),
    ],
    ids=str,
)  # fmt: skip
def test_options_of_complete_batches_and_of_others(
    option: Any, complete: Any, torn: Any, marks: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert asked(monkeypatch, option, False) == ([complete], marks)
    assert asked(monkeypatch, option, True) == ([torn], marks)


def test_an_unknown_mode_is_refused() -> None:
    with pytest.raises(MethodError, match="reduce-overhead.*Found 'fast'"):
        PlainEngine(torch.optim.SGD([nn.Parameter(torch.ones(1))], lr=0.1), compile="fast")


@pytest.mark.parametrize("option", [None, 1, ["fast"], {"options": [1]}])
def test_what_is_no_option_is_refused_by_name(option: Any) -> None:
    with pytest.raises(MethodError, match="`compile`: expected True, False, a mode .*Found"):
        PlainEngine(torch.optim.SGD([nn.Parameter(torch.ones(1))], lr=0.1), compile=option)


@pytest.mark.parametrize("option", [{"mode": "fast"}, {"speed": 1}, {"backend": "fast"}, {"options": {"fast": True}}])
def test_what_torch_does_not_take_is_refused_by_name(option: Any) -> None:
    method = plain_method(("Joint", {}))
    with pytest.raises(MethodError) as caught:
        method.training_step(data(), PlainEngine(torch.optim.SGD(method.parameters(), lr=0.1), compile=option))
    assert f"`compile`: expected arguments of torch.compile. Found {option}, of which it says: " in str(caught.value)


def test_the_trainer_trains_in_graphs() -> None:
    pytest.importorskip("lightning")
    from lightning.pytorch import Trainer
    from torch.utils.data import DataLoader

    from equimodal.lightning import MethodModule

    eager, compiled = (plain_method(("MLA", {}), sizes=TWO) for _ in range(2))
    batches: Any = [data(sizes=TWO, seed=seed) for seed in range(3)]
    graphs = EmulatedGraphs()
    for method, options in ((eager, False), (compiled, graphs.options())):
        method.predict(batches[0].inputs)
        module = MethodModule(method, lambda groups: torch.optim.SGD(groups, lr=0.05), clip_norm=0.5, compile=options)
        with graphs.running(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Lightning's advice on loaders
            trainer = Trainer(max_epochs=2, accelerator="cpu", logger=False, enable_checkpointing=False,
                              enable_progress_bar=False, enable_model_summary=False)  # fmt: skip
            trainer.fit(module, DataLoader(batches, batch_size=None))
    assert graphs.compilations == 2
    assert graphs.steps >= 6
    assert_near(weights(eager), weights(compiled))
