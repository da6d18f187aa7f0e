"""An emulated accelerator, on which reading a number is seen: does a training step wait for its device?

Tensors of torch's device ``meta`` have shapes and no content, as those of an accelerator have no content that the host
knows. A model there runs forwards, backwards and through its optimizer; what the host would have to wait for is asked
of a tensor that has no answer. This proves that nothing waits, on any machine; it proves no number.
"""

from __future__ import annotations

import contextlib
import copy
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from equimodal.batch import Batch
from equimodal.engine import PlainEngine
from equimodal.errors import PropertyError
from equimodal.methods import Method
from equimodal.testing._cases import SIZES, Case
from equimodal.testing._data import ToyData
from equimodal.testing._expect import NotApplicable
from equimodal.testing._loops import single, split
from equimodal.testing._models import CLASSES, plain_batch
from equimodal.testing._property import Property

DEVICE = torch.device("meta")
WAYS = ("alone", "two processes", "loss scale", "micro-batches")
"""How a step is tried."""
_SCALE = "_loss_scale.py"
_FEATURES = {"two processes": "processes", "loss scale": "float16", "micro-batches": "accumulation"}
_TESTING = str(Path(__file__).parent)
_PACKAGE = str(Path(__file__).parents[1])

_READS: dict[Any, Callable[[Tensor], Any]] = {
    Tensor.item: lambda zeros: zeros.sum().item(),
    Tensor.tolist: Tensor.tolist,
    Tensor.cpu: Tensor.clone,
    Tensor.numpy: Tensor.numpy,
    Tensor.__bool__: bool,
    Tensor.__float__: float,
    Tensor.__int__: int,
    Tensor.__index__: int,
}
"""What reads a tensor, and what it is answered of as many zeros on the host."""
_MAKES = {torch.tensor, torch.as_tensor, torch.asarray, Tensor.new_tensor}
"""What copies numbers of the host to a device and waits until they are there."""
_COPIES = {"_to_copy", "copy_"}
_INDEXING = {"index", "index_put", "index_put_", "_index_put_impl_"}
_DECOMPOSITIONS = {f"linalg_{name}" for name in ("cholesky", "eig", "eigh", "eigvalsh", "inv", "lstsq", "solve", "svd",
                                                 "svdvals")}  # fmt: skip
"""What looks whether it succeeded."""


class Waits:
    """Places of the library at which the host waits for the device while the block runs.

    Seen are numbers, lists and copies that are taken off the device, numbers made on it from the host's, copies to it
    that are not asynchronous, indices that are masks or lie on the host, and decompositions, which look for errors.

    Example:
        >>> with Waits() as waits:
        ...     total = torch.ones(3, device="meta").sum()
        ...     if total > 2:
        ...         total = total / 2
        >>> [what for what, _ in waits.seen]
        ['__bool__']
    """

    def __init__(self) -> None:
        self.seen: list[tuple[str, str]] = []
        """What was done, and the file and line of the library that did it."""
        self._modes = contextlib.ExitStack()

    def __enter__(self) -> Waits:
        self._modes.enter_context(_Calls(self))
        self._modes.enter_context(_Operations(self))
        return self

    def __exit__(self, *error: Any) -> None:
        self._modes.close()

    def note(self, what: str) -> None:
        """One more wait, at the innermost line of the library outside of this room."""
        frame: Any = sys._getframe(1)
        while frame is not None:
            name = frame.f_code.co_filename
            if name.startswith(_PACKAGE) and not name.startswith(_TESTING):
                self.seen.append((what, f"{Path(name).name}:{frame.f_lineno}"))
                return
            frame = frame.f_back
        self.seen.append((what, "outside of the library"))


def _there(value: Any) -> bool:
    return isinstance(value, Tensor) and value.device == DEVICE


def _blocks(index: Any) -> bool:
    return isinstance(index, Tensor) and (index.is_cpu or index.dtype == torch.bool)


def _zeros(tensor: Tensor) -> Tensor:
    return torch.zeros(tensor.shape, dtype=tensor.dtype)


