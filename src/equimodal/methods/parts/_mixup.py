"""Mixup of the samples of a batch: inputs and targets with one share per batch."""

from __future__ import annotations

from dataclasses import replace
from typing import cast

import torch
from torch import Tensor, nn

from equimodal.batch import Batch, tree_map
from equimodal.errors import BatchError, UnsupportedError
from equimodal.tasks import Task


def check_mixable(task: Task) -> None:
    """Refuse a task whose targets cannot be mixed.

    Raises:
        UnsupportedError: the targets are label maps, or of a kind that is not known.
    """
    if task.name not in ("classification", "multilabel", "regression"):
        raise UnsupportedError(
            f"`mixup_alpha`: expected classes, labels or numbers as targets. Found the task {task.name!r}: a "
            "mixture of two label maps is no label map. Use 0."
        )


def mixup(batch: Batch, alpha: float, task: Task, generator: torch.Generator) -> Batch:
    r"""Each sample mixed with another: :math:`s x_i + (1 - s) x_j` with :math:`s \sim Beta(\alpha, \alpha)`.

    Args:
        batch: every sample must have every modality, in floating point.
        alpha: parameter of the Beta distribution, > 0.
        task: says what the targets are: classes become one-hot, labels and numbers are mixed as they are.
        generator: on the host; decides share and partners.

    Raises:
        BatchError: absent modalities, or integer inputs.
    """
    if batch.presence is not None and any(batch.rows(m) is not None for m in batch.inputs):
        raise BatchError("`mixup_alpha`: mixing samples needs all modalities in all of them. Found absent ones. Use 0.")
    share = _draw_beta(alpha, generator)
    order = torch.randperm(len(batch), generator=generator)
    target = cast(Tensor, batch.target)
    order = order.to(target.device, non_blocking=True)
    if not target.is_floating_point():
        classes = task.name == "classification"
        target = nn.functional.one_hot(target.long(), task.outputs).float() if classes else target.float()

    def mix(t: Tensor) -> Tensor:
        if t.dtype == torch.bool:  # the mask of a sequence: a step is real where either sample has one
            return t | t.index_select(0, order)
        if not t.is_floating_point():
            raise BatchError("`mixup_alpha`: only floating-point inputs can be mixed. Found integers. Use 0.")
        return share * t + (1 - share) * t.index_select(0, order)

    mixed = {m: tree_map(mix, x) for m, x in batch.inputs.items()}
    return replace(batch, inputs=mixed, target=mix(target), present=None)


def _draw_beta(alpha: float, generator: torch.Generator) -> float:
    """One draw from Beta(alpha, alpha), as a ratio of Gamma draws from the given generator."""
    gamma = torch._standard_gamma(torch.full((2,), alpha, dtype=torch.float64), generator=generator)
    return float(gamma[0] / gamma.sum())
