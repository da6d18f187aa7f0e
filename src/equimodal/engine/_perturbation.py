"""Second passes at moved weights: those of :class:`Sharpness`, and those that a phase asks for itself."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from equimodal.engine._host import host_sum
from equimodal.engine._modes import RunningStatistics, paused_statistics
from equimodal.engine._optimizers import momenta_of
from equimodal.engine._processes import is_distributed
from equimodal.engine._protocol import Descent, Perturbation, Phase
from equimodal.engine._random_state import random_state, restore_random_state
from equimodal.engine._sharding import local_parts, total_norm
from equimodal.engine._sharpness import Sharpness
from equimodal.errors import MethodError, UnsupportedError

Pass = Callable[[Phase, str | None], Descent]
"""One pass over the batches for a phase: the gradients of its whole loss, or of one part of it."""


def refuse_both(phase: Phase, sharpness: Sharpness | None) -> None:
    """Refuse two second passes, at different weights.

    Raises:
        UnsupportedError: the phase moves weights itself.
    """
    if phase.perturbation is not None:
        raise UnsupportedError(
            f"`sharpness`: expected None, as phase {phase.name!r} has a second pass at weights that it moves itself. "
            f"Found {sharpness}, whose second pass would be at others. Use sharpness=None."
        )


def descend_sharp(
    once: Pass,
    phase: Phase,
    sharpness: Sharpness,
    optimizers: Sequence[Optimizer],
    statistics: RunningStatistics | None = None,
) -> Descent:
    """One or two passes for :class:`Sharpness`; the gradients of the parts are combined just as ``.grad`` is."""
    trained = [p for p in phase.parameters if p.requires_grad]
    if sharpness.mode == "momentum":
        directions = momenta_of(trained, optimizers)
        if all(d is None for d in directions):  # the first step has no momentum yet
            return once(phase, None)
        with perturbed(trained, directions, sharpness.radius):
            return once(phase, None)
    if not sharpness.due(phase.name):
        descent = once(phase, None)
        sharpness.add_stored(phase.name, trained)
        for part in descent.gradients:
            sharpness.add_stored(f"{phase.name}: {part}", descent.gradients.holders(part)[: len(trained)])
        return descent
    state = random_state(trained)
    descent = once(phase, None)
    first = [p.grad for p in trained]
    probes = [p.grad for p in phase.auxiliary]
    known = statistics is not None and statistics.module is sharpness.module
    pause = statistics.paused() if statistics is not None and known else paused_statistics(sharpness.module)
    with perturbed(trained, first, sharpness.radius), pause:
        restore_random_state(state)
        second = once(phase.repeated(), None)
    for p, g in zip(phase.auxiliary, probes, strict=True):
        p.grad = g
    sharpness.combine(phase.name, trained, first)
    for part in descent.gradients:
        holders = descent.gradients.holders(part)[: len(trained)]
        plain = [holder.grad for holder in holders]
        for holder, g in zip(holders, _of(second, part, trained), strict=True):
            holder.grad = g
        sharpness.combine(f"{phase.name}: {part}", holders, plain)
    return descent


def descend_perturbed(once: Pass, phase: Phase, module: nn.Module | None) -> Descent:
    """A pass, and the one at moved weights that the phase asks for; all gradients are made of both.

    Both passes see the same random numbers, and running statistics are counted in the first only.

    Args:
        once: a pass.
        phase: has a perturbation.
        module: the method, whose running statistics rest.

    Raises:
        MethodError: on all processes, where what is asked for does not fit the phase or not all of them ask.
    """
    state = random_state(phase.trained)
    descent = once(phase, None)
    move = _agreed(phase, descent)
    if move is None:
        return descent
    after = random_state(phase.trained)
    first = [(p, p.grad) for p in phase.trained]
    for p, _ in first:
        p.grad = None  # a backward pass would add to the gradients that are kept
    receivers = [p for p in (move.parameters if move.receivers is None else move.receivers) if p.requires_grad]
    moved = replace(phase.repeated(), parameters=receivers, auxiliary=(), perturbation=None)
    with (
        perturbed(move.parameters, move.direction, move.radius),
        contextlib.nullcontext() if module is None else paused_statistics(module),
    ):
        restore_random_state(state)
        second = once(moved, move.part)
    restore_random_state(after)
    new = [p.grad for p in receivers]
    for p, g in first:
        p.grad = g
    with torch.no_grad():
        _combine(descent, second, move.part, receivers, new)
    return descent


def _agreed(phase: Phase, descent: Descent) -> Perturbation | None:
    """What the phase asks for; an error on one process, or only some that ask, is an error on all."""
    move, error = None, None
    try:
        move = None if phase.perturbation is None else phase.perturbation(descent)
        if move is not None:
            _check(phase, descent, move)
    except Exception as found:  # noqa: BLE001 (raised again once the others know)
        error = found
    if is_distributed():
        asking, failing, processes = host_sum([move is not None, error is not None, 1], phase.device)
        if error is None and (failing or asking not in (0, processes)):
            error = MethodError(
                f"`perturbation` (phase {phase.name!r}): expected the same answer on every process. Found "
                f"{asking} of {processes} that ask for a second pass, and {failing} that failed. Decide "
                "from descent.gradients, which are equal everywhere, or from sums made by all_sum."
            )
    if error is not None:
        raise error
    return move


def _check(phase: Phase, descent: Descent, move: Perturbation) -> None:
    trained = {id(p) for p in phase.trained}
    moving = [p for p, d in zip(move.parameters, move.direction, strict=False) if d is not None]
    receivers = [p for p in (move.parameters if move.receivers is None else move.receivers) if p.requires_grad]
    strange = sum(id(p) not in trained for p in (*moving, *receivers))
    if strange or not receivers or len(move.parameters) != len(move.direction):
        raise MethodError(
            f"`perturbation` (phase {phase.name!r}): expected parameters that the phase trains, and one direction (or "
            f"None) for each. Found {len(move.parameters)} parameters, {len(move.direction)} directions, "
            f"{len(receivers)} receivers and {strange} that the phase does not train. Take them from the phase."
        )
    if move.part is None:
        return
    descent.gradients.holders(move.part)  # raises where nobody gave it
    kept = None if phase.separate is None else {id(p) for p in phase.separate}
    lost = 0 if kept is None else sum(id(p) not in kept for p in receivers)
    if lost:
        raise MethodError(
            f"`separate` (phase {phase.name!r}): expected the receivers of the perturbation among them, as their "
            f"gradient of {move.part!r} is replaced. Found {lost} that are not. Add them, or leave `separate` out."
        )
    if not descent.gradients.declared:
        raise MethodError(
            f"`part` (perturbation of phase {phase.name!r}): expected an objective that says with which weight "
            f"{move.part!r} counts in the total. Found a total of any kind. Make it with Objective.sum_of."
        )


def _combine(
    descent: Descent, second: Descent, part: str | None, receivers: Sequence[nn.Parameter], new: Sequence[Tensor | None]
) -> None:
    """Put the gradients at the moved weights in the place of those that they are of."""
    if part is None:
        for p, g in zip(receivers, new, strict=True):
            p.grad = g if g is not None or p.grad is None else torch.zeros_like(p.grad)
    else:
        for p, old, g in zip(receivers, descent.gradients.share_of(part, receivers), new, strict=True):
            change = g if old is None else -old if g is None else g - old
            if change is not None:
                p.grad = change if p.grad is None else p.grad + change
    for name in descent.gradients if part is None else [part]:
        descent.gradients.replace(name, receivers, _of(second, name, receivers))


def _of(descent: Descent, part: str, parameters: Sequence[nn.Parameter]) -> list[Tensor | None]:
    """The gradients of a part; none where no micro-batch gave it."""
    return descent.gradients.of(part, parameters) if part in descent.gradients else [None] * len(parameters)


@contextlib.contextmanager
def perturbed(
    parameters: Sequence[nn.Parameter], directions: Sequence[Tensor | None], radius: float | Tensor
) -> Iterator[None]:
    """Move the parameters by ``radius`` along ``directions`` (one common norm); restore them exactly at the end."""
    pairs = [(p, d) for p, d in zip(parameters, directions, strict=True) if d is not None]
    if not pairs:
        yield
        return
    targets = local_parts([p.data for p, _ in pairs])
    along = local_parts([d for _, d in pairs])
    saved = torch._foreach_mul(targets, 1)  # copies, in one operation
    norm = total_norm([d for _, d in pairs])
    scale = torch.where(norm > 0, radius / norm, torch.zeros_like(norm))
    try:
        if scale.is_cpu:  # where it is read without waiting, and no second copy of all weights is needed
            torch._foreach_add_(targets, along, alpha=float(scale))
        else:
            torch._foreach_add_(targets, torch._foreach_mul(along, scale))
        yield
    finally:
        torch._foreach_copy_(targets, saved)