class _Calls(TorchFunctionMode):
    """Sees what Python asks of tensors."""

    def __init__(self, waits: Waits) -> None:
        super().__init__()
        self._waits = waits

    def __torch_function__(
        self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        options = dict(kwargs or {})
        if function in _READS and _there(args[0]):
            self._waits.note(function.__name__)
            return _READS[function](_zeros(args[0]))
        if function in _MAKES and not _there(args[0] if function is not Tensor.new_tensor else None):
            where = options.get("device")
            where = args[0].device if where is None and function is Tensor.new_tensor else where
            if where is not None and torch.device(where) == DEVICE:
                self._waits.note(function.__name__)
        if function is Tensor.to and _there(args[0]) and "cpu" in map(str, (*args[1:], *options.values())):
            self._waits.note("to")
            return _zeros(args[0])
        if getattr(function, "__name__", "") in _DECOMPOSITIONS and _there(args[0]):
            self._waits.note(function.__name__)
        return function(*args, **options)


class _Operations(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Sees what is computed."""

    def __init__(self, waits: Waits) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._waits = waits

    def __torch_dispatch__(
        self, operation: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        options = dict(kwargs or {})
        name = operation.overloadpacket.__name__
        if name in _COPIES:
            source = args[1] if name == "copy_" else args[0]
            target = args[0].device if name == "copy_" else torch.device(options.get("device") or source.device)
            lazy = options.get("non_blocking", args[2] if name == "copy_" and len(args) > 2 else False)
            if source.is_cpu and target == DEVICE and not lazy:
                self._waits.note(name)
        elif name in _INDEXING and _there(args[0]) and any(map(_blocks, args[1])):
            self._waits.note(name)
        return operation(*args, **options)


# ---- the device ------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def emulated_device() -> Iterator[torch.device]:
    """Make ``meta`` answer what is asked of an accelerator; yields it."""
    autocast = torch.is_autocast_enabled

    def is_autocast(kind: str | None = None) -> bool:
        return False if kind == "meta" else autocast() if kind is None else autocast(kind)

    generators = SimpleNamespace(get_rng_state=lambda *_: torch.zeros(16), set_rng_state=lambda *_: None)
    with (
        mock.patch.object(torch, "is_autocast_enabled", is_autocast),
        mock.patch.object(torch, "meta", generators, create=True),  # as torch.cuda is that of its device
    ):
        yield DEVICE


class _HostGroup:
    """Stands for the group that is made for tensors of the host."""


@contextlib.contextmanager
def emulated_processes(count: int = 2) -> Iterator[None]:
    """Be one of several processes that all have the same, on a backend that takes tensors of the device only.

    Raises:
        NotApplicable: this process is in a group already.
    """
    if dist.is_initialized():
        raise NotApplicable("this process is one of several already")
    world, host = _HostGroup(), _HostGroup()

    def check(tensor: Tensor, group: Any) -> None:
        if tensor.is_cpu != (group is host):
            raise PropertyError(
                f"Several processes: expected tensors of the device in the default group, of the host in the other. "
                f"Found one on {tensor.device} in the {'other' if group is host else 'default'} group."
            )

    def all_reduce(tensor: Tensor, op: Any = dist.ReduceOp.SUM, group: Any = None) -> None:
        check(tensor, group)
        if op == dist.ReduceOp.SUM:
            tensor.mul_(count)

    def all_gather(every: Sequence[Tensor], tensor: Tensor, group: Any = None) -> None:
        check(tensor, group)
        for entry in every:
            entry.copy_(tensor)

    answers = {"is_initialized": True, "get_world_size": count, "get_rank": 0, "get_backend_config": "cuda:nccl",
               "is_gloo_available": True, "new_group": host}  # fmt: skip
    pretended: dict[str, Any] = {name: mock.Mock(return_value=answer) for name, answer in answers.items()}
    pretended |= {"all_reduce": all_reduce, "all_gather": all_gather}
    with (
        mock.patch.multiple(dist, **pretended),
        mock.patch.object(type(dist.group), "WORLD", property(lambda _: world), create=True),
    ):
        yield


def moved(method: Method) -> Method:
    """A copy of the method, whatever it remembers included, on the emulated device; generators stay on the host."""

    def move(tensor: Tensor, memo: dict[int, Any]) -> Tensor:
        if id(tensor) in memo:
            return memo[id(tensor)]  # type: ignore[no-any-return]
        if tensor.dtype == torch.uint8 and tensor.ndim == 1:  # the state of a generator
            return tensor.clone()
        there = tensor.detach().to(DEVICE)
        if isinstance(tensor, nn.Parameter):
            there = nn.Parameter(there, tensor.requires_grad)
        memo[id(tensor)] = there
        return there

    with mock.patch.object(Tensor, "__deepcopy__", move), mock.patch.object(nn.Parameter, "__deepcopy__", move):
        return copy.deepcopy(method)


# ---- the property ----------------------------------------------------------------------------------------------------


def asynchronous(case: Case, ways: Sequence[str] = WAYS) -> None:
    """No step waits for the device, on one process or two, with micro-batches; a loss scale reads a flag per pass."""
    case.claims("asynchronous")
    here = _trained(case)
    for way in ways:
        if case.departure(_FEATURES.get(way, "")) == "refused":
            continue
        try:
            waits = waits_of(here, way)
        except RuntimeError as error:
            if "not an accelerator" not in str(error):
                raise
            raise NotApplicable("draws from a generator of the device, which the emulated one has not") from error
        found = [f"{what} at {where}" for what, where in waits.seen if way != "loss scale" or _SCALE not in where]
        if found:
            raise PropertyError(f"a step waits for the device ({way}): {', '.join(dict.fromkeys(found))}")


def _trained(case: Case) -> Method:
    """The method after an epoch on the host and at the start of the next, so that what it knows by then is in force."""
    method = case.plain(norm=True).float()
    data = ToyData([_batch()])
    engine = _engine(method)
    for epoch in range(2):
        context = data.context(epoch, 4, engine)
        method.on_train_epoch_start(context)
        if epoch == 0:
            for batch in data.epoch():
                method.training_step(batch, engine)
            method.on_train_epoch_end(context)
    return method


def waits_of(method: Method, way: str = "alone") -> Waits:
    """Where a training step waits for the device.

    Args:
        method: on the host, on :func:`~equimodal.testing.plain_model`; it stays as it is.
        way: one of :data:`WAYS`.
    """
    there, batches = moved(method), split(_batch(), 2 if way == "micro-batches" else 1)
    scaler = torch.amp.GradScaler("cpu") if way == "loss scale" else None
    engine = _engine(there, clip_norm=1.0, scaler=scaler)
    around = emulated_processes() if way == "two processes" else contextlib.nullcontext()
    with emulated_device(), around, Waits() as waits:
        report = there.training_step([batch.to(DEVICE, non_blocking=True) for batch in batches], engine)
        _ = report.scores, report.loss  # computed when they are asked for, and on the device
    return waits


def _batch() -> Batch:
    return single(plain_batch(SIZES, CLASSES, 12, 0))


def _engine(method: nn.Module, **options: Any) -> PlainEngine:
    trained = [p for p in method.parameters() if p.requires_grad]
    return PlainEngine(torch.optim.SGD(trained, lr=1e-3, momentum=0.9, foreach=True), **options)


PROPERTIES = (Property(asynchronous, "engine"),)
