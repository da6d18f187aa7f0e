"""Demonstrations about G-Blend (Wang, Tran and Feiszli, CVPR 2020) and its ports."""

from __future__ import annotations

import torch

from equimodal.functional import blending_weights
from tests.audit.differences import Shown, difference

TRAINING = ((0.6, 0.8), (0.4, 0.5))  # mean losses of two heads before and after
VALIDATION = ((0.8, 0.9), (0.7, 0.85))


def first_weight(training_batches: int, validation_batches: int) -> float:
    """Of losses that are sums over so many batches."""
    training = [torch.tensor(row, dtype=torch.float64) * training_batches for row in TRAINING]
    validation = [torch.tensor(row, dtype=torch.float64) * validation_batches for row in VALIDATION]
    half = torch.full((2,), 0.5, dtype=torch.float64)
    w = blending_weights((training[0], training[1]), (validation[0], validation[1]), half, floor=1e-12)
    return round(float(w[0]), 4)


@difference(
    "GBlend in BalanceBenchmark", repository="GeWu-Lab/BalanceBenchmark", commit="4c1482f",
    title="sums over batches",
    paper="Overfitting is the difference of two mean losses, whatever the number of samples.",
    release="Both losses are sums over batches, so the weights change with the size of the validation set.",
)  # fmt: skip
def sums() -> Shown:
    release = (first_weight(100, 100), first_weight(100, 20), first_weight(100, 10))
    return Shown(first_weight(1, 1), release, "first of two weights; 100 training and 100, 20, 10 validation batches")


@difference(
    "GBlend in MultiBench", repository="pliang279/MultiBench", commit="09a2219",
    title="levels in the place of differences",
    paper="Gain and overfitting are differences between two points of training.",
    release="Without its option for differences it takes the levels at one point, with an overfitting of at least "
    "1e-4: a head whose validation loss is below its training loss has all the weight.",
)  # fmt: skip
def levels() -> Shown:
    before = (torch.tensor([0.901, 1.0]), torch.tensor([0.9, 1.0]))  # training and validation
    after = (torch.tensor([0.901, 0.5]), torch.tensor([0.9, 0.7]))  # the first head gained nothing
    release = after[1] / (after[1] - after[0]).clamp_min(1e-4).square()
    paper = blending_weights((before[0], after[0]), (before[1], after[1]), torch.tensor([0.5, 0.5]))
    share = float(release[0] / release.sum())
    return Shown(float(paper[0]), round(share, 4), "weight of a head that gained nothing; the other gained .3")
