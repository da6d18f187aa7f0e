"""Which encoder a sharpness-aware step is for."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor


class Selection(NamedTuple):
    """Scores of the modalities, and the running means that they are made with.

    Args:
        scores: a, (M,).
        average: the new running means, (M,).
    """

    scores: Tensor
    average: Tensor


def selection_scores(
    loss: Tensor, previous: Tensor, average: Tensor, alignment: Tensor, share: float, momentum: float
) -> Selection:
    r"""Score of each modality from how its loss moves and how its gradient agrees with the fused one ([MASAM]).

    .. math:: MA^t = \beta MA^{t-1} + (1 - \beta) L^t, \quad d = \max(0, L^{t-1} - MA^t), \quad
        a = \alpha d + (1 - \alpha) \gamma

    A modality whose loss was not known before (NaN) starts its mean at its first loss, with d = 0; one without a loss
    now (NaN) keeps its mean and scores :math:`-\infty`.

    Args:
        loss: :math:`L^t`, (M,).
        previous: :math:`L^{t-1}`, (M,).
        average: :math:`MA^{t-1}`, (M,).
        alignment: :math:`\gamma`, (M,), cosines in [-1, 1].
        share: :math:`\alpha` in [0, 1].
        momentum: :math:`\beta` in [0, 1).

    Example:
        >>> one = torch.ones(1)
        >>> selection_scores(0.5 * one, 1.0 * one, 0.9 * one, 0.2 * one, share=0.5, momentum=0.5)
        Selection(scores=tensor([0.2500]), average=tensor([0.7000]))
    """
    new = torch.where(average.isnan(), loss, momentum * average + (1 - momentum) * loss)
    new = torch.where(loss.isnan(), average, new)
    decay = (previous - new).clamp_min(0).nan_to_num(0.0)
    scores = share * decay + (1 - share) * alignment
    return Selection(torch.where(loss.isnan(), -torch.inf, scores), new)


def gradient_cosines(grams: Tensor) -> tuple[Tensor, Tensor]:
    r"""Cosines :math:`\gamma = g^\top h / (\|g\| \|h\|)` of pairs of gradients, and both norms.

    Args:
        grams: (M, 2, 2), the inner products of g and h with each other and themselves.

    Returns:
        (M,) cosines, 0 where a gradient is 0, and (M, 2) norms.

    Example:
        >>> gradient_cosines(torch.tensor([[[4.0, 3.0], [3.0, 9.0]]]))
        (tensor([0.5000]), tensor([[2., 3.]]))
    """
    norms = grams.diagonal(dim1=1, dim2=2).sqrt()
    return grams[:, 0, 1] / norms.prod(1).clamp_min(torch.finfo(norms.dtype).tiny), norms


def encoder_selection(scores: Sequence[float], cosines: Sequence[float], every: bool = False) -> list[int]:
    r"""Which modalities are perturbed: that of the highest score, if its cosine is above 0.

    Args:
        scores: a; :math:`-\infty` of a modality that is not known.
        cosines: :math:`\gamma`.
        every: all that are known, instead of the best.

    Example:
        >>> encoder_selection([0.4, 0.9, -math.inf], [0.2, 0.1, 0.5]), encoder_selection([0.4, 0.9], [0.2, -0.1])
        ([1], [])
    """
    known = [i for i, score in enumerate(scores) if score > -math.inf]
    if known and not every:
        known = [max(known, key=lambda i: scores[i])]
    return [i for i in known if cosines[i] > 0]
