"""Equal encoders stacked against one by one: outputs, gradients, training; and what is not stacked, or refused."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm
from torch.utils._python_dispatch import TorchDispatchMode

from equimodal import Batch, Classification, MultimodalModel, PlainEngine
from equimodal._utils.stacked import can_stack, stacked_call
from equimodal.errors import ModelError
from equimodal.fusion import Concat
from equimodal.methods import get
from tests.helpers import assert_near, train, weights

NAMES = ("a", "b.c", "keys", "d e")


class Attention(nn.Module):
    """(B, T, 8) to (B, 4)."""

    scale: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.TransformerEncoderLayer(8, 2, 8, dropout=0.0, batch_first=True)
        self.out = nn.Linear(8, 4)
        self.register_buffer("scale", torch.rand(8))

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.out(self.layer(x * self.scale).mean(1))
        return found


def mlp() -> nn.Module:
    return nn.Sequential(nn.Linear(5, 6), nn.LayerNorm(6), nn.Tanh(), nn.Linear(6, 4, bias=False))


def convolution() -> nn.Module:
    return nn.Sequential(nn.Conv1d(3, 4, 3), nn.GroupNorm(2, 4), nn.ReLU(), nn.AdaptiveAvgPool1d(1), nn.Flatten())


KINDS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "linear": (lambda: nn.Linear(5, 4), (5,)),
    "mlp": (mlp, (5,)),
    "convolution": (convolution, (3, 7)),
    "attention": (Attention, (3, 8)),
}


def model(make: Callable[[], nn.Module], stacked: bool, count: int = 4) -> MultimodalModel:
    torch.manual_seed(0)
    encoders = {m: make() for m in NAMES[:count]}
    fusion = Concat(dict.fromkeys(encoders, 4))
    return MultimodalModel(
        encoders, fusion, nn.Linear(4 * count, 3), dict.fromkeys(encoders, 4), stacked=stacked
    ).double()


def inputs(shape: tuple[int, ...], rows: int = 6, seed: int = 1) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {m: torch.randn(rows, *shape, generator=generator, dtype=torch.float64) for m in NAMES}


@pytest.fixture
def passes(monkeypatch: pytest.MonkeyPatch) -> list[None]:
    """One entry for each stacked pass."""
    made: list[None] = []
    vmap = torch.vmap

    def counted(*arguments: Any, **options: Any) -> Any:
        made.append(None)
        return vmap(*arguments, **options)

    monkeypatch.setattr(torch, "vmap", counted)
    return made


# ---- equality --------------------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:There is a performance drop:UserWarning")  # torch, of attention on a CPU
@pytest.mark.parametrize("kind", KINDS)
def test_outputs_and_gradients(kind: str, passes: list[None]) -> None:
    make, shape = KINDS[kind]
    alone, together = model(make, False), model(make, True)
    x = inputs(shape)
    features = [m.encode(x) for m in (alone, together)]
    assert len(passes) == 1
    assert list(features[1]) == list(NAMES)
    assert_near(features[0], features[1], 1e-12)
    for m in (alone, together):
        m(x).square().sum().backward()
    gradients = [{n: p.grad for n, p in m.named_parameters()} for m in (alone, together)]
    assert all(g is not None for g in gradients[1].values())
    assert_near(gradients[0], gradients[1], 1e-12)  # type: ignore[arg-type]
    names = {m: [n for n, _ in enumerate(together.parameters_of(m))] for m in NAMES}
    assert len({len(found) for found in names.values()}) == 1


@pytest.mark.parametrize(("name", "stacks"), [("Joint", True), ("CGGM", True), ("MLA", False), ("MIE", False)])
def test_training(name: str, stacks: bool, passes: list[None]) -> None:
    """Methods that train an encoder at a time have nothing to stack in a step, and train as ever."""
    methods = [get(name)(model(mlp, stacked), Classification(3)).double().train() for stacked in (False, True)]
    batch = Batch(inputs((5,), 9), torch.arange(9) % 3)
    for method in methods:
        optimizer = torch.optim.SGD(method.parameters(), lr=0.05, momentum=0.9, weight_decay=1e-3)
        method.train()
        train(method, PlainEngine(optimizer, clip_norm=0.5), range(2), [batch, batch], total=2)
    assert len(passes) >= 4 * stacks
    assert_near(weights(methods[0]), weights(methods[1]), 1e-10)
    found = [method.predict(batch.inputs).output for method in methods]
    assert (found[0] - found[1]).abs().max() < 1e-10


def test_a_compiled_loss_and_a_frozen_encoder() -> None:
    torch.compiler.reset()
    methods = [get("Joint")(model(mlp, stacked), Classification(3)).double().train() for stacked in (False, True)]
    batch = Batch(inputs((5,), 9), torch.arange(9) % 3)
    choices: tuple[Any, ...] = (False, {"backend": "eager", "fullgraph": True})
    for method, options in zip(methods, choices, strict=True):
        for p in method.multimodal.parameters_of("keys"):
            p.requires_grad_(False)
        optimizer = torch.optim.SGD([p for p in method.parameters() if p.requires_grad], lr=0.05)
        method.predict(batch.inputs)
        train(method, PlainEngine(optimizer, compile=options), range(2), [batch], total=2)
    assert_near(weights(methods[0]), weights(methods[1]), 1e-10)
    torch.compiler.reset()


def test_copies_states_and_files_are_those_of_any_model() -> None:
    alone, together = model(mlp, False), model(mlp, True)
    assert list(alone.state_dict()) == list(together.state_dict())
    together.load_state_dict(alone.state_dict())
    x = inputs((5,))
    for twin in (copy.deepcopy(together), pickle.loads(pickle.dumps(together))):
        assert (twin(x) - alone(x)).abs().max() < 1e-12


class Kernels(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts what computes or copies, forwards and backwards."""

    views = frozenset({"t", "transpose", "expand", "view", "_unsafe_view", "unbind", "select", "detach"})

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.count = 0

    def __torch_dispatch__(self, operation: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += operation.overloadpacket.__name__ not in self.views
        return operation(*args, **(kwargs or {}))


def test_more_modalities_take_no_more_kernels() -> None:
    counts = {}
    for stacked in (False, True):
        for count in (2, 4):
            made, x = (
                model(lambda: nn.Sequential(nn.Linear(5, 6), nn.Tanh(), nn.Linear(6, 4)), stacked, count),
                inputs((5,)),
            )
            with Kernels() as kernels:
                total = torch.stack([h.sum() for h in made.encode({m: x[m] for m in NAMES[:count]}).values()]).sum()
                torch.autograd.backward(total)
            counts[stacked, count] = kernels.count - count  # without the sums here
    assert counts[True, 2] == counts[True, 4]
    assert counts[False, 4] - counts[False, 2] == pytest.approx(counts[False, 2], abs=4)
    assert counts[True, 4] < 0.7 * counts[False, 4]


def test_an_exported_program_has_the_layers_one_by_one(passes: list[None]) -> None:
    together, x = model(mlp, True).eval(), inputs((5,))
    program = torch.export.export(together, (x,))
    assert passes == []
    layers = [node for node in program.graph.nodes if "linear" in str(node.target)]
    assert len(layers) == 4 * 2 + 1
    assert (program.module()(x) - together(x)).abs().max() < 1e-12


# ---- one by one ------------------------------------------------------------------------------------------------------


def test_absent_rows_other_shapes_modes_and_hooks_run_one_by_one(passes: list[None]) -> None:
    alone, together = model(convolution, False), model(convolution, True)
    x = inputs((3, 7))
    present = {"b.c": torch.arange(6) > 1}
    x["b.c"][:2] = float("nan")
    assert (alone(x, present) - together(x, present)).abs().max() == 0
    x = inputs((3, 7)) | {"keys": inputs((3, 9))["keys"]}
    assert (alone(x) - together(x)).abs().max() == 0
    x = inputs((3, 7))
    together.encoder("keys").eval()
    together(x)
    together.train()
    seen: list[int] = []
    layer: Any = together.encoder("d e")
    handle = layer[0].register_forward_hook(lambda *_: seen.append(1))
    together(x)
    assert seen == [1]
    assert passes == []
    handle.remove()
    together({"a": x["a"]})  # one modality
    assert passes == []
    together({m: x[m] for m in ("a", "keys")}, {"a": torch.ones(6, dtype=torch.bool)})  # a mask without absent rows
    assert passes == [None]


def test_dropout_draws_for_each_encoder() -> None:
    together = model(lambda: nn.Sequential(nn.Linear(5, 4), nn.Dropout(0.5)), True)
    x = dict.fromkeys(NAMES, torch.ones(200, 5, dtype=torch.float64))
    dropped = [h == 0 for h in together.encode(x).values()]
    assert all(0.4 < float(d.double().mean()) < 0.6 for d in dropped)
    assert not torch.equal(dropped[0], dropped[1])
    alone = model(lambda: nn.Sequential(nn.Linear(5, 4), nn.Dropout(0.5)), False).eval()
    assert (alone(x) - together.eval()(x)).abs().max() < 1e-12


# ---- refusals --------------------------------------------------------------------------------------------------------


class Scaled(nn.Linear):
    """A linear layer with something beside its weights."""

    def __init__(self, scale: Any) -> None:
        super().__init__(5, 4)
        self.scale = scale

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * torch.as_tensor(self.scale)


class Noted(nn.Identity):
    """A layer that holds arrays."""

    def __init__(self) -> None:
        super().__init__()
        self.notes = {"mean": np.zeros(3), "of": [torch.ones(2), (np.ones(2), "x")]}


class Shared(nn.Module):
    """Two layers, of one weight or of two."""

    def __init__(self, shared: bool) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(5, 5), nn.Linear(5, 5)
        if shared:
            self.b.weight = self.a.weight
        self.out_features = 5

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.b(self.a(x).relu())
        return found


def of(*encoders: nn.Module) -> MultimodalModel:
    named = dict(zip(NAMES, encoders, strict=False))
    return MultimodalModel(named, Concat(dict.fromkeys(named, 4)), nn.Linear(4 * len(named), 3), stacked=True)


class Recurrent(nn.Module):
    """A recurrent encoder."""

    def __init__(self) -> None:
        super().__init__()
        self.gru = nn.GRU(5, 4)
        self.out_features = 4


@pytest.mark.parametrize(
    ("encoders", "message"),
    [
        ((nn.Linear(5, 4), nn.Linear(6, 4)), r"encoders\['a'\] and encoders\['b.c'\] with different parameters"),
        ((nn.Linear(5, 4), nn.Linear(5, 4, bias=False)), "different parameters"),
        ((nn.Linear(5, 4), Scaled(1.0)), "different layers: Linear and Scaled"),
        ((Scaled(1.0), Scaled(2.0)), "different `scale`"),
        ((nn.Sequential(nn.Linear(5, 4)), nn.Sequential(nn.Linear(5, 4), nn.ReLU())), "different layers"),
        ((nn.Sequential(nn.Linear(5, 4), nn.Dropout(0.1)), nn.Sequential(nn.Linear(5, 4), nn.Dropout(0.2))),
         "different `p` of `1`"),
        ((nn.Sequential(nn.Linear(5, 4), nn.BatchNorm1d(4)), nn.Linear(5, 4)), "`1` .BatchNorm1d. .*running"),
        ((Recurrent(), Recurrent()), "`gru` .GRU. .*recurrent"),
        ((Shared(True), Shared(False)), "different parameters that layers share"),
        ((weight_norm(nn.Linear(5, 4)), nn.Linear(5, 4)), "Found ParametrizedLinear as .* is parametrized"),
        ((Scaled(np.ones(4)), Scaled(np.zeros(4))), "different `scale`"),
        ((Scaled([torch.ones(4)]), Scaled([torch.zeros(4)])), "different `scale`"),
    ],
    ids=["width", "bias", "class", "attribute", "depth", "dropout", "running statistics", "recurrent", "shared",
         "parametrized", "array", "tensors"],
)  # fmt: skip
def test_encoders_that_do_not_run_as_one_are_refused(encoders: tuple[nn.Module, ...], message: str) -> None:
    with pytest.raises(ModelError, match=f"`stacked`: .*{message}"):
        of(*encoders)


class Counting(nn.Linear):
    """Changes a buffer in each call."""

    calls: Tensor

    def __init__(self) -> None:
        super().__init__(5, 4)
        self.register_buffer("calls", torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return super().forward(x)


class Branching(nn.Linear):
    """Looks at its numbers, which a stacked call cannot."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) if bool(x.sum() > 0) else super().forward(-x)


class Assigning(Counting):
    """Puts another tensor in the place of its buffer in each call."""

    def forward(self, x: Tensor) -> Tensor:
        self.calls = self.calls + 1
        return nn.functional.linear(x, self.weight, self.bias)


def test_what_shows_in_the_call_only_is_refused_there() -> None:
    x = {m: torch.ones(2, 5) for m in NAMES[:2]}
    with pytest.raises(ModelError, match="Counting that changes"):
        of(Counting(), Counting())(x)
    with pytest.raises(ModelError, match="Assigning that changes"):
        of(Assigning(), Assigning())(x)
    with pytest.raises(ModelError, match="Branching, of which torch says: vmap.*Leave out stacked=True"):
        of(Branching(5, 4), Branching(5, 4))(x)


def test_attributes_of_equal_arrays_are_equal(passes: list[None]) -> None:
    made = of(*(nn.Sequential(nn.Linear(5, 4), Noted()) for _ in range(2)))
    made({m: torch.ones(2, 5) for m in NAMES[:2]})
    assert len(passes) == 1


def test_layers_that_are_exchanged_later_run_one_by_one(passes: list[None]) -> None:
    x = {m: torch.randn(2, 5) for m in NAMES[:2]}
    changes: list[Callable[[Any], Any]] = [
        lambda e: e.append(nn.Tanh()),
        lambda e: e.__setitem__(1, nn.Tanh()),
        lambda e: e.__setitem__(0, nn.Linear(5, 4, bias=False)),
        lambda e: weight_norm(e[0]),
    ]
    for change in changes:
        model = of(*(nn.Sequential(nn.Linear(5, 4), nn.ReLU()) for _ in range(2)))
        change(model.encoders[1])
        torch.testing.assert_close(model.encode(x)["b.c"], model.encoder("b.c")(x["b.c"]))
    assert not passes


def test_attention_in_evaluation_mode_has_gradients_and_runs_one_by_one(passes: list[None]) -> None:
    found = model(Attention, stacked=True).eval()
    x = {m: torch.randn(2, 3, 8) for m in NAMES}
    found(x).sum().backward()
    assert all(p.grad is not None for p in found.parameters())
    assert not passes


def test_transformations_of_functions_give_what_they_give_one_by_one(passes: list[None]) -> None:
    """Gradients of torch.func, one for each sample."""
    x = {m: torch.randn(3, 5, dtype=torch.float64) for m in NAMES}
    found = []
    for stacks in (True, False):
        one = model(mlp, stacks)
        values = {name: p.detach() for name, p in one.named_parameters()}

        def loss(p: dict[str, Tensor], *rows: Tensor, one: MultimodalModel = one) -> Tensor:
            inputs = {m: r.reshape(-1, 5) for m, r in zip(NAMES, rows, strict=True)}
            output: Tensor = torch.func.functional_call(one, p, (inputs,))
            return output.square().sum()

        each = torch.func.vmap(torch.func.grad(loss), (None, *[0] * len(NAMES)))(values, *x.values())
        found.append(each)
    torch.testing.assert_close(*found)
    assert len(passes) == 1


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch, of its own way to trace a function
def test_compiling_does_not_break_the_graph() -> None:
    layers = [mlp() for _ in range(3)]
    x = [torch.randn(6, 5) for _ in layers]
    assert can_stack(layers, x)
    found = torch.compile(lambda x: stacked_call(layers, x), fullgraph=True, backend="eager")(x)
    torch.testing.assert_close(found, [layer(t) for layer, t in zip(layers, x, strict=True)])
    asked = torch.compile(lambda x: x[0] + 1 if can_stack(layers, x) else x[0], fullgraph=True, backend="eager")(x)
    # stacked or, in torch 2.11, one by one: both are right
    assert torch.equal(asked, x[0] + 1) or torch.equal(asked, x[0])
