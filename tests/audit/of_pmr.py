"""Demonstrations about PMR (Fan et al., CVPR 2023)."""

from __future__ import annotations

import torch

from equimodal.functional import pmr_coefficients
from tests.audit.differences import Shown, difference

REPOSITORY, COMMIT = "fanyunfeng-bit/Modal-Imbalance-PMR", "3615e48"


@difference(
    "PMR", repository=REPOSITORY, commit=COMMIT,
    title="coefficient",
    paper="The pull to the prototypes grows with the gap between the scores, from 0 to 1.",
    release="It is 0 or alpha: the smallest gap pulls as hard as the largest.",
)  # fmt: skip
def switch() -> Shown:
    beta, _ = pmr_coefficients(torch.tensor([0.50, 0.51], dtype=torch.float64))
    return Shown(round(float(beta[0]), 4), float(beta[0] > 0), "coefficient of a modality with score .50 beside .51")


@difference(
    "PMR", repository=REPOSITORY, commit=COMMIT,
    title="entropy term",
    paper="In the early epochs the entropy of the leading modality's prototype classifier is raised.",
    release="The term is absent.",
)  # fmt: skip
def entropy() -> Shown:
    _, gamma = pmr_coefficients(torch.tensor([0.4, 0.6], dtype=torch.float64))
    return Shown(round(float(gamma[1]), 4), 0.0, "weight of the entropy, in mu, of a modality with score .6 beside .4")


@difference(
    "PMR", repository=REPOSITORY, commit=COMMIT,
    title="class without a sample",
    paper="A prototype is the mean over the samples of its class.",
    release="It is divided by their number also where that is 0, and the average over epochs keeps the NaN for ever, "
    "which reaches the distances of every sample.",
)  # fmt: skip
def nan() -> Shown:
    nothing = torch.zeros(2) / torch.zeros(1)  # first epoch
    later = 0.2 * nothing + 0.8 * torch.tensor([1.0, 2.0])  # second epoch, which has samples of the class
    assert bool(later.isnan().all())
    return Shown((1.0, 2.0), "NaN", "prototype of a class that is first seen in the second epoch")
