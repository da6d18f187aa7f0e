"""torch.compile of encoders and of whole losses equals eager; no graph break inside a phase; no backward hooks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import equimodal
from equimodal import MultimodalModel, PlainEngine
from equimodal.engine import recorded_inputs
from equimodal.engine._recording import Recorder, is_compiled, watch
from equimodal.errors import UnsupportedError
from equimodal.fusion import Concat
from tests.features.helpers import SETTINGS, SIZES, TWO, Setting, data, every_setting, plain_method
from tests.helpers import CLASSES, WIDTH, assert_near, case_of, method_on, mlp, prove, sgd, train, weights

FOUNDING = ("MLA", "CGGM", "MIE")
THREE = [next(s for s in SETTINGS if s[0] == name) for name in FOUNDING]
"""Settings that are tried with three modalities too."""
pytestmark = pytest.mark.usefixtures("fresh_compiler")


@every_setting
def test_compile(setting: Setting) -> None:
    """Encoders compiled before the model is made; statistics of their layers are seen all the same."""
    prove("compiled_encoders", case_of(setting))


@every_setting
def test_compiled_loss(setting: Setting) -> None:
    """For the founding methods with three modalities, and the graphs of the backward pass too.

    Methods that have seen nothing before are compiled in the two tests below.
    """
    prove("compiled_loss", case_of(setting), setting[0] in FOUNDING, SIZES if setting in THREE else TWO)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")  # raised inside torch
@pytest.mark.parametrize("name", ["MLA", "CGGM", "MIE"])
def test_inductor(name: str) -> None:
    """Generated code, in float32; skipped where there is no C++ compiler."""
    import shutil

    if shutil.which("g++") is None and shutil.which("clang++") is None:
        pytest.skip("no C++ compiler")
    if " " in torch.__file__:
        pytest.skip("torch's own linker command does not quote its path, which has a space here")
    from tests.features.helpers import single

    eager, compiled = (plain_method((name, {}), sizes=TWO).float() for _ in range(2))
    batch = single(data(sizes=TWO))
    train(eager, sgd(eager, clip_norm=0.5), range(2), [batch], total=2)
    train(compiled, sgd(compiled, clip_norm=0.5, compile={"fullgraph": True}), range(2), [batch], total=2)
    assert_near(weights(eager), weights(compiled), 1e-4)


def test_more_modalities_than_the_compiler_keeps_by_default() -> None:
    """Nine phases: one compiled loss each, where torch keeps eight."""
    sizes = {f"m{i}": 3 for i in range(9)}
    eager, compiled = (plain_method(("Ensemble", {}), sizes=sizes) for _ in range(2))
    batch = data(sizes=sizes)
    train(eager, sgd(eager), range(2), [batch], total=2)
    train(compiled, sgd(compiled, compile={"backend": "eager", "fullgraph": True}), range(2), [batch], total=2)
    assert_near(weights(eager), weights(compiled))


# ---- looking inside compiled code ------------------------------------------------------------------------------------


def test_inputs_are_seen_inside_compiled_code_in_both_states() -> None:
    net = mlp(3, 2).double()
    layers: Any = [m for m in net if isinstance(m, nn.Linear)]
    watch(net, everywhere=True)
    compiled = torch.compile(net, backend="eager", fullgraph=True)
    x = data().inputs["keys"]
    compiled(x)
    with recorded_inputs(layers) as seen:
        compiled(x)
        assert [len(s) for s in seen] == [1, 1]
        assert torch.equal(seen[0][0], x)
        assert (seen[1][0] - torch.tanh(net[0](x))).abs().max() < 1e-12
    compiled(x)
    assert all(layer.__dict__["_equimodal_recorder"].seen == [] for layer in layers)


def test_an_encoder_that_was_compiled_too_early_is_not_silently_left_out() -> None:
    encoders: dict[str, Any] = {m: torch.compile(mlp(n, WIDTH).double(), backend="eager") for m, n in TWO.items()}
    batch = data(sizes=TWO)
    for m, e in encoders.items():
        e(batch.inputs[m])  # traced here, before a method could ask to look inside
    model = MultimodalModel(encoders, Concat(dict.fromkeys(encoders, WIDTH)), nn.Linear(2 * WIDTH, CLASSES)).double()
    heads = {m: nn.Sequential(nn.Tanh(), mlp(WIDTH, CLASSES, 7)) for m in TWO}
    method = method_on(model, "MIE", heads=heads, small=False)
    from tests.helpers import announce

    engine = sgd(method)
    announce(method, engine)
    try:
        method.training_step(batch, engine)
    except UnsupportedError as error:
        assert "Make the method first" in str(error)  # noqa: PT017 (either is right, silence is not)
    else:
        assert all(float(c.count) > 0 for c in method.projection.bank.covariances[0])  # type: ignore[union-attr, index]


def test_watched_layers_copy_and_save_with_their_recorder() -> None:
    import copy
    import io

    net = mlp(3, 2)
    watch(net, everywhere=True)
    watch(net, everywhere=True)
    assert sum(isinstance(h, Recorder) for h in net[0]._forward_pre_hooks.values()) == 1
    twin = copy.deepcopy(net)
    own: Any = [twin[0]]
    with recorded_inputs(own) as seen:
        twin(torch.ones(1, 3))
        net(torch.zeros(1, 3))
        assert len(seen[0]) == 1
        assert float(seen[0][0].sum()) == 3
    file = io.BytesIO()
    torch.save(net.state_dict(), file)
    assert list(net.state_dict()) == list(mlp(3, 2).state_dict())


def test_compiled_modules_are_recognised() -> None:
    plain, wrapped, inside = mlp(3, 2), torch.compile(mlp(3, 2), backend="eager"), mlp(3, 2)
    inside.compile(backend="eager")
    assert not is_compiled(plain)
    assert is_compiled(nn.ModuleList([wrapped]))  # type: ignore[list-item]
    assert is_compiled(inside)


def test_no_backward_hooks_on_modules() -> None:
    """Compilers ignore them without a word."""
    text = "\n".join(p.read_text(encoding="utf-8") for p in Path(equimodal.__file__).parent.rglob("*.py"))
    assert "register_full_backward_hook" not in text
    assert "register_backward_hook" not in text
    method = plain_method(("MIE", {}))
    train(method, sgd(method), range(2), [data()], total=2)
    assert not any(m._backward_hooks or m._backward_pre_hooks for m in method.modules())


def test_compiled_options_reach_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[dict[str, Any]] = []

    def compile_(function: Any, **options: Any) -> Any:
        asked.append(options)
        return function

    monkeypatch.setattr(torch, "compile", compile_)
    method = plain_method(("Joint", {}))
    for options in (True, {"mode": "default"}):
        PlainEngine(torch.optim.SGD(method.parameters(), lr=0.1), compile=options)
        method.training_step(data(), sgd(method, compile=options))
    assert asked == [{}, {"mode": "default"}]


def test_what_the_compiler_cannot_do_is_said_with_the_phase() -> None:
    def broken(graph: Any, inputs: Any) -> Any:
        raise RuntimeError("no compiler found")

    method = plain_method(("MultiLoss", {}))
    before = [p.detach().clone() for p in method.parameters()]
    with pytest.raises(UnsupportedError, match=r"`compile` \(phase '\w+'\).*no compiler found"):
        method.training_step(data(), sgd(method, compile={"backend": broken}))
    assert all(map(torch.equal, before, method.parameters()))
