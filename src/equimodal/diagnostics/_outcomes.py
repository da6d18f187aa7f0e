"""What a prediction earned on every sample, from which two models are compared sample by sample."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from equimodal.tasks import Task

Numbers = NDArray[np.float32]
Terms = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class Outcomes:
    """Terms of the score, sample by sample; the score of any selection of samples is the mean of the ratios of sums.

    Args:
        numerator: (N, K).
        denominator: (N, K); a row of zeros is a sample that does not count, as one without the modality.

    Example:
        >>> import numpy as np
        >>> Outcomes(np.array([[1.0], [0.0], [1.0]]), np.ones((3, 1))).score().round(4).item()
        0.6667
    """

    numerator: Numbers
    denominator: Numbers

    def score(self, counts: NDArray[np.float64] | None = None) -> NDArray[np.float64]:
        r"""Score of samples that are drawn w_i times, :math:`\mathrm{mean}_k \sum_i w_i n_{ik} / \sum_i w_i d_{ik}`.

        Args:
            counts: w, (..., N); default: each sample once.

        Returns:
            (...), NaN where nothing counts.
        """
        weights = np.ones(len(self.numerator)) if counts is None else counts
        above, below = weights @ self.numerator.astype(np.float64), weights @ self.denominator.astype(np.float64)
        some = below > 0
        ratio = np.where(some, above, 0.0) / np.where(some, below, 1.0)
        with np.errstate(invalid="ignore"):
            mean: NDArray[np.float64] = ratio.sum(-1) / some.sum(-1)
        return mean


def sample_terms(task: Task, output: Tensor, target: Tensor) -> Outcomes:
    """Terms of the score of each sample by itself.

    Args:
        task: its ``score_terms`` are additive over samples.
        output: (N, C, ...).
        target: (N, ...).
    """

    def one(z: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        return task.score_terms(z[None], y[None])

    try:  # all at once
        numerator, denominator = torch.func.vmap(one)(output, target) if not task.dense else _each(one, output, target)
    except (RuntimeError, ValueError):  # a task of one's own that reads values
        numerator, denominator = _each(one, output, target)
    return Outcomes(numerator.float().cpu().numpy(), denominator.float().cpu().numpy())


def _each(one: Terms, output: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    terms = [one(z, y) for z, y in zip(output, target, strict=True)]
    return torch.stack([above for above, _ in terms]), torch.stack([below for _, below in terms])
