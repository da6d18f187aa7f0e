"""Evaluation mode of a module, or of some of its parts for a while; running statistics that rest or are put back."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Sequence

import torch
from torch import Tensor, nn

from equimodal.engine._sharding import is_sharded, reshard
from equimodal.errors import MethodError


@contextlib.contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Evaluation mode inside, and each submodule's own mode again afterwards."""
    training = [m for m in module.modules() if m.training]
    module.eval()
    try:
        yield
    finally:
        for m in training:
            m.training = True
        reshard(module)


@contextlib.contextmanager
def keeping_still(modules: Sequence[nn.Module], trained: Sequence[nn.Parameter], phase: str) -> Iterator[None]:
    """Evaluation mode and no graph for some modules inside; afterwards each submodule and parameter is as it was.

    A parameter that needs no gradient asks for none: autograd then builds no graph where nothing before the module
    needs one, and what flows through the module to earlier parameters is as ever. Sharded parameters keep asking, as
    what gathers them was set up for it.

    Args:
        modules: of any model; submodules included.
        trained: the parameters of the phase.
        phase: its name, for the error.

    Raises:
        MethodError: the phase trains a parameter of a module that is to keep still.
    """
    wanted = {id(p) for p in trained}
    parameters = [p for m in modules for p in m.parameters()]
    both = sum(id(p) in wanted for p in parameters)
    if both:
        raise MethodError(
            f"`frozen` (phase {phase!r}): expected modules of which the phase trains nothing. Found {both} of their "
            "parameters among its parameters. Leave these out of one of the two."
        )
    training = [m for module in modules for m in module.modules() if m.training]
    asking = [p for p in parameters if p.requires_grad and not is_sharded(p)]
    try:
        for module in modules:
            module.eval()
        for p in asking:
            p.requires_grad_(False)
        yield
    finally:
        for m in training:
            m.training = True
        for p in asking:
            p.requires_grad_(True)


def modules_of(model: nn.Module, parameters: Iterable[nn.Parameter]) -> list[nn.Module]:
    """The outermost modules of ``model`` all of whose parameters are among the given ones, found by object.

    For a model of any structure: ``modules_of(model, model.parameters_of(modality))`` is what an encoder is made of. A
    module without parameters (dropout, say) belongs to the one that contains it; one directly in the model belongs to
    nothing.

    Args:
        model: where to look.
        parameters: those that decide; a module with any other one is opened and its children are looked at.

    Example:
        >>> net = nn.ModuleDict({"a": nn.Sequential(nn.Linear(2, 2), nn.Dropout()), "head": nn.Linear(2, 1)})
        >>> [type(m).__name__ for m in modules_of(net, net["a"].parameters())]
        ['Sequential']
    """
    wanted = {id(p) for p in parameters}
    outermost: list[nn.Module] = []

    def visit(module: nn.Module) -> None:
        ids = {id(p) for p in module.parameters()}
        if ids and ids <= wanted:
            outermost.append(module)
        elif ids & wanted:
            for child in module.children():
                visit(child)

    visit(model)
    return outermost


@contextlib.contextmanager
def paused_statistics(module: nn.Module) -> Iterator[None]:
    """Batch normalisation in training mode keeps using batch statistics, but does not update its running ones."""
    with _paused([m for m in module.modules() if getattr(m, "track_running_stats", False) is True]):
        yield


@contextlib.contextmanager
def _paused(layers: Sequence[nn.Module]) -> Iterator[None]:
    paused = [m for m in layers if m.training]
    # instance normalisation updates its running statistics whatever the flag says
    instance = [b for m in paused if isinstance(m, nn.modules.instancenorm._InstanceNorm) for b in m.buffers(False)]
    saved = [b.clone() for b in instance]
    for m in paused:
        setattr(m, "track_running_stats", False)  # noqa: B010 (the attribute is not declared on nn.Module)
    try:
        yield
    finally:
        for m in paused:
            setattr(m, "track_running_stats", True)  # noqa: B010
        for buffer, value in zip(instance, saved, strict=True):
            buffer.copy_(value)


class RunningStatistics:
    """The running statistics of a module's normalisation layers, to be put back if a phase comes to nothing.

    A training step copies those of all layers before its first phase, and before each other phase those of the layers
    that have moved since: a step costs one copy of each, however many phases it has.

    Args:
        module: where to look; layers that are added later are not seen.
    """

    def __init__(self, module: nn.Module) -> None:
        self.module = module
        self._layers = [m for m in module.modules() if getattr(m, "track_running_stats", False) is True]
        self._saved: dict[nn.Module, tuple[int | None, list[Tensor], list[Tensor]]] = {}

    def paused(self) -> contextlib.AbstractContextManager[None]:
        """As :func:`paused_statistics` of the module, without a walk over it."""
        return _paused(self._layers) if self._layers else contextlib.nullcontext()

    def __bool__(self) -> bool:
        """Whether there are any."""
        return bool(self._layers)

    def begin(self) -> None:
        """A new training step: what was copied in the one before is of no use."""
        if self._saved:
            self._saved = {}

    def copy(self) -> RunningStatistics:
        """Remember the statistics of the layers in training mode."""
        for layer in self._layers:
            if not layer.training:
                self._saved.pop(layer, None)
                continue
            count = _batches_of(layer)
            if layer not in self._saved or count is None or self._saved[layer][0] != count:
                buffers = [b for b in layer._buffers.values() if b is not None]  # as buffers(), without their names
                self._saved[layer] = (count, buffers, [b.detach().clone() for b in buffers])
        return self

    @torch.no_grad()
    def restore(self) -> None:
        """Put back what :meth:`copy` remembered."""
        for _, buffers, values in self._saved.values():
            for buffer, value in zip(buffers, values, strict=True):
                buffer.copy_(value)
        self._saved = {}


def _batches_of(layer: nn.Module) -> int | None:
    """How often torch's batch normalisation has counted a batch, by the counter's version; ``None`` of other layers."""
    counter = layer._buffers.get("num_batches_tracked") if type(layer) in _COUNTING else None
    return counter._version if isinstance(counter, Tensor) else None


_COUNTING = {nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm}
