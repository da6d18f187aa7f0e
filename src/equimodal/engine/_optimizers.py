"""What an engine and a method have to know about an optimizer."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from equimodal.engine._sharding import local
from equimodal.errors import MethodError, OptimizerWarning, UnsupportedError

_NORMALISING = {
    "betas",
    "rho",
    "lr_decay",
    "ns_steps",
    "centered",
    "etas",
    "beta2_decay",
    "trust_coefficient",
}  # Adam family and Lion, Adadelta, Adagrad, Muon, RMSprop, Rprop, Adafactor, LARS
_MOMENTA = ("exp_avg", "momentum_buffer")


def as_list(optimizer: Optimizer | Sequence[Optimizer]) -> list[Optimizer]:
    """One optimizer or several as a list.

    Raises:
        MethodError: there is none.
        UnsupportedError: one evaluates the loss itself, several times per step.
    """
    found = [optimizer] if isinstance(optimizer, Optimizer) else list(optimizer)
    if not found:
        raise MethodError("`optimizer`: expected at least one optimizer. Found none.")
    if any(isinstance(o, torch.optim.LBFGS) for o in found):
        raise UnsupportedError(
            "`optimizer`: expected one that steps along gradients that are there. Found LBFGS, which evaluates the "
            "loss several times per step. Use SGD, AdamW or another optimizer whose step() needs no closure."
        )
    return found


def is_scale_invariant(optimizer: Optimizer) -> bool:
    """Whether the optimizer divides by a running size of the gradient, so that a slowly varying scale cancels."""
    return not all(map(_NORMALISING.isdisjoint, optimizer.param_groups))


def cancels_scale(optimizers: Sequence[Optimizer], parameters: Sequence[nn.Parameter]) -> bool:
    """Whether an optimizer that has some of ``parameters`` is scale-invariant."""
    found = [is_scale_invariant(optimizer) for optimizer in optimizers]
    if all(found) or not any(found):
        return any(found)
    scale_invariant = [o for o, invariant in zip(optimizers, found, strict=True) if invariant]
    held = {id(p) for o in scale_invariant for group in o.param_groups for p in group["params"]}
    return any(id(p) in held for p in parameters)


def is_schedule_free(optimizer: Optimizer) -> bool:
    """Whether the optimizer keeps a training point and an averaged one, with ``train()`` and ``eval()`` to switch.

    Such an optimizer ([Defazio2024]) must be in training mode while it steps and in evaluation mode while the model is
    evaluated or saved for use. The adapter to Lightning switches it; in a loop of your own that is yours to do.
    """
    return callable(getattr(optimizer, "train", None)) and callable(getattr(optimizer, "eval", None))


def has_momentum(optimizer: Optimizer) -> bool:
    """Whether every parameter will have a running mean of its gradients, along which a sharpness pass can look."""
    if is_schedule_free(optimizer):
        return False
    return all(bool(group.get("momentum")) or "betas" in group for group in optimizer.param_groups)


def momentum_of(parameter: nn.Parameter, optimizers: Sequence[Optimizer]) -> Tensor | None:
    """The running mean of the parameter's gradients; ``None`` before its first step."""
    for optimizer in optimizers:
        state = optimizer.state.get(parameter)
        if state:
            for name in _MOMENTA:
                value = state.get(name)
                if isinstance(value, Tensor):
                    return value
    return None


def momenta_of(parameters: Sequence[nn.Parameter], optimizers: Sequence[Optimizer]) -> list[Tensor | None]:
    """What :func:`momentum_of` gives of each parameter.

    Raises:
        UnsupportedError: an optimizer keeps no momentum.
    """
    if not all(has_momentum(optimizer) for optimizer in optimizers):
        raise UnsupportedError(
            "`sharpness`: 'momentum' looks along the optimizer's momentum. Found an optimizer without one. Use SGD "
            "with momentum, an Adam-type optimizer, or Sharpness('full')."
        )
    return [momentum_of(p, optimizers) for p in parameters]


def warn_about_unknown(phase: str, parameters: Sequence[nn.Parameter], optimizers: Sequence[Optimizer]) -> None:
    """Warn about parameters that no optimizer has: they stay as they are, which is rarely what was meant."""
    known = {id(p) for o in optimizers for g in o.param_groups for p in g["params"]}
    left = sum(p.requires_grad and id(p) not in known for p in parameters)
    if left:
        warnings.warn(
            f"Phase {phase!r}: {left} of its parameters are in no optimizer and will not be trained. Build the "
            "optimizer from method.parameters(), which has the method's own heads too, or freeze them.",
            OptimizerWarning,
            stacklevel=5,
        )


class Displacement:
    """What an optimizer step moves, so that the move can be multiplied afterwards.

    Beside the parameters these are the points z of a schedule-free optimizer. Its averaged point is a fixed linear
    combination of the two, so a factor on both is a factor on all three.

    Args:
        parameters: before the step.
        optimizers: whose step it is.
    """

    def __init__(self, parameters: Sequence[nn.Parameter], optimizers: Sequence[Optimizer]) -> None:
        self._parameters = parameters
        self._before = [local(p.detach()).clone() for p in parameters]
        self._free = [o for o in optimizers if is_schedule_free(o)]
        self._points = [self._z(p) for p in parameters] if self._free else []
        self._points = [None if z is None else z.clone() for z in self._points]

    def _z(self, parameter: nn.Parameter) -> Tensor | None:
        for optimizer in self._free:
            z = optimizer.state.get(parameter, {}).get("z")
            if isinstance(z, Tensor):
                return local(z)
        return None

    @torch.no_grad()
    def multiply(self, factor: Tensor) -> None:
        """Make the move ``factor`` times as long; with a factor of 1 it stays as it is, bit for bit.

        A factor with axes is one for each entry, and broadcasts against every parameter.
        """
        new: list[Tensor] = [local(p.data) for p in self._parameters]
        old = list(self._before)
        for p, start, z in zip(self._parameters, self._before, self._points, strict=False):
            moved = self._z(p)
            if moved is not None:
                new.append(moved)
                old.append(start if z is None else z)  # z starts where the parameter is
        if not new:
            return
        change = torch._foreach_sub(new, old)
        less = factor.to(new[0].dtype) - 1
        torch._foreach_add_(new, [c * less for c in change] if factor.ndim else torch._foreach_mul(change, less))
