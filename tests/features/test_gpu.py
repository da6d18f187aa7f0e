"""On an accelerator: no hidden synchronisation, half precision, channels-last, compiled; skipped elsewhere."""

from __future__ import annotations

import contextlib
import math
import warnings
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import nn

from equimodal import Batch, Classification, MultimodalModel, PlainEngine
from equimodal.errors import NonFiniteError
from equimodal.fusion import Concat
from equimodal.methods import Method, get
from equimodal.testing import ToyData
from tests.features.helpers import SETTINGS, Setting, data, departure, plain_method, single
from tests.features.users import USERS, Remembering, User, indexed, user
from tests.helpers import assert_near, is_wild, setting_id, sgd, split, train, weights

pytestmark = [
    pytest.mark.gpu,
    # torch's own, while it generates code
    pytest.mark.filterwarnings("ignore:.torch.jit.script_method. is deprecated:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:TensorFloat32 tensor cores:UserWarning"),
    pytest.mark.filterwarnings("ignore:\\s*Online softmax is disabled:UserWarning"),
]
every_setting = pytest.mark.parametrize("setting", SETTINGS, ids=setting_id)


@pytest.fixture
def device() -> torch.device:
    found = torch.accelerator.current_accelerator()
    assert found is not None
    return found


@contextlib.contextmanager
def no_waiting() -> Iterator[None]:
    """Any wait for the device is an error."""
    torch.cuda.synchronize()
    _set_sync_debug_mode("error")
    try:
        yield
    finally:
        _set_sync_debug_mode("default")


def _set_sync_debug_mode(mode: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # that it does not see every wait
        torch.cuda.set_sync_debug_mode(mode)


def on(device: torch.device, setting: Setting, norm: bool = False) -> Method:
    return plain_method(setting, norm=norm).float().to(device)


def start(method: Method, engine: PlainEngine, batch: Batch) -> None:
    method.on_train_epoch_start(ToyData([batch]).context(0, 4, engine))


@every_setting
def test_asynchronous(setting: Setting, device: torch.device) -> None:
    """In full precision and in bfloat16; the first step may (it makes optimizer state and handles)."""
    if device.type != "cuda":
        pytest.skip("only CUDA can tell")
    if departure(setting, "asynchronous") is not None:
        pytest.skip("says that it departs")
    for autocast in (None, torch.bfloat16):
        method = on(device, setting, norm=True)
        batch = single(data(32)).to(device)
        engine = PlainEngine(torch.optim.SGD(method.parameters(), lr=1e-3, momentum=0.9, foreach=True), clip_norm=1.0,
                             autocast=autocast)  # fmt: skip
        start(method, engine, batch)
        for _ in range(3):
            method.training_step(batch, engine)
        with no_waiting():
            for _ in range(3):
                method.training_step(batch, engine)
        engine.raise_if_not_finite()


@every_setting
def test_the_device_gives_the_weights_of_the_processor(setting: Setting, device: torch.device) -> None:
    if setting[1].get("mixup_alpha") or is_wild(setting):
        pytest.skip("draws on the device, or amplifies rounding")
    if device.type == "mps":
        pytest.skip("no float64")
    here, there = plain_method(setting), plain_method(setting).to(device)
    train(here, sgd(here, clip_norm=0.5), range(2), [data(seed=s) for s in range(2)], total=2)
    train(there, sgd(there, clip_norm=0.5), range(2), [data(seed=s).to(device) for s in range(2)], total=2)
    assert_near(weights(here), {n: t.cpu() for n, t in weights(there).items()}, 1e-7)


@every_setting
def test_float16_on_the_device(setting: Setting, device: torch.device) -> None:
    if departure(setting, "float16") is not None:
        pytest.skip("says that it departs")
    method = on(device, setting, norm=True)
    scaler = torch.amp.GradScaler(device.type, init_scale=2.0**40)  # overflows at first
    optimizer = torch.optim.SGD(method.parameters(), lr=1e-3, momentum=0.9)
    engine = PlainEngine(optimizer, autocast=torch.float16, scaler=scaler)
    batch = single(data(32)).to(device)
    train(method, engine, range(1), [batch] * 40, total=4)
    assert scaler.get_scale() < 2.0**40
    assert all(torch.isfinite(t).all() for t in weights(method).values())
    assert method.training_step(batch, engine).phases


def test_a_nan_is_found_at_the_end_of_the_epoch(device: torch.device) -> None:
    method = on(device, ("MLA", {}))
    batch = single(data(8)).to(device)
    engine = PlainEngine(torch.optim.SGD(method.parameters(), lr=0.1))
    start(method, engine, batch)
    batch.inputs["a"][0] = math.nan
    method.training_step(batch, engine)
    with pytest.raises(NonFiniteError, match="'a'"):
        engine.raise_if_not_finite()


def audio_visual(device: torch.device) -> tuple[MultimodalModel, Batch]:
    """Convolutional encoders at the shapes of CREMA-D: a spectrogram, and one frame of three channels."""

    def encoder(channels: int) -> nn.Module:
        layers: list[nn.Module] = []
        for before, after in ((channels, 32), (32, 64), (64, 128)):
            layers += [nn.Conv2d(before, after, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(after), nn.ReLU()]
        return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten())

    torch.manual_seed(0)
    encoders = {"audio": encoder(1), "visual": encoder(3)}
    model = MultimodalModel(encoders, Concat(dict.fromkeys(encoders, 128)), nn.Linear(256, 6),
                            feature_sizes=dict.fromkeys(encoders, 128))  # fmt: skip
    inputs = {"audio": torch.randn(16, 1, 257, 188), "visual": torch.randn(16, 3, 224, 224)}
    last: Any = torch.channels_last
    untyped: Any = model.to(device)  # the stubs do not know of memory formats
    untyped.to(memory_format=last)
    moved = {m: x.to(device=device, memory_format=last) for m, x in inputs.items()}
    return model, Batch(moved, torch.arange(16, device=device) % 6)


@pytest.mark.parametrize("name", ["Joint", "MLA", "CGGM", "MIE"])
@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "compiled"])
def test_channels_last_in_bfloat16(name: str, compiled: bool, device: torch.device) -> None:
    if device.type != "cuda":
        pytest.skip("channels-last convolutions in bfloat16 are CUDA's")
    torch.compiler.reset()
    model, batch = audio_visual(device)
    method = get(name)(model, Classification(6)).to(device).train()
    engine = PlainEngine(torch.optim.SGD(method.parameters(), lr=0.05, momentum=0.9), autocast=torch.bfloat16,
                         compile={"fullgraph": True} if compiled else False)  # fmt: skip
    start(method, engine, batch)
    first = float(method.training_step(batch, engine).loss)
    for _ in range(15):
        last = method.training_step(batch, engine)
    assert float(last.loss) < first
    engine.raise_if_not_finite()
    convolution = next(m for m in model.modules() if isinstance(m, nn.Conv2d))
    assert convolution.weight.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("name", ["Joint", "MLA", "CGGM", "MIE"])
