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
from equimodal.errors import EquimodalWarning, MethodError, UnsupportedError, did_you_mean

_GRAPH_MODES = ("reduce-overhead", "max-autotune")


def check_compile_mode(name: str, mode: str) -> None:
    """Raise unless ``mode`` is one of ``torch.compile``.

    Args:
        name: of the parameter, for the message.
        mode: such as ``"reduce-overhead"``.

    Raises:
        MethodError: torch does not know it; the message names those that it knows.
    """
    if mode not in (known := list(torch._inductor.list_mode_options())):
        raise MethodError(
            f"`{name}`: expected true, false or a mode of torch.compile, one of {known}. Found {mode!r}."
            f"{did_you_mean(mode, known)}"
        )


class CompiledLoss:
    """Compiles the whole loss of each phase, and says where a training step begins, for graphs that are replayed.

    A CUDA graph writes its results where it wrote them the last time. What an objective hands over of single numbers is
    copied out of there: it goes into reports and into what methods remember. Gradients stay where they are, as they end
    with their step.

    Args:
        options: of ``torch.compile``; a name is a ``mode``, ``True`` the defaults.

    Raises:
        MethodError: a mode that torch does not know, or something else than a mode or options; in the first step,
            options that torch does not take.
    """

    def __init__(self, options: bool | str | Mapping[str, Any]) -> None:
        if isinstance(options, str):
            check_compile_mode("compile", options)
            options = {"mode": options}
        inside = options.get("options") or {} if isinstance(options, Mapping) else {}
        if not isinstance(options, (bool, Mapping)) or not isinstance(inside, Mapping):
            raise MethodError(
                "`compile`: expected True, False, a mode such as 'reduce-overhead', or a mapping of arguments of "
                f"torch.compile. Found {options!r}."
            )
        self.options: dict[str, Any] = {} if isinstance(options, bool) else dict(options)
        mode = self.options.get("mode")
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
        try:
            with self._room:
                objective = self._call(graphs)(phase.objective, batch)
        except torch._dynamo.exc.BackendCompilerFailed as error:
            said = " ".join(str(error).split())[:300]
            raise UnsupportedError(
                f"`compile` (phase {phase.name!r}): expected a loss that torch.compile can compile here. It says: "
                f"{said}. Mend that, or leave `compile` out."
            ) from error
        check_objective(phase, objective)
        return _copied(objective) if graphs else objective

    def _call(self, graphs: bool) -> Callable[[Callable[[Batch], Objective], Batch], Objective]:
        """The compiled call of an objective; made once, as making it takes as long as a small step."""
        if graphs not in self._calls:
            options = self.options if graphs else self._without
            try:
                self._calls[graphs] = torch.compile(_called, **options)
            except (TypeError, ValueError, AttributeError, RuntimeError) as error:  # whatever it says of its arguments
                said = " ".join(str(error).split())[:200]
                raise MethodError(
                    f"`compile`: expected arguments of torch.compile. Found {self.options}, of which it says: {said}"
                ) from error
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
