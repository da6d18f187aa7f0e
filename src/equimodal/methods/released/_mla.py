"""What the authors' repository of MLA computes in the place of the paper's fusion."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from equimodal.errors import UnsupportedError
from equimodal.functional import fuse, product_weights
from equimodal.inference import Prediction
from equimodal.tasks import Task

MLA_RELEASED = (
    "the gradient modification never runs: it looks for a parameter name that the layer it is given does not have",
    "if it ran, k would lack its division, P would be divided by its norm, and would be updated before the step",
    "the entropy is taken over the batch axis: one weight per batch instead of one per sample",
    "the best epoch is chosen on the test set",
)
"""What the released code does otherwise than the paper."""


def require_classification(task: Task) -> None:
    """Refuse what the released code does not do.

    Raises:
        UnsupportedError: the task is no classification.
    """
    if task.name != "classification":
        raise UnsupportedError(
            f"`variant`: the released code of MLA weighs class predictions only. Found the task {task.name!r}. "
            "Use variant='paper'."
        )


def fuse_by_batch(prediction: Prediction, present: Mapping[str, Tensor] | None) -> Prediction:
    """``prediction`` fused with one weight per BATCH, so that it depends on the other samples of its batch."""
    weights = batch_weights(prediction.unimodal, present)
    output = fuse(prediction.unimodal, weights).clamp_min(1e-30).log()
    return Prediction(output, prediction.unimodal, weights, prediction.rule)


def batch_weights(unimodal: Mapping[str, Tensor], present: Mapping[str, Tensor] | None = None) -> dict[str, Tensor]:
    """Weights from entropies with softmax over the BATCH axis, summed over the whole batch; (B,) each."""
    equal = product_weights(unimodal, present)  # 0 where absent: such rows count in no entropy and get no weight
    entropies = []
    for m, z in unimodal.items():
        log_p = torch.log_softmax(z[equal[m] > 0].float(), dim=0)
        entropies.append(-(log_p.exp() * log_p).sum())
    e = torch.stack(entropies)
    shares = torch.softmax(e.amax() - e, dim=0)
    raw = {m: share * (equal[m] > 0) for m, share in zip(unimodal, shares, strict=True)}
    total = torch.stack(list(raw.values())).sum(0)
    return {m: w / total for m, w in raw.items()}
