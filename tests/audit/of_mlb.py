"""Demonstrations about MLB (Kontras et al., BMVC 2024)."""

from __future__ import annotations

import torch

from equimodal.functional import mlb_coefficients
from tests.audit.differences import Shown, difference


@difference(
    "MLB", repository="kkontras/MCR", commit="338d370",
    title="beta below 1",
    paper="A modality that lags is sped up.",
    release="The run file of UCF-101 has beta = 0.5, with which it is slowed.",
)  # fmt: skip
def beta() -> Shown:
    lags = torch.tensor([2.0], dtype=torch.float64)  # the other one's score is twice its own
    paper, release = (float(mlb_coefficients(lags, 1.0, b)) for b in (2.0, 0.5))
    assert release < 1 < paper
    return Shown(round(paper, 4), round(release, 4), "factor of a modality with half the score, alpha 1, beta 2 and .5")
