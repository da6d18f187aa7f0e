"""Gathering what a loss needs of the whole batch before it can be computed on a part of it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from equimodal.batch import Batch
from equimodal.engine._finite import Blame, blame_loss, elsewhere
from equimodal.engine._host import host_max
from equimodal.engine._modes import paused_statistics
from equimodal.engine._processes import all_sum, is_distributed
from equimodal.engine._protocol import Objective, Phase, Survey
from equimodal.engine._random_state import random_state, restore_random_state

Precision = Callable[[Batch], contextlib.AbstractContextManager[object]]


def survey(
    phase: Phase,
    batches: Sequence[Batch],
    module: nn.Module | None,
    precision: Precision,
    look: bool,
) -> None:
    """Let the phase gather its sums over all parts of the batch, in a pass that leaves no trace.

    The pass sees the same random numbers as the one that follows, and updates no running statistics.

    Args:
        phase: has a survey.
        batches: the micro-batches of this process.
        module: the method, whose running statistics rest.
        precision: the context of a forward pass.
        look: whether sums that are not finite are an error.

    Raises:
        NonFiniteError: on all processes, if a sum is not finite or the pass failed on another one.
    """
    wanted = phase.survey
    if wanted is None:
        return
    state = random_state(phase.parameters)
    try:
        sums = _sums(phase, wanted, batches, module, precision, look)
    except Exception:
        any_failed(phase, True)  # nobody waits for sums that do not come
        raise
    finally:
        restore_random_state(state)
    if any_failed(phase, False):
        raise elsewhere(phase.name)
    wanted.receive(all_sum(sums))


@torch.no_grad()
def _sums(
    phase: Phase, wanted: Survey, batches: Sequence[Batch], module: nn.Module | None, precision: Precision, look: bool
) -> dict[str, Tensor]:
    sums: dict[str, Tensor] = {}
    with contextlib.nullcontext() if module is None else paused_statistics(module):
        for batch in batches:
            with precision(batch):
                found = wanted.gather(batch)
            for name, part in found.items():
                if look and not bool(torch.isfinite(part).all()):
                    raise blame_loss(phase.name, Blame(None, part.sum(), batch))
                sums[name] = sums[name] + part if name in sums else part
    return sums


def coupled(phase: Phase, objective: Objective) -> Objective:
    """The objective with the part of its loss that depends on sums over all processes."""
    if phase.survey is None or not objective.shared:
        return objective
    totals = all_sum({name: t.detach() for name, t in objective.shared.items()})
    if phase.survey.couple is None:  # refused by Survey itself
        return objective
    late = phase.survey.couple(objective.shared, totals)
    return replace(
        objective,
        total=objective.total + late.total,
        losses={**objective.losses, **late.losses},
        shared={},
        parts={**objective.parts, **late.parts},
        weights=None,  # the late part is no part with a weight
    )


def any_failed(phase: Phase, failed: bool) -> bool:
    """Whether this process or another one failed."""
    return is_distributed() and host_max([failed], phase.device) != [0]
