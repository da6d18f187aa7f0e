"""Sums over the micro-batches of a phase: gradients, losses, statistics, numbers of single samples."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from equimodal.engine._apart import Backward, PartGradients
from equimodal.engine._gradients import Gradients
from equimodal.engine._protocol import Descent, Objective, Phase, SampleValues


class Accumulation:
    """What the micro-batches of a phase add up to on this process.

    Args:
        phase: whose.
    """

    def __init__(self, phase: Phase) -> None:
        self._parts: PartGradients | None = None
        self._phase = phase
        self._loss: Tensor | None = None
        self._losses: dict[str, Tensor] = {}
        self._sums: dict[str, Tensor] = {}
        self._rows: dict[str, list[SampleValues]] = {}
        self._score_inputs: list[tuple[Tensor, Tensor]] = []

    @property
    def parts(self) -> PartGradients:
        """The gradients of single parts, of which most losses have none."""
        if self._parts is None:
            self._parts = PartGradients(self._phase)
        return self._parts

    def holders(self) -> list[Tensor]:
        """Every tensor whose ``.grad`` is a gradient of a part."""
        return [] if self._parts is None else self._parts.holders()

    def add(self, objective: Objective, share: float, backward: Backward, part: str | None = None) -> None:
        """One micro-batch: the backward pass, of each part too where there are some, and what it adds to the sums.

        Args:
            objective: of the micro-batch.
            share: of the micro-batch in the phase.
            backward: called with a loss and the options of ``Tensor.backward``.
            part: only this part counts, with its weight in the total.
        """
        value = objective.total if share == 1 else objective.total * share
        if part is not None:
            self._only(objective, part, share, backward)
        elif objective.parts:
            self.parts.add(objective, share, backward)
        elif value.requires_grad or not self._phase.frozen:  # else torch says that there is no graph
            backward(value)
        loss = value.detach()
        self._loss = loss if self._loss is None else self._loss + loss
        for name, loss in objective.losses.items():
            weighted = loss if share == 1 else loss * share
            self._losses[name] = self._losses[name] + weighted if name in self._losses else weighted
        for name, sums in objective.sums.items():
            self._sums[name] = self._sums[name] + sums if name in self._sums else sums
        for name, rows in objective.rows.items():
            self._rows.setdefault(name, []).append(rows)
        if objective.score_inputs is not None:
            self._score_inputs.append(objective.score_inputs)

    def _only(self, objective: Objective, part: str, share: float, backward: Backward) -> None:
        """One part of the objective, with its weight."""
        if part in objective.parts and objective.weights is not None:
            parts, weights = {part: objective.parts[part]}, {part: objective.weights[part]}
            self.parts.add(replace(objective, parts=parts, weights=weights), share, backward)

    def descent(self, count: int) -> Descent:
        """The result for the method, once gradients are final."""
        loss = torch.zeros(()) if self._loss is None else self._loss
        rows = {name: _joined(found) for name, found in self._rows.items()}
        gradients = Gradients() if self._parts is None else self._parts.gradients()
        return Descent(loss, self._losses, self._sums, count, gradients, rows, self._score_inputs)


def _joined(rows: list[SampleValues]) -> SampleValues:
    if len(rows) == 1:
        return rows[0]
    return SampleValues(torch.cat([r.values for r in rows]), torch.cat([r.index for r in rows]))
