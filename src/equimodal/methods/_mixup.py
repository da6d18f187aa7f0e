"""Mixup of the samples of a batch: inputs and one-hot targets with one share per batch."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

from equimodal.batch import Batch, tree_map
from equimodal.errors import BatchError


def mixup(batch: Batch, alpha: float, outputs: int, generator: torch.Generator) -> Batch:
    r"""Each sample mixed with another: :math:`s x_i + (1 - s) x_j` with :math:`s \sim Beta(\alpha, \alpha)`.

    Args:
        batch: every sample must have every modality, in floating point.
        alpha: parameter of the Beta distribution, > 0.
        outputs: number of classes, for the one-hot targets.
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
        target = nn.functional.one_hot(target.long(), outputs).float()

    def mix(t: Tensor) -> Tensor:
        if not t.is_floating_point():
            raise BatchError("`mixup_alpha`: only floating-point inputs can be mixed. Found integers. Use 0.")
        return share * t + (1 - share) * t.index_select(0, order)

    return Batch({m: tree_map(mix, x) for m, x in batch.inputs.items()}, mix(target), None, batch.index)


def _draw_beta(alpha: float, generator: torch.Generator) -> float:
    """One draw from Beta(alpha, alpha), as a ratio of Gamma draws from the given generator."""
    gamma = torch._standard_gamma(torch.full((2,), alpha, dtype=torch.float64), generator=generator)
    return float(gamma[0] / gamma.sum())
