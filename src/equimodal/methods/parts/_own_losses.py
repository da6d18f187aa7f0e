"""Losses of the modalities' own outputs over a whole batch."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from equimodal.batch import Batch
from equimodal.engine import Descent, Engine
from equimodal.methods._base import Method
from equimodal.methods._loss import count_of
from equimodal.methods.parts._sums import whole_sums


def own_loss_sums(losses: Mapping[str, Tensor], batch: Batch) -> dict[str, Tensor]:
    """Sums for an objective's ``sums``, from which :func:`mean_own_losses` makes means.

    Args:
        losses: modality -> loss of its output in this micro-batch, as :meth:`Method.loss` gave it.
        batch: as the objective was given it.
    """
    sums = {}
    for m, loss in losses.items():
        value = loss.detach().to(torch.promote_types(loss.dtype, torch.float32))
        sums[f"loss/{m}"] = value * len(batch)
        sums[f"count/{m}"] = torch.full_like(value, count_of(batch, m))
        sums["count"] = torch.full_like(value, len(batch))
    return sums


@torch.no_grad()
def mean_own_losses(method: Method, descent: Descent, engine: Engine) -> tuple[Tensor, Tensor]:
    """Loss of each modality over all micro-batches and processes of a step, (M,), and whether a sample has it, (M,)."""
    names = ["count", *(f"{kind}/{m}" for kind in ("loss", "count") for m in method.modalities)]
    whole = whole_sums(descent, engine, names)
    losses, counts = torch.stack([whole[n] for n in names[1:]]).chunk(2)
    return losses / whole["count"].clamp_min(1), counts > 0
