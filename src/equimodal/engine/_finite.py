"""Losses and gradients that are not finite: who is to blame, and telling every process."""

from __future__ import annotations

import math
from operator import attrgetter
from typing import NamedTuple

import torch
from torch import Tensor

from equimodal.batch import Batch
from equimodal.engine._processes import all_sum
from equimodal.engine._protocol import Objective
from equimodal.engine._sharding import any_sharded, local
from equimodal.errors import NonFiniteError

_SCALABLE = {torch.float32, torch.float64, torch.float16, torch.bfloat16}
_DTYPE = attrgetter("dtype")


class Blame(NamedTuple):
    """A loss that is not finite: the part's name, ``None`` for the whole; its value; the batch."""

    part: str | None
    value: Tensor
    batch: Batch


def witness(objective: Objective) -> Tensor:
    """A number that is finite where the total and all parts of the objective are."""
    total = objective.total.detach()
    if not objective.parts:
        return total
    return total + sum(part.detach() * 0 for part in objective.parts.values())


def look_at(objective: Objective, batch: Batch) -> Blame | None:
    """The first loss of the objective, a part or the total, that is not finite; ``None`` if all are."""
    total = witness(objective) if objective.parts else objective.total.detach()
    if math.isfinite(float(total)):  # a host number: one read, where torch.isfinite takes four kernels
        return None
    for name, part in objective.parts.items():
        if not math.isfinite(float(part.detach())):
            return Blame(name, part.detach(), batch)
    return Blame(None, objective.total.detach(), batch)


def blame_loss(phase: str, blame: Blame) -> NonFiniteError:
    """The error for a loss: it names modality and samples where an input is to blame."""
    part, loss, batch = blame
    try:
        batch.check_finite()
    except NonFiniteError as error:
        return error
    found = "" if batch.index is None else f" Dataset indices of the batch: {batch.index[:5].tolist()} ..."
    what = f"phase {phase!r}" if part is None else f"phase {phase!r}, part {part!r}"
    return NonFiniteError(
        f"Loss of {what}: expected a finite number. Found {float(loss)}, with finite "
        f"inputs.{found} Nothing was stepped. Lower the learning rate, clip gradients, or check the model."
    )


def blame_gradient(phase: str) -> NonFiniteError:
    """The error for gradients of a finite loss."""
    return NonFiniteError(
        f"Gradient of phase {phase!r}: expected finite numbers. Found NaN or infinity with a finite loss. "
        "Nothing was stepped. Lower the learning rate, or look for a division by zero or a root of zero."
    )


def elsewhere(phase: str) -> NonFiniteError:
    """The error on the processes that are not to blame."""
    return NonFiniteError(
        f"Phase {phase!r}: another process found a loss that is not finite, or failed; its own message says what. "
        "Nothing was stepped."
    )


class FiniteGradients:
    """Whether all gradients are finite; of sharded ones, on every process.

    One operation looks at all of them: what a loss scale uses, with a scale of 1, which leaves every number as it is.
    It is an operator of PyTorch's own loss scale: the public ``torch.nn.utils.get_total_norm`` takes ten times as long.
    """

    def __init__(self) -> None:
        self._scratch: dict[torch.device, tuple[Tensor, Tensor]] = {}

    def __call__(self, gradients: list[Tensor], norm: Tensor | None = None) -> bool:
        """Look at gradients; where their common norm is known and finite, they are."""
        if norm is not None and math.isfinite(float(norm)):
            return True
        if any_sharded(gradients):
            norms = torch.stack(torch._foreach_norm([local(g) for g in gradients]))
            return float(all_sum({"bad": (~torch.isfinite(norms).all()).double()})["bad"]) == 0
        if not _SCALABLE.issuperset(map(_DTYPE, gradients)):
            return bool(torch.stack([torch.isfinite(g).all() for g in gradients]).all())
        device = gradients[0].device
        scratch = self._scratch.get(device)
        if scratch is None:
            zero = torch.zeros((), device=device, dtype=torch.float32)
            scratch = self._scratch[device] = (zero, torch.ones_like(zero))
        bad, one = scratch
        torch._amp_foreach_non_finite_check_and_unscale_(gradients, bad, one)
        if float(bad) == 0:
            return True
        del self._scratch[device]
        return False


class Unseen:
    """Losses that were not looked at where they were computed: one flag per phase, on the device."""

    def __init__(self) -> None:
        self._finite: dict[str, Tensor] = {}

    def note(self, phase: str, objective: Objective) -> None:
        """Remember whether the total and all parts are finite, without waiting for the device."""
        finite = torch.isfinite(witness(objective))
        known = self._finite.get(phase)
        self._finite[phase] = finite if known is None else known & finite

    def check(self, device: torch.device) -> None:
        """Raise on every process if any of them noted a loss that is not finite."""
        noted, self._finite = self._finite, {}
        bad = [name for name, finite in noted.items() if not bool(finite)]
        if not float(all_sum({"bad": torch.tensor(float(len(bad)), device=device)})["bad"]):
            return
        where = f"Loss of phase(s) {bad}" if bad else "A loss on another process"
        raise NonFiniteError(
            f"{where}: expected finite numbers. Found NaN or infinity since the last check. Go back to the last "
            "checkpoint; lower the learning rate, clip gradients, or pass check_finite=True to find the batch."
        )
