"""Gradients of several losses of one forward pass, each by itself: as final as the gradient of their sum."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor

from equimodal.engine._gradients import WEIGHTED, Gradients
from equimodal.engine._protocol import Objective, Phase
from equimodal.engine._sharding import is_sharded
from equimodal.errors import UnsupportedError

Backward = Callable[..., None]
"""Called with a loss and the options of ``Tensor.backward``."""


class PartGradients:
    """Adds up the gradients of the parts while the micro-batches of a phase go by.

    A part's gradient of a parameter p is kept as the ``.grad`` of a tensor that shares p's memory, so that averaging
    and unscaling treat it as they treat p.

    Args:
        phase: says which parameters are trained, and for which of them gradients are kept apart.
    """

    def __init__(self, phase: Phase) -> None:
        self.trained = phase.trained
        self._may_lack_graph = bool(phase.frozen)
        self._keeps_shares = phase.perturbation is not None
        wanted = None if phase.separate is None else {id(p) for p in phase.separate}
        self._kept = [i for i, p in enumerate(self.trained) if wanted is None or id(p) in wanted]
        self._rows: dict[str, list[Tensor]] = {}
        self._declared = True

    def gradients(self) -> Gradients:
        """What was added up."""
        return Gradients(self.trained, self._rows, self._declared)

    def holders(self) -> list[Tensor]:
        """Every tensor whose ``.grad`` is a gradient of a part."""
        return [holder for row in self._rows.values() for holder in row]

    def _row(self, part: str) -> list[Tensor]:
        """The holders of a part; a new one that is weighted starts as what was counted with a weight of 1 so far."""
        if part not in self._rows:
            row = [p.detach() for p in self.trained]
            if part.endswith(WEIGHTED):
                for holder, plain in zip(row, self._row(part.removesuffix(WEIGHTED)), strict=True):
                    holder.grad = plain.grad
            self._rows[part] = row
        return self._rows[part]

    def add(self, objective: Objective, share: float, backward: Backward) -> None:
        """One backward pass per part, and one of the total where it is not declared to be their weighted sum.

        Args:
            objective: of one micro-batch.
            share: of the micro-batch in the phase.
            backward: of a loss, scaled where there is a loss scale.
        """
        sofar = [p.grad for p in self.trained]
        weights = objective.weights
        self._declared = self._declared and weights is not None
        wanted = self.trained if weights is not None else [self.trained[i] for i in self._kept]
        options: dict[str, Any] = {} if any(is_sharded(p) for p in self.trained) else {"inputs": wanted}
        last = list(objective.parts)[-1] if weights is not None else None
        for name, part in objective.parts.items():
            for p in self.trained:
                p.grad = None
            if part.requires_grad and wanted:
                loss = part if share == 1 else part * share
                self._backward(backward, loss, {**options, "retain_graph": name != last})
            weight = 1.0 if weights is None else weights[name]
            if self._keeps_shares and (isinstance(weight, Tensor) or weight != 1 or name + WEIGHTED in self._rows):
                self._add_to(name + WEIGHTED, weight)
            self._add_to(name)
            if weights is not None:
                for i, p in enumerate(self.trained):
                    sofar[i] = sofar[i] if p.grad is None else _sum(sofar[i], p.grad, weight)
        for p, gradient in zip(self.trained, sofar, strict=True):
            p.grad = gradient
        done = weights is not None and any(part.requires_grad for part in objective.parts.values())
        if not done and (objective.total.requires_grad or not self._may_lack_graph):  # else torch misses the graph
            backward(objective.total if share == 1 else objective.total * share)

    def _add_to(self, part: str, weight: float | Tensor | None = None) -> None:
        """Add the gradients that are in place, times a weight, to those of a part."""
        row = self._row(part)
        for i in self._kept:
            gradient, held = self.trained[i].grad, row[i].grad
            if gradient is not None:
                simple = weight is None and held is None
                row[i].grad = gradient if simple else _sum(held, gradient, 1.0 if weight is None else weight)

    @staticmethod
    def _backward(backward: Backward, loss: Tensor, options: Mapping[str, Any]) -> None:
        try:
            backward(loss, **options)
        except RuntimeError as error:
            if "donated buffer" not in str(error):
                raise
            raise UnsupportedError(
                "`parts`: gradients apart need several backward passes through compiled code, which was first compiled "
                "for one only. Set torch._functorch.config.donated_buffer = False before the first step."
            ) from error

    # ---- processes -------------------------------------------------------------------------------------------------

    def layout(self) -> bytes:
        """The names of the parts on this process, in order, and which parameters have a gradient of each."""
        if not self._rows:
            return b""
        flags = {n: "".join("01"[h.grad is not None] for h in row) for n, row in self._rows.items()}
        return json.dumps(list(flags.items())).encode()

    def agree(self, layouts: Sequence[bytes]) -> list[Tensor]:
        """Take on the parts of all processes, in one order everywhere; those to average, in that order too.

        Args:
            layouts: :meth:`layout` of every process.
        """
        union: dict[str, set[int]] = {}
        for text in layouts:
            for name, flags in json.loads(text) if text else ():
                union.setdefault(name, set()).update(i for i, flag in enumerate(flags) if flag == "1")
        for name in union:  # where a weight is 1 the gradient times it is not listed
            union[name] |= union.get(name.removesuffix(WEIGHTED), set())
        self._rows = {name: self._row(name) for name in union}
        return [self._rows[name][i] for name, places in union.items() for i in sorted(places)]


def _sum(old: Tensor | None, gradient: Tensor, weight: float | Tensor) -> Tensor:
    """Old + weight * gradient, in new memory."""
    term = gradient * (weight.to(gradient.dtype) if isinstance(weight, Tensor) else weight)
    return term if old is None else old + term
