"""Steps of encoders up along the gradient of the fused loss, from the gradients of the parts of a loss."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from equimodal.engine import Descent, Perturbation, all_sum
from equimodal.methods._base import Method, trainable

FUSED = "fused"


def own_part(modality: str) -> str:
    """Name of the part of the loss that is the modality's own."""
    return f"unimodal/{modality}"


def fused_grams(method: Method, descent: Descent, like: Tensor) -> Tensor:
    """(M, 2, 2) inner products of the gradients of the fused and the own loss for each encoder; 0 of unknown ones.

    Args:
        method: whose encoders.
        descent: has the gradients of the parts apart.
        like: gives device and type.
    """
    grams = []
    for m in method.modalities:
        encoder = trainable(method.multimodal.parameters_of(m))
        known = bool(encoder) and own_part(m) in descent.gradients
        grams.append(descent.gradients.gram(encoder, [FUSED, own_part(m)]).to(like) if known else like.new_zeros(2, 2))
    return torch.stack(grams)


def mean_own_parts(method: Method, descent: Descent, like: Tensor) -> Tensor:
    """(M,) own losses of a step, the mean over the processes; NaN of a modality without a gradient of its loss.

    Args:
        method: whose modalities.
        descent: of this process.
        like: gives device and type.
    """
    names = [own_part(m) for m in method.modalities]
    given = {n: descent.losses.get(n, like.new_zeros(())).to(like) for n in names}
    whole = all_sum({**given, "processes": like.new_ones(())})
    loss = torch.stack([whole[n] for n in names]) / whole["processes"]
    known = torch.tensor([n in descent.gradients for n in names]).to(loss.device, non_blocking=True)
    return torch.where(known, loss, torch.nan)


def fused_ascent(method: Method, descent: Descent, rows: Sequence[int], lengths: Tensor, norms: Tensor) -> Perturbation:
    """Move some encoders up along the gradient of the fused loss, each by a length of its own.

    Args:
        method: whose encoders.
        descent: has the gradients of the parts apart.
        rows: positions of the encoders, at least one.
        lengths: (M,), in the unit of the weights.
        norms: (M,), of the gradients.
    """
    parameters, direction = [], []
    for i in rows:
        encoder = trainable(method.multimodal.parameters_of(method.modalities[i]))
        parameters += encoder
        factor = lengths[i] / norms[i]
        gradients = descent.gradients.of(FUSED, encoder)
        direction += [None if g is None else g * factor.to(g.dtype) for g in gradients]
    return Perturbation(parameters, direction, lengths[list(rows)].norm(), FUSED)
