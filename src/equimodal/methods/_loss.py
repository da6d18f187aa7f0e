"""Mean losses of micro-batches and processes that add up to the mean over one large batch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, cast

import torch
from torch import Tensor

from equimodal.batch import Batch
from equimodal.engine import Phase, all_sum, is_distributed
from equimodal.errors import MethodError, ModelError
from equimodal.tasks import Task, counting_dtype

SHARES = "loss shares"
"""Name of the factors among a batch's extras."""


class LossShares:
    r"""Makes k micro-batches (on one process or several) count exactly as one batch.

    An engine weighs a micro-batch by its number of samples. That is right for a mean over all samples, but not for the
    mean over the samples that have a modality, nor for one with class weights: there the micro-batch b, whose weights
    sum to :math:`W_b`, must count :math:`W_b / \sum_b W_b`. The loss is multiplied by the ratio of the two, which
    travels with the micro-batch.

    Args:
        task: gives the loss and, where it has them, ``loss_terms`` and ``loss_weights``.
        batches: the micro-batches of one step on this process.
        modalities: those of the model.
        single: each phase has one loss, over the samples that it counts.

    Losses that are no means (Dice over the pixels of a batch) stay means over micro-batches.
    """

    def __init__(self, task: Task, batches: Sequence[Batch], modalities: Sequence[str], single: bool) -> None:
        self._batches = list(batches)
        # one batch is the whole; and where every sample counts the same, an engine that counts them is right
        self._plain = len(self._batches) == 1 and not is_distributed()
        if self._plain:
            return
        self._parts: list[str | None] = [None, *modalities]
        self._weigh: Callable[[Tensor], Tensor | None] = getattr(task, "loss_weights", lambda _: None)
        self._share: Tensor | None = None
        if single:
            self._plain = self._weigh(target_of(self._batches[0])[:0]) is None

    def of(self, phase: Phase) -> list[Batch]:
        """The micro-batches with the factors of the phase; every process must ask for the same phases."""
        if self._plain:
            return self._batches
        device = target_of(self._batches[0]).device
        dtype = counting_dtype(device)
        counted = [phase.count(b) for b in self._batches]
        expected = [count_of(b, phase.modality) for b in self._batches]
        if counted != expected:
            raise MethodError(
                f"Phase {phase.name!r}, `count`: expected {expected}, the samples that its losses are about in "
                f"each micro-batch. Found {counted}. Give the phase its modality, or leave out count."
            )
        counts = torch.tensor(counted, dtype=dtype).to(device, non_blocking=True)
        sums = {"count": counts.sum(0)}
        weights = None
        if self._share is None:  # once per step
            rows = [[self._weight(target_of(b, part), dtype) for part in self._parts] for b in self._batches]
            weights = torch.stack([torch.stack(row) for row in rows])  # (batches, parts, K)
            sums["weights"] = weights.sum(0)
        whole = all_sum(sums) if is_distributed() else sums
        if weights is not None:
            self._share = weights / whole["weights"].clamp_min(1e-30)
        factors = cast(Tensor, self._share) * whole["count"] / counts[:, None, None].clamp_min(1)
        return [
            b.with_extras(**{SHARES: row.expand(len(b), *row.shape)})
            for b, row in zip(self._batches, factors.unbind(), strict=True)
        ]

    def _weight(self, target: Tensor, dtype: torch.dtype) -> Tensor:
        weights = self._weigh(target)
        if weights is None:
            return torch.full((1,), float(len(target)), dtype=dtype, device=target.device)
        return weights.to(dtype)


def shared_loss(task: Task, output: Tensor, target: Tensor, batch: Batch, position: int) -> Tensor:
    """The task's loss as its share in the whole; an exact 0 that reaches the head without samples.

    Args:
        task: gives the loss.
        output: of the samples that take part.
        target: of the same samples.
        batch: the micro-batch they are from, with the factors of :class:`LossShares` where it is one of several.
        position: 0 for the fused output, 1 + m for modality m.
    """
    if output.shape[0] == 0:
        return output.sum() * 0
    table = batch.extras.get(SHARES)
    if table is None:
        return task.loss(output, target)
    factor = table[0, position].to(output.dtype)
    if getattr(task, "loss_weights", lambda _: None)(target[:0]) is None:
        return task.loss(output, target) * factor[0]
    terms: Any = task
    total: Tensor = (terms.loss_terms(output, target) * factor).sum()
    return total


def loss_sums(task: Task, output: Tensor, target: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Numerators and denominators (K,) whose ratios add up to the task's loss over all batches; zeros without a sample.

    Args:
        task: gives the loss and, where it has them, ``loss_terms`` and ``loss_weights``.
        output: (n, C, ...).
        target: of the same samples.
        dtype: of the sums.
    """
    weights = getattr(task, "loss_weights", lambda _: None)(target)
    split: Any = task
    if not len(target):
        zero = torch.zeros(1 if weights is None else len(weights), dtype=dtype, device=output.device)
        return zero, zero.clone()
    if weights is None:
        terms, weights = task.loss(output, target).reshape(1), output.new_tensor([len(target)])
    else:
        terms = split.loss_terms(output, target)
    return terms.to(dtype) * weights.to(dtype), weights.to(dtype)


def mean_of_sums(numerator: Tensor, denominator: Tensor) -> Tensor:
    """The loss from :func:`loss_sums` over all batches and processes, (..., K) to (...); 0 without a sample."""
    return torch.where(denominator > 0, numerator / torch.where(denominator > 0, denominator, 1), 0).sum(-1)


def target_of(batch: Batch, modality: str | None = None) -> Tensor:
    """Target of the samples that have the modality; of all of them without one."""
    target = batch.target
    if target is None:
        raise ModelError("`target`: expected a tensor for training. Found None.")
    if modality is None:
        return target
    if modality not in batch.inputs:
        return target[:0]
    rows = batch.rows(modality)
    return target if rows is None else target.index_select(0, rows)


def labels_of(batch: Batch) -> Tensor:
    """(B,) classes; of soft targets the most probable ones."""
    target = target_of(batch)
    return target.argmax(1) if target.is_floating_point() else target.long()


def count_of(batch: Batch, modality: str | None = None) -> int:
    """How many samples have the modality; of all of them without one."""
    if modality is None or (batch.present is None and modality in batch.inputs):
        return len(batch)
    return batch.count(modality) if modality in batch.inputs else 0


def mask_of(batch: Batch, modality: str) -> Tensor:
    """(B,) booleans: which samples have the modality."""
    everyone = torch.ones(len(batch), dtype=torch.bool, device=target_of(batch).device)
    if modality not in batch.inputs:
        return ~everyone
    return everyone if batch.present is None else batch.present.get(modality, everyone)


def own_rows(output: Tensor, batch: Batch, modality: str) -> tuple[Tensor, Tensor]:
    """Output and target of the samples that have the modality.

    Args:
        output: of all samples, or already of those that have it.
        batch: the samples.
        modality: which.
    """
    if batch.present is None and modality in batch.inputs:  # all of them have it
        return output, target_of(batch)
    rows = batch.rows(modality) if modality in batch.inputs else None
    if rows is not None and output.shape[0] != rows.shape[0]:
        output = output.index_select(0, rows)
    return output, target_of(batch, modality)
