"""What each modality of a sample is worth to the prediction of a model."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor

from equimodal.batch import Batch, Presence, keep_rows
from equimodal.functional import shapley_values
from equimodal.methods._base import Method
from equimodal.methods._loss import labels_of, mask_of


def worth_of_right_sets(method: Method, batch: Batch) -> dict[str, Tensor]:
    """Modality -> (B,) Shapley values where a set is worth its size if the prediction from it is right, else 0.

    Args:
        method: predicts with its joint head, on features; 2^M - 1 passes of fusion and head.
        batch: of classes.
    """
    features = method.multimodal.encode(batch.inputs, batch.present)
    classes, count = labels_of(batch), len(method.modalities)
    own = [mask_of(batch, m) for m in method.modalities]
    values = torch.zeros(len(batch), 2**count, device=classes.device)
    for members in range(1, 2**count):
        masks = {m: own[i] & bool(members >> i & 1) for i, m in enumerate(method.modalities) if m in features}
        size = torch.stack(list(masks.values())).sum(0)
        kept = {m: keep_rows(z, masks[m]) for m, z in features.items()}
        output = cast(Tensor, method.fused_output(kept, Presence(masks)))
        values[:, members] = torch.where(output.argmax(1) == classes, size, 0).to(values)
    return dict(zip(method.modalities, shapley_values(values).unbind(1), strict=True))
