"""The compiled loss of a phase; under CUDA graphs, what outlives their next replay."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch

from equimodal.batch import Batch
from equimodal.engine._protocol import Objective, Phase, SampleValues, check_objective
from equimodal.engine._recording import recompiles
from equimodal.errors import EquimodalWarning, MethodError

_GRAPH_MODES = ("reduce-overhead", "max-autotune")


class CompiledLoss:
    """Compiles the whole loss of each phase, and says where a training step begins, for graphs that are replayed.

    A CUDA graph writes its results where it wrote them the last time. What an objective hands over of single numbers is
    copied out of there: it goes into reports and into what methods remember. Gradients stay where they are, as they end
    with their step.

    Args:
        options: of ``torch.compile``; a name is a ``mode``, ``True`` the defaults.

    Raises:
        MethodError: a mode that torch does not know.
    """

    def __init__(self, options: bool | str | Mapping[str, Any]) -> None:
        if isinstance(options, str):
            if options not in (known := list(torch._inductor.list_mode_options())):
                raise MethodError(f"`compile`: expected a mode of torch.compile, one of {known}. Found {options!r}.")
            options = {"mode": options}
        self.options: dict[str, Any] = {} if isinstance(options, bool) else dict(options)
        mode = self.options.get("mode")
        inside: Mapping[str, Any] = self.options.get("options") or {}
        self.graphs = bool(inside.get("triton.cudagraphs", mode in _GRAPH_MODES))
        self._without = {**self.options, "options": {**inside, "triton.cudagraphs": False}} if inside else self.options
        if mode in _GRAPH_MODES:  # torch takes a mode or options
            self._without = {**self.options, "mode": None if mode == "reduce-overhead" else f"{mode}-no-cudagraphs"}
        self._warned = False
        self._room: contextlib.AbstractContextManager[Any] | None = None
        self._calls: dict[bool, Callable[[Callable[[Batch], Objective], Batch], Objective]] = {}

    def begin(self) -> None:
        """A training step: what graphs gave in the one before may be overwritten."""
        if self.graphs:
            torch.compiler.cudagraph_mark_step_begin()  # type: ignore[no-untyped-call]

    def __call__(self, phase: Phase, batch: Batch) -> Objective:
        """The objective of the phase for a micro-batch."""
        graphs = self.graphs and not self._is_incomplete(phase, batch)
        if self._room is None:
            self._room = recompiles()
        with self._room:
            objective = self._call(graphs)(phase.objective, batch)
        check_objective(phase, objective)
        return _copied(objective) if graphs else objective

    def _call(self, graphs: bool) -> Callable[[Callable[[Batch], Objective], Batch], Objective]:
        """The compiled call of an objective; made once, as making it takes as long as a small step."""
        if graphs not in self._calls:
            self._calls[graphs] = torch.compile(_called, **(self.options if graphs else self._without))
        return self._calls[graphs]

    def _is_incomplete(self, phase: Phase, batch: Batch) -> bool:
        """Whether rows are gathered, other ones in every batch: such a loss is compiled, and not made a graph."""
        absent = [m for m in batch.inputs if batch.rows(m) is not None]
        if absent and not self._warned:
            self._warned = True
            warnings.warn(
                f"`compile` (phase {phase.name!r}): CUDA graphs need batches of one shape. Found samples without "
                f"{absent}, whose rows differ from batch to batch. Such batches are compiled and run without graphs; "
                "compile=True does so with all.",
                EquimodalWarning,
                stacklevel=2,
            )
        return bool(absent)


def _called(objective: Callable[[Batch], Objective], batch: Batch) -> Objective:
    return objective(batch)


def _copied(objective: Objective) -> Objective:
    """The objective with numbers in memory of their own; its graph goes on as it is."""
    seen = objective.score_inputs
    return replace(
        objective,
        total=objective.total.clone(),
        losses={name: t.clone() for name, t in objective.losses.items()},
        sums={name: t.clone() for name, t in objective.sums.items()},
        rows={n: SampleValues(r.values.clone(), r.index.clone()) for n, r in objective.rows.items()},
        score_inputs=None if seen is None else (seen[0].clone(), seen[1].clone()),
    )
