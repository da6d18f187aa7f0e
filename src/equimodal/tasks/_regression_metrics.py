"""Metrics of regressions as torchmetrics; imported by :meth:`Regression.metrics` only."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat


class MeanPearson(Metric):
    """Pearson correlation over everything seen, averaged over the columns; 0 where one side is constant.

    Args:
        size: columns.
    """

    full_state_update = False
    values: list[Tensor]

    def __init__(self, size: int, **options: Any) -> None:
        super().__init__(**options)
        self.size = size
        self.add_state("values", default=[], dist_reduce_fx="cat")

    def update(self, prediction: Tensor, target: Tensor) -> None:
        """Take in predictions and targets, (B,) or (B, D)."""
        pair = torch.stack([t.detach().reshape(len(t), self.size).double() for t in (prediction, target)], dim=1)
        self.values.append(pair)

    def compute(self) -> Tensor:
        """The correlation of everything seen."""
        pairs: Tensor = dim_zero_cat(self.values)
        centred = pairs - pairs.mean(0)
        x, y = centred[:, 0], centred[:, 1]
        scale = x.square().sum(0).sqrt() * y.square().sum(0).sqrt()
        tiny = 1e-12 * len(pairs)
        return torch.where(scale > tiny, (x * y).sum(0) / scale.clamp_min(tiny), 0).mean().float()


class SentimentBinary(Metric):
    """Accuracy or weighted F1 of the sign, with targets of 0 counted as non-negative or left out.

    Args:
        with_zero: True: negative against non-negative. False: negative against positive, samples of target 0 left out.
        f1: the F1 of both classes weighted by how many samples have them, instead of the accuracy.
    """

    full_state_update = False
    counts: Tensor

    def __init__(self, with_zero: bool, f1: bool, **options: Any) -> None:
        super().__init__(**options)
        self.with_zero, self.f1 = with_zero, f1
        self.add_state("counts", default=torch.zeros(2, 2, dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, prediction: Tensor, target: Tensor) -> None:
        """Take in predictions and targets (B,)."""
        p, y = prediction.flatten(), target.flatten().to(prediction.dtype)
        if self.with_zero:
            truth, guess, kept = y >= 0, p >= 0, torch.ones_like(y)
        else:
            truth, guess, kept = y > 0, p > 0, (y != 0).to(y.dtype)
        cell = (2 * truth + 1 * guess).long()
        self.counts += torch.zeros(4, dtype=torch.float64, device=p.device).index_add(0, cell, kept.double()).view(2, 2)

    def compute(self) -> Tensor:
        """Over everything seen: rows of the table are the truth, columns the guess."""
        counts, total = self.counts, self.counts.sum().clamp_min(1)
        right = counts.diagonal()
        if not self.f1:
            return (right.sum() / total).float()
        f1 = 2 * right / (counts.sum(0) + counts.sum(1)).clamp_min(1)
        return ((f1 * counts.sum(1)).sum() / total).float()


class RoundedAccuracy(Metric):
    """Share of samples whose prediction and target agree after clipping and rounding (halves to even).

    Args:
        limit: both are clipped to [-limit, limit]; 3 gives seven classes, 2 gives five.
    """

    full_state_update = False
    right: Tensor
    total: Tensor

    def __init__(self, limit: float, **options: Any) -> None:
        super().__init__(**options)
        self.limit = limit
        self.add_state("right", default=torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("total", default=torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, prediction: Tensor, target: Tensor) -> None:
        """Take in predictions and targets (B,)."""
        classes = [t.flatten().float().clamp(-self.limit, self.limit).round() for t in (prediction, target)]
        self.right += (classes[0] == classes[1]).sum()
        self.total += len(classes[0])

    def compute(self) -> Tensor:
        """Over everything seen."""
        return (self.right / self.total.clamp_min(1)).float()


def sentiment_metrics() -> dict[str, Metric]:
    """What the sentiment literature reports of scores from -3 to 3, beside MAE and correlation."""
    return {
        "accuracy2_with_zero": SentimentBinary(with_zero=True, f1=False),
        "accuracy2_without_zero": SentimentBinary(with_zero=False, f1=False),
        "f1_with_zero": SentimentBinary(with_zero=True, f1=True),
        "f1_without_zero": SentimentBinary(with_zero=False, f1=True),
        "accuracy5": RoundedAccuracy(2.0),
        "accuracy7": RoundedAccuracy(3.0),
    }
