"""Sharpness-aware gradients as an option that every method accepts."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from equimodal._utils.arguments import check_number
from equimodal.engine._sharding import local, total_norm
from equimodal.errors import MethodError


class Sharpness(nn.Module):
    r"""Sharpness-aware minimisation ([Foret2021]_) of a phase's loss; also the forward phase of [Jiang2025]_.

    With :math:`g = \nabla L(\theta)`, :math:`e = \rho\, g / \|g\|_2` (norm over all parameters of the phase) and
    :math:`g' = \nabla L(\theta + e)`, the gradient used is :math:`(1 - a)\, g + a\, g'`; the parameters are restored to
    the last bit, also after an exception and for parameters without a gradient. Both passes see the same random
    numbers (dropout), and only the first updates running statistics (batch normalisation).

    Args:
        mode: ``"full"`` two passes per step; ``"every_k"`` two passes every ``every`` steps and, in between, the stored
            difference :math:`a (g' - g)` added to the fresh gradient; ``"momentum"`` one pass at
            :math:`\theta + \rho\, v/\|v\|` with v the optimizer's momentum (plain on the first step; ``ratio`` has no
            meaning there); ``None`` off.
        radius: :math:`\rho > 0`, in the unit of the parameters; 0.05 is [Foret2021]'s default.
        ratio: :math:`a \in [0, 1]`; 1 is [Foret2021], 0.3 the "flat ratio" of [Jiang2025].
        every: k >= 1, for ``every_k``.

    Raises:
        MethodError: an argument is out of range.

    References:
        .. [Foret2021] Sharpness-aware minimization for efficiently improving generalization, arXiv 2010.01412.
        .. [Jiang2025] Interactive multimodal learning via flat gradient modification, arXiv 2407.04587.

    Example:
        >>> Sharpness("full", radius=0.05, ratio=0.3)
        Sharpness(mode='full', radius=0.05, ratio=0.3, every=5)
    """

    def __init__(
        self,
        mode: Literal["full", "every_k", "momentum"] | None = "full",
        *,
        radius: float = 0.05,
        ratio: float = 1.0,
        every: int = 5,
    ) -> None:
        super().__init__()
        if mode not in ("full", "every_k", "momentum", None):
            raise MethodError(f"`mode`: expected 'full', 'every_k', 'momentum' or None. Found {mode!r}.")
        check_number("radius", radius, above=0)
        check_number("ratio", ratio, at_least=0, at_most=1)
        check_number("every", every, at_least=1, whole=True)
        self.mode, self.radius, self.ratio, self.every = mode, radius, ratio, every
        self._steps: dict[str, int] = {}
        self._stored: dict[str, list[Tensor | None]] = {}
        self._owner: list[nn.Module] = []  # in a list so that it does not become a submodule of this module

    def attach(self, module: nn.Module) -> None:
        """Remember the module whose running statistics are paused in the second pass."""
        self._owner = [module]

    @property
    def module(self) -> nn.Module:
        """The module given to :meth:`attach`."""
        return self._owner[0] if self._owner else self

    def extra_repr(self) -> str:
        """Arguments, for ``repr``."""
        return f"mode={self.mode!r}, radius={self.radius}, ratio={self.ratio}, every={self.every}"

    def get_extra_state(self) -> dict[str, Any]:
        """Counters and stored differences, for checkpoints."""
        return {"steps": dict(self._steps), "stored": dict(self._stored)}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Restore what :meth:`get_extra_state` gave."""
        self._steps, self._stored = dict(state["steps"]), dict(state["stored"])

    def due(self, phase: str) -> bool:
        """Whether the next step of ``phase`` takes two passes."""
        if self.mode != "every_k":
            return True
        return self._steps.get(phase, 0) % self.every == 0 or phase not in self._stored

    def _count(self, phase: str) -> None:
        """Count a step; only once its gradients are there, so that one that failed or overflowed leaves no trace."""
        if self.mode == "every_k":
            self._steps[phase] = self._steps.get(phase, 0) + 1

    @torch.no_grad()
    def combine(self, phase: str, parameters: Sequence[nn.Parameter], first: Sequence[Tensor | None]) -> None:
        """Replace the second-pass gradients in place by (1 - a) g + a g'; a missing one counts as zero."""
        differences: list[Tensor | None] = []
        for p, g in zip(parameters, first, strict=True):
            if p.grad is None and g is None:
                differences.append(None)
                continue
            sharp = torch.zeros_like(p) if p.grad is None else p.grad
            plain = torch.zeros_like(p) if g is None else g
            difference = (sharp - plain).mul_(self.ratio)
            p.grad = plain + difference
            differences.append(difference)
        if self.mode == "every_k":
            self._stored[phase] = differences
        self._count(phase)

    @torch.no_grad()
    def add_stored(self, phase: str, parameters: Sequence[nn.Parameter]) -> None:
        """Add the stored difference to the gradients in place."""
        for p, difference in zip(parameters, self._stored[phase], strict=True):
            if p.grad is not None and difference is not None:
                p.grad.add_(difference.to(p.grad.device))
        self._count(phase)


@contextlib.contextmanager
def perturbed(parameters: Sequence[nn.Parameter], directions: Sequence[Tensor | None], radius: float) -> Iterator[None]:
    """Move the parameters by ``radius`` along ``directions`` (one common norm); restore them exactly at the end."""
    pairs = [(p, d) for p, d in zip(parameters, directions, strict=True) if d is not None]
    if not pairs:
        yield
        return
    targets = [local(p.data) for p, _ in pairs]
    along = [local(d) for _, d in pairs]
    saved = [t.clone() for t in targets]
    norm = total_norm([d for _, d in pairs])
    scale = torch.where(norm > 0, radius / norm, torch.zeros_like(norm))
    try:
        torch._foreach_add_(targets, torch._foreach_mul(along, scale))
        yield
    finally:
        torch._foreach_copy_(targets, saved)


@contextlib.contextmanager
def paused_statistics(module: nn.Module) -> Iterator[None]:
    """Batch normalisation in training mode keeps using batch statistics, but does not update its running ones."""
    paused = [m for m in module.modules() if getattr(m, "track_running_stats", False) is True and m.training]
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
    """The running statistics of a module's normalisation layers, to be put back if a step comes to nothing.

    Args:
        module: where to look; layers that are added later are not seen.
    """

    def __init__(self, module: nn.Module) -> None:
        self.module = module
        self._layers = [m for m in module.modules() if getattr(m, "track_running_stats", False) is True]
        self._saved: list[tuple[Tensor, Tensor]] = []

    @torch.no_grad()
    def copy(self) -> RunningStatistics:
        """Remember the statistics of the layers in training mode."""
        self._saved = [(b, b.clone()) for m in self._layers if m.training for b in m.buffers(recurse=False)]
        return self

    @torch.no_grad()
    def restore(self) -> None:
        """Put back what :meth:`copy` remembered."""
        for buffer, value in self._saved:
            buffer.copy_(value)
        self._saved = []


def random_state(parameters: Sequence[nn.Parameter]) -> dict[str, Tensor]:
    """State of the generators that a forward pass on the parameters' devices draws from."""
    state = {"cpu": torch.get_rng_state()}
    for device in {p.device for p in parameters if p.device.type != "cpu"}:
        state[str(device)] = torch.get_device_module(device).get_rng_state(device)
    return state


def restore_random_state(state: dict[str, Tensor]) -> None:
    """Set what :func:`random_state` gave."""
    for name, value in state.items():
        if name == "cpu":
            torch.set_rng_state(value)
        else:
            torch.get_device_module(torch.device(name)).set_rng_state(value, torch.device(name))
