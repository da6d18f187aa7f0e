"""Demonstrations about OPM (Wei et al., TPAMI 2024)."""

from __future__ import annotations

import torch

from equimodal.functional import discrepancy_ratios, opm_probabilities
from tests.audit.differences import Shown, difference

REPOSITORY, COMMIT = "GeWu-Lab/BML_TPAMI2024", "4b3aa4f"


@difference(
    "OPM", repository=REPOSITORY, commit=COMMIT,
    title="rescaled features",
    paper="Features are dropped and not rescaled.",
    release="All features are divided by one minus the mean of q over all of them: those of the modality that is never "
    "dropped become larger, and those of the other one stay too small on average.",
)  # fmt: skip
def rescaling() -> Shown:
    q = torch.tensor([0.6, 0.0], dtype=torch.float64)
    release = (1 - q) / (1 - q.mean())
    return Shown((0.4, 1.0), tuple(round(float(g), 3) for g in release), "mean gain of two modalities for q = (.6, 0)")


@difference(
    "OPM", repository=REPOSITORY, commit=COMMIT,
    title="length of the warm-up",
    paper="The settings name a warm-up of 5 epochs.",
    release="Its test is epoch <= 5 with epochs from 0, so the warm-up has 6.",
)  # fmt: skip
def warm_up() -> Shown:
    return Shown(float(sum(e < 5 for e in range(20))), float(sum(e <= 5 for e in range(20))), "epochs without a drop")


@difference(
    "OPM", repository=REPOSITORY, commit=COMMIT,
    title="first batch after the warm-up",
    paper="A batch is modulated with the probabilities of the batch before; the first one has none.",
    release="It is modulated with its own.",
)  # fmt: skip
def first_batch() -> Shown:
    ratios = discrepancy_ratios(torch.tensor([0.6, 0.3], dtype=torch.float64))
    return Shown(
        0.0, round(float(opm_probabilities(ratios, 0.5, 0.5)[0]), 4), "q of a modality with score .6 beside .3"
    )
