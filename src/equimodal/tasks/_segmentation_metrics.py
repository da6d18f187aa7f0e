"""Metrics of segmentations as torchmetrics; imported by :meth:`Segmentation.metrics` only."""

from __future__ import annotations

import math
import warnings
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

from equimodal.errors import missing_extra
from equimodal.tasks._protocol import mean_ratio


def region_masks(members: Tensor, labels: Tensor, valid: Tensor) -> Tensor:
    """(B, K, *pixels) booleans: which valid pixels belong to which region."""
    inside = members.to(labels.device).bool()[:, labels].movedim(0, 1)
    return inside & valid.unsqueeze(1)


def _prepared(probability: Tensor, target: Tensor, ignore_index: int | None) -> tuple[Tensor, Tensor, Tensor]:
    valid = torch.ones_like(target, dtype=torch.bool) if ignore_index is None else target != ignore_index
    return probability.argmax(dim=1), torch.where(valid, target, 0).long(), valid


class PooledDice(Metric):
    """Dice over all pixels seen, of one region or averaged over all; 0 if nothing is there and nothing predicted.

    Args:
        members: (K, C), 1 where class c belongs to region k.
        row: the region; ``None`` is the mean over those that are there or predicted.
        ignore_index: label of pixels that do not count.
    """

    full_state_update = False
    numerator: Tensor
    denominator: Tensor
    members: Tensor

    def __init__(self, members: Tensor, row: int | None, ignore_index: int | None, **options: Any) -> None:
        super().__init__(**options)
        self.row, self.ignore_index = row, ignore_index
        self.register_buffer("members", members.clone(), persistent=False)
        for name in ("numerator", "denominator"):
            self.add_state(name, default=torch.zeros(len(members), dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, probability: Tensor, target: Tensor) -> None:
        """Take in probabilities (B, C, *pixels) and labels (B, *pixels)."""
        labels, truth, valid = _prepared(probability, target, self.ignore_index)
        a, b = region_masks(self.members, labels, valid), region_masks(self.members, truth, valid)
        axes = [0, *range(2, a.ndim)]
        self.numerator += 2 * (a & b).sum(axes)
        self.denominator += a.sum(axes) + b.sum(axes)

    def compute(self) -> Tensor:
        """Over everything seen."""
        if self.row is None:
            return torch.nan_to_num(mean_ratio(self.numerator, self.denominator)).float()
        return (self.numerator[self.row] / self.denominator[self.row].clamp_min(1)).float()


class Hausdorff95(Metric):
    """95th percentile of the Hausdorff distance in pixels, averaged over the samples that have or are given the region.

    A sample with the region in only one of truth and prediction counts with its diagonal, the longest distance.

    Args:
        members: (K, C), 1 where class c belongs to region k.
        row: the region; ``None`` is the mean over all.
        ignore_index: label of pixels that do not count.
    """

    full_state_update = False
    total: Tensor
    count: Tensor
    members: Tensor

    def __init__(self, members: Tensor, row: int | None, ignore_index: int | None, **options: Any) -> None:
        super().__init__(**options)
        self.row, self.ignore_index = row, ignore_index
        self.register_buffer("members", members.clone(), persistent=False)
        for name in ("total", "count"):
            self.add_state(name, default=torch.zeros(len(members), dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, probability: Tensor, target: Tensor) -> None:
        """Take in probabilities (B, C, *pixels) and labels (B, *pixels)."""
        from monai.metrics.hausdorff_distance import compute_hausdorff_distance

        labels, truth, valid = _prepared(probability, target, self.ignore_index)
        a, b = region_masks(self.members, labels, valid), region_masks(self.members, truth, valid)
        axes = tuple(range(2, a.ndim))
        some_a, some_b = a.any(axes), b.any(axes)
        rows = (some_a & some_b).any(1)
        distance = torch.zeros(a.shape[:2], dtype=torch.float64, device=a.device)
        if bool(rows.any()):
            with warnings.catch_warnings():  # of its own deprecations, and of empty regions, which are judged below
                warnings.simplefilter("ignore")
                found = compute_hausdorff_distance(a[rows].float(), b[rows].float(), True, percentile=95)
            distance[rows] = torch.as_tensor(found, dtype=torch.float64, device=a.device)
        diagonal = math.sqrt(sum(n**2 for n in a.shape[2:]))
        distance = torch.where(some_a ^ some_b, diagonal, distance)
        judged = some_a | some_b
        self.total += torch.where(judged, distance, 0).sum(0)
        self.count += judged.sum(0)

    def compute(self) -> Tensor:
        """Over everything seen."""
        if self.row is None:
            return torch.nan_to_num(mean_ratio(self.total, self.count)).float()
        return (self.total[self.row] / self.count[self.row].clamp_min(1)).float()


def hausdorff_metrics(members: Tensor, names: list[str], ignore_index: int | None) -> dict[str, Metric]:
    """``hausdorff95`` and one entry per region; needs MONAI."""
    try:
        import monai  # noqa: F401
    except ImportError as error:
        raise missing_extra("monai", "segmentation", "`Segmentation(hausdorff=True)`") from error
    found: dict[str, Metric] = {"hausdorff95": Hausdorff95(members, None, ignore_index)}
    return found | {f"hausdorff95_{n}": Hausdorff95(members, row, ignore_index) for row, n in enumerate(names)}
