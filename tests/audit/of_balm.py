"""Demonstrations about BALM (CVPR 2026), which the library does not have."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity

from tests.audit.differences import Shown, difference

REPOSITORY, COMMIT = "np4s/BALM_CVPR2026", "d3f12a152e51117b184ef1dfb990335e525a83b7"


@difference(
    "BALM", repository=REPOSITORY, commit=COMMIT,
    title="sign of the coefficients",
    paper="Gradients of the encoders are rebalanced: the more a modality gains, the smaller its share (losses as 0).",
    release="The sum of the gains may be near 0 or negative; then an encoder's gradient is turned around.",
)  # fmt: skip
def turned_gradients() -> Shown:
    gain, strength = torch.tensor([0.10, -0.05, -0.04], dtype=torch.float64), 1.3
    total = gain.sum() + 1e-8
    released = strength * (total - gain) / total
    kept = gain.clamp_min(0)  # a reading with bounds: gains only, and factors in [0, 1.3]
    bounded = (strength * (kept.sum() - kept) / kept.sum()).clamp(0, strength)
    return Shown(rounded(bounded), rounded(released), "factors on three encoders with gains 0.10, -0.05, -0.04")


@difference(
    "BALM", repository=REPOSITORY, commit=COMMIT,
    title="direction term",
    paper="Compares directions of gradients, as the names in the code say, too.",
    release="Compares the weights of these layers; the gradients do not enter.",
)  # fmt: skip
def weights_for_gradients() -> Shown:
    weight, own = torch.tensor([1.0, 0.0, 1.0]), torch.tensor([1.0, 1.0, 1.0])
    gradient = torch.tensor([0.2, -0.1, 0.3])
    paper = tuple(round(float(cosine_similarity(gradient, g, 0)), 4) for g in (gradient, -gradient))
    released = tuple(round(float(cosine_similarity(weight, own, 0)), 4) for _ in range(2))
    return Shown(paper, released, "cosine before and after the classifier's gradient has turned around")


def rounded(t: Tensor) -> tuple[float, ...]:
    return tuple(round(float(x), 3) for x in t)
