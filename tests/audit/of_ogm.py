"""Demonstrations about OGM-GE (Peng et al., CVPR 2022)."""

from __future__ import annotations

import math

import torch
from torch import nn

from equimodal.functional import discrepancy_ratios, ogm_coefficients
from tests.audit.differences import Shown, difference

REPOSITORY, COMMIT = "GeWu-Lab/OGM-GE_CVPR2022", "343dc1d"


@difference(
    "OGM", repository=REPOSITORY, commit=COMMIT,
    title="equal scores",
    paper="A modality is damped where its ratio is above 1; with equal scores neither is.",
    release="The second branch of an if takes all that is not above 1, so with equal scores audio is damped.",
)  # fmt: skip
def tie() -> Shown:
    ratios = discrepancy_ratios(torch.tensor([0.4, 0.4], dtype=torch.float64))
    release = (1 - math.tanh(0.8 * float(ratios[0])), 1.0) if not float(ratios[1]) > 1 else (1.0, 0.0)
    paper = ogm_coefficients(ratios, 0.8)
    return Shown((float(paper[0]), float(paper[1])), (round(release[0], 4), release[1]), "factors of (audio, video)")


@difference(
    "OGM", repository=REPOSITORY, commit=COMMIT,
    title="layers that are modulated",
    paper="The update of the encoder's parameters is modulated.",
    release="Only gradients with four dimensions are: of an encoder without 2D convolutions, none.",
)  # fmt: skip
def four_dimensions() -> Shown:
    encoder = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    encoder(torch.ones(2, 3, 8)).sum().backward()
    sizes = [(p.numel(), p.grad is not None and p.grad.ndim == 4) for p in encoder.parameters()]
    share = sum(n for n, touched in sizes if touched) / sum(n for n, _ in sizes)
    return Shown(1.0, share, "share of a transformer's parameters whose gradient is modulated")


@difference(
    "OGM", repository=REPOSITORY, commit=COMMIT,
    title="noise",
    paper="The noise has the covariance of the mini-batch gradient: none where all samples have the same gradient.",
    release="Its standard deviation is that of the entries of the gradient tensor, whatever the samples agree on.",
)  # fmt: skip
def spread_of_entries() -> Shown:
    single = torch.tensor([[1.0, 3.0]] * 4, dtype=torch.float64)  # four samples with equal gradients of two entries
    of_batch = ((single - single.mean(0)).square().sum(0) / len(single) ** 2).sqrt()
    of_entries = single.mean(0).std()
    return Shown(float(of_batch.max()), round(float(of_entries), 4), "standard deviation of the noise of an entry")


@difference(
    "OGM in simple_mml", repository="TillmannRheude/simple_mml_baseline", commit="9eb533f",
    title="sum of the other scores",
    paper="Extended to three modalities by the authors (TPAMI 2024), a score is compared with each of the others.",
    release="A score is divided by the sum of the others, so balance is 1/2 and twice as good as each other is 1.",
)  # fmt: skip
def sum_of_others() -> Shown:
    scores = torch.tensor([0.6, 0.3, 0.3], dtype=torch.float64)
    paper = ogm_coefficients(discrepancy_ratios(scores), 0.8)[0]
    release = ogm_coefficients((scores / (scores.sum() - scores)).round(decimals=12), 0.8)[0]
    return Shown(round(float(paper), 4), float(release), "factor of the first of three modalities, scores .6, .3, .3")
