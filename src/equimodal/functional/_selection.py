"""Which encoder a sharpness-aware step is for."""

from __future__ import annotations

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