def test_cuda_graphs(name: str, device: torch.device) -> None:
    """Weights and reports of eager steps, and every loss became a graph."""
    if device.type != "cuda":
        pytest.skip("only CUDA has graphs")
    torch.compiler.reset()
    torch._dynamo.utils.counters.clear()
    eager, compiled = on(device, (name, {}), norm=True), on(device, (name, {}), norm=True)
    batch, losses = single(data(32)).to(device), []
    for method, engine in ((eager, sgd(eager)), (compiled, sgd(compiled, compile="reduce-overhead"))):
        method.predict(batch.inputs)
        data_of = ToyData([batch])
        reports = []
        for epoch in range(3):
            method.train()
            method.on_train_epoch_start(data_of.context(epoch, 3, engine))
            reports += [method.training_step(batch, engine) for _ in range(4)]
            method.on_train_epoch_end(data_of.context(epoch, 3, engine))
        losses.append(torch.stack([report.loss for report in reports]))  # read after the steps that followed
    assert_near(weights(eager), weights(compiled), 1e-4)
    assert (losses[0] - losses[1]).abs().max() < 1e-4
    assert torch._dynamo.utils.counters["inductor"]["cudagraph_skips"] == 0


# ---- what a phase may ask for ----------------------------------------------------------------------------------------


def user_on(device: torch.device, name: str, norm: bool = False) -> User:
    """A small user of a facility; a table has its room before, as on a device it does not grow."""
    method = user(name, norm=norm).to(device)
    if isinstance(method, Remembering):
        method.memory.reserve(20)
    return method


@pytest.mark.parametrize("name", USERS)
def test_facilities_give_the_weights_of_the_processor(name: str, device: torch.device) -> None:
    if device.type == "mps":
        pytest.skip("no float64")
    here, there = user(name), user_on(device, name)
    engines = sgd(here, clip_norm=0.5), sgd(there, clip_norm=0.5)
    for seed in range(3):
        here.training_step(split(indexed(12, seed), 2), engines[0])
        there.training_step([b.to(device) for b in split(indexed(12, seed), 2)], engines[1])
    found = {n: t.cpu() for n, t in weights(there).items()}
    expected = weights(here)
    assert_near({n: t for n, t in expected.items() if "memory" not in n}, {n: found[n] for n in expected
                if "memory" not in n}, 1e-7)  # fmt: skip


@pytest.mark.parametrize("name", USERS)
def test_facilities_in_float16_on_the_device(name: str, device: torch.device) -> None:
    method = user_on(device, name, norm=True).float()
    scaler = torch.amp.GradScaler(device.type, init_scale=2.0**40)  # overflows at first
    engine = PlainEngine(torch.optim.SGD(method.parameters(), lr=1e-3), autocast=torch.float16, scaler=scaler)
    batch = single(indexed()).to(device)
    for _ in range(40):
        report = method.training_step(batch, engine)
    assert report.phases
    assert scaler.get_scale() < 2.0**40
    assert all(torch.isfinite(t).all() for t in weights(method).values())


@pytest.mark.parametrize("name", [n for n in USERS if not n.startswith("perturbed")])  # these choose on the host
def test_facilities_do_not_wait_for_the_device(name: str, device: torch.device) -> None:
    if device.type != "cuda":
        pytest.skip("only CUDA can tell")
    method = user_on(device, name, norm=True).float()
    batch = single(indexed()).to(device)
    engine = PlainEngine(torch.optim.SGD(method.parameters(), lr=1e-3, momentum=0.9, foreach=True), clip_norm=1.0)
    for _ in range(3):
        method.training_step(batch, engine)
    with no_waiting():
        for _ in range(3):
            method.training_step(batch, engine)
    engine.raise_if_not_finite()


@pytest.mark.parametrize("name", ["parts", "declared parts", "perturbed by a part", "frozen modules"])
def test_facilities_with_generated_code(name: str, device: torch.device) -> None:
    """Whole losses by inductor, whose backward pass runs once per part."""
    if device.type != "cuda":
        pytest.skip("inductor on the processor is tested elsewhere")
    torch.compiler.reset()
    eager, compiled = user_on(device, name).float(), user_on(device, name).float()
    batch = single(indexed()).to(device)
    for method, engine in ((eager, sgd(eager)), (compiled, sgd(compiled, compile={"fullgraph": True}))):
        method.predict(batch.inputs)
        for _ in range(3):
            method.training_step(batch, engine)
    assert_near(weights(eager), weights(compiled), 1e-4)
