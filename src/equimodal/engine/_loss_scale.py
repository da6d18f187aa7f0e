"""One loss scale for all phases of a step: float16 gradients, without touching what a method remembers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from equimodal.errors import NonFiniteError


class LossScale:
    """A ``torch.amp.GradScaler`` that is asked once per phase and updated once per training step.

    ``GradScaler`` keeps its records per optimizer and allows one ``unscale_`` of each between two updates. A step of an
    alternating method unscales the same optimizer once per phase, so each phase is shown to the scaler as an optimizer
    of its own. Only the scaler's public methods are used, so its state and its rule are torch's.

    Args:
        scaler: the scaler; its ``state_dict`` is what a checkpoint needs.

    Example:
        >>> scale = LossScale(torch.amp.GradScaler("cpu", init_scale=4.0))
        >>> p = torch.nn.Parameter(torch.ones(2))
        >>> scale.scaled((p * 3).sum()).backward()
        >>> scale.unscale([p]), p.grad.tolist()
        (True, [3.0, 3.0])
        >>> scale.update()
    """

    def __init__(self, scaler: torch.amp.GradScaler) -> None:
        self.scaler = scaler
        self._seen: list[_Seen] = []  # kept until the update: the scaler knows them by their identity

    def scaled(self, loss: Tensor) -> Tensor:
        """The loss times the scale."""
        value: Tensor = self.scaler.scale(loss)
        return value

    def unscale(self, parameters: Sequence[Tensor]) -> bool:
        """Divide the gradients by the scale; whether all of them are finite. Reads one flag from the device."""
        with_gradient = [p for p in parameters if p.grad is not None]
        if not with_gradient:
            return True
        self.scaler.scale(torch.zeros((), device=with_gradient[0].device))  # makes the scale where there is none yet
        seen = _Seen(with_gradient)
        self.scaler.unscale_(seen)
        self.scaler.step(seen)  # does nothing but tell `seen` that its gradients are finite
        self._seen.append(seen)
        return seen.finite

    def update(self) -> None:
        """Grow or shrink the scale, once for all phases since the last update."""
        if self._seen:
            self.scaler.update()
            self._seen = []

    def check(self) -> None:
        """Raise if the scale has shrunk so far that every step overflows; reads it from the device.

        Raises:
            NonFiniteError: that is so.
        """
        scale = self.scaler.get_scale()
        if 0 < scale < 1e-6:
            raise NonFiniteError(
                f"`scaler`: every step overflows, the loss scale has shrunk to {scale:.1e}. The loss or a gradient is "
                "NaN or infinite whatever the scale. Check the data, or lower the learning rate."
            )


class _Seen(Optimizer):
    """The gradients of one phase, as the scaler wants to see them."""

    def __init__(self, parameters: Sequence[Tensor]) -> None:
        super().__init__(list(parameters), {})
        self.finite = False

    def step(self, closure: Callable[[], float] | None = None) -> Any:
        """Called by the scaler where no gradient overflowed."""
        self.finite = True
