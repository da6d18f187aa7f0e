"""Graph mode on a machine without a device that has it: what CUDA graphs do to results is done to those of a compiler.

A CUDA graph writes where it wrote the last time. Whoever keeps a result beyond the next training step reads other
numbers later, without an error. Here every result of the steps before is overwritten at the start of a step.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any
from unittest import mock

import torch
from torch import Tensor, fx, nn
from torch.utils._pytree import tree_leaves

from equimodal.batch import Batch
from equimodal.engine import Descent, Phase, PlainEngine, Sharpness


class EmulatedGraphs:
    """A backend of ``torch.compile`` with results that do not last; for the time of the block it hears of steps.

    Args:
        backward: results of the backward passes too, as torch's own tracing makes them; it takes longer to compile.
    """

    def __init__(self, backward: bool = False) -> None:
        self.backward = backward
        self.compilations = 0
        """How many losses were compiled, those for other shapes and modes included."""
        self.numbers: list[Any] = []
        """What a compiled loss was given that is no tensor: numbers that a graph would not see change."""
        self.steps = 0
        self._results: list[Tensor] = []

    def options(self) -> dict[str, Any]:
        """What an engine is given as ``compile``."""
        return {"backend": self.compiled, "mode": "reduce-overhead", "fullgraph": True}

    @contextlib.contextmanager
    def running(self) -> Iterator[EmulatedGraphs]:
        """Steps that begin inside are noticed."""
        with mock.patch.object(torch.compiler, "cudagraph_mark_step_begin", self._begin):
            yield self
            self._begin()

    def _begin(self) -> None:
        self.steps += 1
        for result in self._results:
            memory: Any = result.untyped_storage()
            memory.fill_(0xFF)  # NaN, or -1
        self._results = []

    def keep(self, results: Any, given: Sequence[Any]) -> None:
        """Results that will be overwritten, without those that are in memory that was given."""
        own = {t.untyped_storage().data_ptr() for t in given if isinstance(t, Tensor)}
        for t in tree_leaves(results):
            if isinstance(t, Tensor) and t.untyped_storage().data_ptr() not in own:
                self._results.append(t.detach())

    def compiled(self, module: fx.GraphModule, inputs: Sequence[Any], **options: Any) -> Any:
        """The backend."""
        self.compilations += 1
        self.numbers += [x for x in inputs if not isinstance(x, Tensor)]
        if not self.backward or options.get("mode") is None:
            return self._static(module, inputs) if options.get("mode") else module.forward
        from torch._dynamo.backends.common import aot_autograd  # the compiler is here already

        return aot_autograd(fw_compiler=self._boxed, bw_compiler=self._boxed)(module, inputs)

    def _boxed(self, module: Any, inputs: Sequence[Any]) -> Any:
        run = self._static(module, inputs)
        boxed: Any = lambda arguments: run(*arguments)  # noqa: E731 (as torch's tracing calls it)
        boxed._boxed_call = True
        return boxed

    def _static(self, module: Any, inputs: Sequence[Any]) -> Any:
        constants = [t for t in vars(module).values() if isinstance(t, Tensor)]
        if isinstance(module, nn.Module):
            constants += [*module.parameters(), *module.buffers()]

        def run(*arguments: Any) -> Any:
            results = module(*arguments)
            self.keep(results, [*arguments, *constants])
            return results

        return run


class GraphEngine(PlainEngine):
    """An engine whose gradients do not last longer than their step either.

    Args:
        graphs: overwrites them.
        optimizer: as :class:`~equimodal.PlainEngine` takes it; ``options`` too.
    """

    def __init__(self, graphs: EmulatedGraphs, optimizer: Any, **options: Any) -> None:
        super().__init__(optimizer, compile=graphs.options(), **options)
        self._graphs = graphs

    def descend(self, phase: Phase, batches: Sequence[Batch], sharpness: Sharpness | None = None) -> Descent:
        """As ever; the gradients are then results of a graph."""
        descent = super().descend(phase, batches, sharpness)
        gradients = [p.grad for p in phase.every]
        gradients += [g for name in descent.gradients for g in descent.gradients[name]]
        self._graphs.keep(gradients, ())
        return descent
