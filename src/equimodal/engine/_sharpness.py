"""Sharpness-aware gradients as an option that every method accepts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from equimodal._utils.arguments import check_number
from equimodal.engine._sharding import any_sharded
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
    def combine(self, phase: str, parameters: Sequence[Tensor], first: Sequence[Tensor | None]) -> None:
        """Replace the second-pass gradients by (1 - a) g + a g'; a missing one counts as zero."""
        pairs = [(p, g) for p, g in zip(parameters, first, strict=True) if p.grad is not None or g is not None]
        sharp = [torch.zeros_like(p) if p.grad is None else p.grad for p, _ in pairs]
        plain = [torch.zeros_like(p) if g is None else g for p, g in pairs]
        if self.mode == "every_k":
            stored = {id(p): (a - b).mul_(self.ratio) for (p, _), a, b in zip(pairs, sharp, plain, strict=True)}
            self._stored[phase] = [stored.get(id(p)) for p in parameters]
        if any_sharded(sharp):  # operations on lists do not take both kinds at once
            combined = [b.lerp(a, self.ratio) for a, b in zip(sharp, plain, strict=True)]
        else:
            combined = list(torch._foreach_lerp(plain, sharp, self.ratio)) if pairs else []
        for (p, _), gradient in zip(pairs, combined, strict=True):
            p.grad = gradient
        self._count(phase)

    @torch.no_grad()
    def add_stored(self, phase: str, parameters: Sequence[Tensor]) -> None:
        """Add the stored difference to the gradients in place, where there is one."""
        for p, difference in zip(parameters, self._stored.get(phase, [None] * len(parameters)), strict=True):
            if p.grad is not None and difference is not None:
                p.grad.add_(difference.to(p.grad.device))
        self._count(phase)
