"""On an emulated accelerator no step waits for the device: every method, alone, on two processes, with a loss scale."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor

from equimodal import Sharpness
from equimodal.engine import gather_rows
from equimodal.engine._host import _channel, host_gather, host_max, host_sum
from equimodal.errors import PropertyError
from equimodal.testing import Case
from equimodal.testing._waits import DEVICE, WAYS, Waits, emulated_device, emulated_processes, moved, waits_of
from tests.features.helpers import Setting, data, every_setting, plain_method, single
from tests.helpers import case_of, prove, sgd, weights


@every_setting
def test_asynchronous(setting: Setting) -> None:
    ways = ("two processes",) if setting[1] else WAYS  # the options of a method change no way of the engine
    if case_of(setting).departure("processes") == "refused":
        ways = ("alone",)
    prove("asynchronous", case_of(setting), ways)


PASSES: list[tuple[Setting, int]] = [
    (("Joint", {}), 1),
    (("CGGM", {}), 1),
    (("MLA", {"alpha_schedule": "constant"}), 3),
    (("MIE", {}), 6),  # of each modality a second one, at moved weights
]


@pytest.mark.parametrize(("setting", "passes"), PASSES, ids=[setting[0] for setting, _ in PASSES])
def test_a_loss_scale_is_read_once_per_pass(setting: Setting, passes: int) -> None:
    seen = waits_of(plain_method(setting).float(), "loss scale").seen
    assert [what for what, _ in seen] == ["item"] * passes
    assert {where.partition(":")[0] for _, where in seen} == {"_loss_scale.py"}


@pytest.mark.parametrize("mode", ["full", "every_k", "momentum"])
def test_second_passes_wait_for_nothing(mode: Any) -> None:
    there = moved(case_of(("Joint", {})).plain(sharpness=Sharpness(mode)).float())
    engine, batch = sgd(there), single(data()).to(DEVICE)
    with emulated_device(), Waits() as waits:
        for _ in range(3):  # the first has no momentum to look along
            there.training_step(batch, engine)
    assert waits.seen == []


# ---- the emulated device sees what a device would wait for -----------------------------------------------------------

HERE, THERE = torch.arange(3.0), torch.zeros(3, device=DEVICE)
WAITING: dict[str, Callable[[], Any]] = {
    "item": lambda: THERE.sum().item(),
    "tolist": lambda: THERE.tolist(),
    "cpu": lambda: THERE.cpu(),
    "to": lambda: THERE.to("cpu"),
    "__bool__": lambda: 1 if THERE.sum() > 0 else 0,
    "__float__": lambda: float(THERE.sum()),
    "__int__": lambda: int(THERE.sum()),
    "__index__": lambda: range(THERE.sum().long()),
    "tensor": lambda: torch.tensor([1.0], device=DEVICE),
    "as_tensor": lambda: torch.as_tensor([1.0], device=DEVICE),
    "new_tensor": lambda: THERE.new_tensor([1.0]),
    "_to_copy": lambda: HERE.to(DEVICE),
    "copy_": lambda: torch.empty_like(THERE).copy_(HERE),
    "index": lambda: THERE[torch.tensor([0, 1])],
    "linalg_eigh": lambda: torch.linalg.eigh(torch.zeros(2, 2, device=DEVICE)),
}
ASYNCHRONOUS: dict[str, Callable[[], Any]] = {
    "copies that do not wait": lambda: (HERE.to(DEVICE, non_blocking=True), torch.empty_like(THERE).copy_(HERE, True)),
    "numbers of the host": lambda: THERE * 2 + torch.full((), 1.0, device=DEVICE) + torch.tensor(1.0),
    "an index of the device": lambda: THERE[torch.zeros(2, dtype=torch.int64, device=DEVICE)],
    "reading the host": lambda: (HERE.tolist(), float(HERE.sum()), bool(HERE[0]), HERE[HERE > 0], HERE.cpu()),
    "shapes": lambda: (len(THERE), THERE.shape, THERE.dtype, THERE.is_cpu),
}


@pytest.mark.parametrize("name", WAITING)
def test_every_kind_of_wait_is_seen(name: str) -> None:
    with Waits() as waits:
        WAITING[name]()
    assert waits.seen == [(name, "outside of the library")]


@pytest.mark.parametrize("name", ASYNCHRONOUS)
def test_nothing_else_is(name: str) -> None:
    with Waits() as waits:
        ASYNCHRONOUS[name]()
    assert waits.seen == []


def test_a_mask_as_an_index_does_not_pass() -> None:
    with Waits(), pytest.raises(NotImplementedError):
        THERE[THERE > 0]
    with Waits() as waits:
        torch.zeros_like(THERE)[THERE > 0] = THERE
    assert "index_put_" in dict(waits.seen)


def test_a_method_that_waits_is_found_with_the_line_that_does() -> None:
    from equimodal.methods import Joint, StepReport

    class Reads(Joint):
        def after_step(self, phase: Any, descent: Any, engine: Any, report: StepReport) -> None:
            if float(descent.loss) < 0:  # a number that the device has
                raise ValueError

    with pytest.raises(PropertyError, match=r"alone\): __float__ at "):
        prove_case(Case(Reads))


def prove_case(case: Case) -> None:
    from equimodal.testing import PROPERTIES

    PROPERTIES["asynchronous"].check(case)


def test_a_moved_method_leaves_the_one_that_it_is_a_copy_of() -> None:
    method = plain_method(("MCR", {}))  # with a generator
    before = weights(method)
    there = moved(method)
    assert {p.device for p in there.parameters()} == {DEVICE}
    assert {p.device.type for p in method.parameters()} == {"cpu"}
    assert all(torch.equal(t, before[n]) for n, t in weights(method).items())
    generators = [v for m in there.modules() for v in vars(m).values() if isinstance(v, torch.Generator)]
    assert all(torch.rand(1, generator=g) < 1 for g in generators)


# ---- from host to host -----------------------------------------------------------------------------------------------


@pytest.fixture
def alone(tmp_path: Path) -> Any:
    """A group of one process."""
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.mark.usefixtures("alone")
def test_a_group_for_the_host_is_made_once_beside_one_for_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    device = torch.device("cpu")
    assert _channel(device).group is None  # gloo takes tensors of the host
    from equimodal.engine import _host

    _host._CHANNELS.clear()
    monkeypatch.setattr(dist, "get_backend_config", lambda group=None: "cuda:nccl")
    assert _channel(DEVICE).group is not None
    assert _channel(DEVICE) is _channel(DEVICE)
    assert _channel(DEVICE).device.type == "cpu"
    assert host_sum([3, -1], DEVICE) == [3, -1]
    assert host_max([3, -1], DEVICE) == [3, -1]
    assert host_gather(b"ab", 4, DEVICE) == [b"ab"]
    _host._CHANNELS.clear()
    monkeypatch.setattr(dist, "is_gloo_available", lambda: False)
    assert _channel(DEVICE) == (None, DEVICE)  # then the device is asked
    assert not _host._CHANNELS


def test_rows_are_gathered_without_asking_the_device() -> None:
    with emulated_device(), emulated_processes(2), Waits() as waits:
        numbers: Tensor = torch.zeros(3, 2, device=DEVICE)
        found = gather_rows([numbers, numbers.long()])
    assert [tuple(t.shape) for t in found] == [(6, 2), (6, 2)]
    assert waits.seen == []


def test_a_tensor_in_the_wrong_group_is_an_error() -> None:
    with emulated_processes(2), pytest.raises(PropertyError, match="default group"):
        dist.all_reduce(torch.zeros(1))
