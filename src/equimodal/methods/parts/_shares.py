"""Mean losses of micro-batches and processes that add up to the mean over one large batch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from equimodal.batch import Batch
from equimodal.engine import all_sum, is_distributed
from equimodal.errors import ModelError
from equimodal.tasks import Task, counting_dtype


class LossShares:
    r"""Makes k micro-batches (on one process or several) count exactly as one batch.

    An engine weighs a micro-batch by its number of samples. That is right for a mean over all samples, but not for the
    mean over the samples that have a modality, nor for one with class weights: there the micro-batch b, whose weights
    sum to :math:`W_b`, must count :math:`W_b / \sum_b W_b`. The loss is multiplied by the ratio of the two.

    Args:
        task: gives the loss and, where it has them, ``loss_terms`` and ``loss_weights``.
        batches: the micro-batches of one step on this process.
        modalities: those with a loss of their own.
        alone: each modality has a phase of its own, which the engine weighs by the samples that have it; otherwise one
            phase holds all losses and is weighed by all samples.

    Losses that are no means (Dice over the pixels of a batch) stay means over micro-batches.
    """

    def __init__(
        self, task: Task, batches: Sequence[Batch], modalities: Sequence[str] = (), alone: bool = False
    ) -> None:
        self._task = task
        self._batches = list(batches)
        self._factors: list[dict[str | None, Tensor]] = [{} for _ in batches]
        self._weighted = False
        if len(self._batches) == 1 and not is_distributed():
            return
        weigh: Callable[[Tensor], Tensor | None] = getattr(task, "loss_weights", lambda _: None)
        first = _targets(self._batches[0], None)
        self._weighted = weigh(first[:0]) is not None
        parts: list[str | None] = [*([] if alone else [None]), *modalities]
        if not self._weighted:  # every sample counts the same, as it does for the engine where it counts these samples
            parts = [] if alone else [*modalities]
        if not parts:
            return
        dtype = counting_dtype(first.device)
        own: dict[str | None, Tensor] = {}
        by_engine: dict[str | None, Tensor] = {}
        for part in parts:
            targets = [_targets(b, part) for b in self._batches]
            counted = [len(t if alone else _targets(b, None)) for b, t in zip(self._batches, targets, strict=True)]
            by_engine[part] = torch.tensor(counted, dtype=dtype, device=first.device)[:, None]
            weights = [weigh(t) for t in targets]
            own[part] = torch.stack(
                [
                    torch.full((1,), float(len(t)), dtype=dtype, device=first.device) if w is None else w.to(dtype)
                    for w, t in zip(weights, targets, strict=True)
                ]
            )
        sums = {f"{name}/{i}": v[p].sum(0) for name, v in (("own", own), ("engine", by_engine))
                for i, p in enumerate(parts)}  # fmt: skip
        whole = all_sum(sums) if is_distributed() else sums
        for i, part in enumerate(parts):
            share = own[part] / whole[f"own/{i}"].clamp_min(1e-30)
            factors = share * whole[f"engine/{i}"] / by_engine[part].clamp_min(1)
            for number, factor in enumerate(factors.unbind()):
                self._factors[number][part] = factor

    def loss(self, output: Tensor, target: Tensor, batch: Batch, modality: str | None = None) -> Tensor:
        """The task's loss of ``output`` as its share in the whole; an exact 0 that reaches the head without samples.

        Args:
            output: of the samples that take part.
            target: of the same samples.
            batch: the micro-batch they are from; the loss of any other batch is its own mean.
            modality: whose loss; ``None`` is the fused one.
        """
        if output.shape[0] == 0:
            return output.sum() * 0
        number = next((i for i, b in enumerate(self._batches) if b is batch), None)
        factor = None if number is None else self._factors[number].get(modality)
        if factor is None:
            return self._task.loss(output, target)
        factor = factor.to(output.dtype)
        if not self._weighted:
            return self._task.loss(output, target) * factor[0]
        task: Any = self._task
        total: Tensor = (task.loss_terms(output, target) * factor).sum()
        return total


def own_rows(output: Tensor, batch: Batch, modality: str) -> tuple[Tensor, Tensor]:
    """Output and target of the samples that have the modality."""
    rows = batch.rows(modality) if modality in batch.inputs else None
    return (output if rows is None else output.index_select(0, rows)), _targets(batch, modality)


def _targets(batch: Batch, modality: str | None) -> Tensor:
    target = batch.target
    if target is None:
        raise ModelError("`target`: expected a tensor for training. Found None.")
    if modality is None:
        return target
    if modality not in batch.inputs:
        return target[:0]
    rows = batch.rows(modality)
    return target if rows is None else target.index_select(0, rows)
