"""InfoReg: what its repository computes."""

from __future__ import annotations

import itertools
import math

import torch

from equimodal.functional import leads, regulation_strength
from tests.audit.differences import Shown, difference

REPOSITORY, COMMIT = "GeWu-Lab/InfoReg_CVPR2025", "939b2ed"


@difference(
    "InfoReg",
    repository=REPOSITORY,
    commit=COMMIT,
    title="the prime learning window",
    paper="A modality is in its window while the trace grows by more than K from epoch to epoch.",
    release="The change of a sum over ten epochs, which begins as zeros, is compared with that sum.",
)
def window() -> Shown:
    """A trace that stays at 1; K = 0.05 in the release."""
    traces, sums = [0.0] * 10, [0.0]
    for _ in range(15):
        traces.append(1.0)
        sums.append(sum(traces[-10:]))
    release = sum((now - before) / now > 0.05 for before, now in itertools.pairwise(sums))
    paper = sum((1.0 - 1.0) / 1.0 > 0.05 for _ in range(13))
    assert release == 10
    return Shown(float(paper), float(release), "epochs of 15 in the window, where the trace does not change")


@difference(
    "InfoReg",
    repository=REPOSITORY,
    commit=COMMIT,
    title="which of two modalities leads",
    paper="The strength depends on how far a modality leads.",
    release="It has a factor of 0.95 if audio leads, and of 0.1 if video does.",
)
def asymmetry() -> Shown:
    """A gap of 1 either way, beta = 1."""
    known = torch.tensor([True, True])
    paper = tuple(
        float(regulation_strength(leads(torch.tensor(s), known), 1.0).max()) for s in ([0.0, -1.0], [-1.0, 0.0])
    )
    release = (0.95 * math.exp(math.tanh(1.0)), 0.1 * math.exp(math.tanh(1.0)))
    assert paper[0] == paper[1]
    return Shown(
        tuple(round(a, 3) for a in paper), tuple(round(a, 3) for a in release), "strength if audio, if video leads"
    )


@difference(
    "InfoReg",
    repository=REPOSITORY,
    commit=COMMIT,
    title="the size of the score",
    paper="Scores are means over the batch.",
    release="They are sums over it, so a small lead counts as almost the largest one.",
)
def score() -> Shown:
    """A mean lead of 0.03, batch of 64."""
    lead = leads(torch.tensor([0.03, 0.0]), torch.tensor([True, True]))
    paper, release = math.tanh(float(lead[0])), math.tanh(64 * 0.03)
    return Shown(round(paper, 3), round(release, 3), "tanh of the lead, batches of 64")
