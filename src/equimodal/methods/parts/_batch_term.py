"""A term of the loss that depends on sums over the whole batch, also where the batch comes in parts."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from torch import Tensor

from equimodal.batch import Batch
from equimodal.engine import Objective, Survey, is_distributed

Sums = Mapping[str, Tensor]


class BatchTerm:
    """Adds a term to the loss of one micro-batch, given the sums over all micro-batches and processes.

    With several micro-batches the sums are gathered first, in a pass without gradients. With one on each of several
    processes they are exchanged after the forward pass; with one on one process they are its own.

    Args:
        gather: from a micro-batch to sums, of equal names and shapes everywhere.
        term: from what one micro-batch gives, with its graph, and the sums over all of them to the term's share of that
            micro-batch; an engine weighs it by its samples.
    """

    def __init__(self, gather: Callable[[Batch], Sums], term: Callable[[Sums, Sums], Tensor]) -> None:
        self._gather, self._term = gather, term
        self._totals: Sums | None = None

    def survey(self) -> Survey:
        """How a new step learns the sums."""
        self._totals = None
        return Survey(self._gather, self._receive, lambda own, totals: Objective(self._term(own, totals)))

    def _receive(self, totals: Sums) -> None:
        self._totals = totals

    def added(self, loss: Tensor, own: Sums, losses: Sums | None = None, sums: Sums | None = None) -> Objective:
        """The objective of a micro-batch.

        Args:
            loss: without the term.
            own: what the micro-batch gives, of equal names and shapes everywhere.
            losses: for the report.
            sums: additive statistics; default ``own``, detached.
        """
        detached = {name: t.detach() for name, t in own.items()}
        sums = detached if sums is None else sums
        if self._totals is None and is_distributed():
            return Objective(loss, losses or {}, sums, shared=own)
        term = self._term(own, detached if self._totals is None else self._totals)
        return Objective(loss + term.to(loss.dtype), losses or {}, sums)
