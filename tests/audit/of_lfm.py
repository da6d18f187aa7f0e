"""LFM: what its repository computes."""

from __future__ import annotations

import torch

from equimodal.functional import alignment_share, divergence_from_mean, jensen_shannon, released_alignment_share
from tests.audit.differences import Shown, difference

REPOSITORY, COMMIT = "njustkmg/NeurIPS24-LFM", "ad44fa0"


@difference(
    "LFM",
    repository=REPOSITORY,
    commit=COMMIT,
    title="weight of the alignment late in training",
    paper="The weight of the alignment falls from 0.632 towards 0.",
    release="It is one minus a fitted polynomial, which exceeds 1 in epochs 177 to 188.",
)
def schedule() -> Shown:
    paper, release = alignment_share(183), released_alignment_share(183)
    assert release < 0 < paper
    return Shown(round(paper, 4), round(release, 4), "weight of the alignment in epoch 183")


@difference(
    "LFM",
    repository=REPOSITORY,
    commit=COMMIT,
    title="the divergence between two predictions",
    paper="A Jensen-Shannon divergence is at most log 2.",
    release="The two arguments of each divergence are exchanged, so it grows without bound.",
)
def divergence() -> Shown:
    """p = (1 - 1e-7, 1e-7) and its mirror image."""
    p = torch.tensor([[1 - 1e-7, 1e-7]], dtype=torch.float64)
    paper, release = (float(f(p.log(), p.flip(1).log())) for f in (jensen_shannon, divergence_from_mean))
    return Shown(round(paper, 4), round(release, 4), "divergence in nats, modalities sure of different classes")


@difference(
    "LFM",
    repository=REPOSITORY,
    commit=COMMIT,
    title="how far the learned mix can move",
    paper="The mix of the two losses is learned on held-out samples.",
    release="One step per epoch, of a rate of 1e-4 that halves every 20 epochs: gradients of size 1 move it "
    "from 0.95 by less than 0.004 in 200 epochs.",
)
def learned_mix() -> Shown:
    share = 0.95
    for epoch in range(200):
        share = min(max(share - 1e-4 * 0.5 ** (epoch // 20) * 1.0, 0.05), 0.95)
    assert share > 0.946
    return Shown(0.05, round(share, 4), "lowest weight of the alignment that can be reached, allowed from 0.05")
