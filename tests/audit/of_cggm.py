"""Demonstrations about CGGM (Guo et al., NeurIPS 2024)."""

from __future__ import annotations

import torch
from torch import Tensor

from equimodal.functional import balance_terms, cosine_similarity
from tests.audit.differences import Shown, difference

REPOSITORY, COMMIT = "zrguo/CGGM", "d7890a8070c030f39ba2ebe5ee60f96cade10edb"


@difference(
    "CGGM", repository=REPOSITORY, commit=COMMIT,
    title="direction term",
    paper="Compares the gradients of the output layers of the fused head and of a modality's classifier.",
    release="Compares the weights of these layers, so that what the samples say does not enter.",
)  # fmt: skip
def weights_for_gradients() -> Shown:
    head = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    classifier = torch.tensor([[1.0, 0.5], [0.0, 1.0]])
    feature, residual = torch.tensor([1.0, 2.0]), torch.tensor([-0.5, 0.5])
    fused = torch.outer(residual, feature)
    paper: list[float] = []
    released: list[float] = []
    for own in (residual, -residual):  # the modality agrees with the fused prediction, and contradicts it
        paper.append(cosine(fused, torch.outer(own, feature)))
        released.append(cosine(head, classifier))
    return Shown(tuple(paper), tuple(released), "cosine for a modality that agrees, and for one that contradicts")


@difference(
    "CGGM", repository=REPOSITORY, commit=COMMIT,
    title="balance term",
    paper="A factor that is smaller for the modality that improves faster, with the others' share of the improvement.",
    release="Improvements are differences between two batches; their sum passes through 0, and factors have no bound.",
)  # fmt: skip
def unbounded_balance() -> Shown:
    improvement = torch.tensor([0.0625, -0.0624], dtype=torch.float64)  # four of 64 samples more, almost as many fewer
    safe = balance_terms(improvement, "paper", floor=1e-3)
    raw = balance_terms(improvement, "released")
    return Shown(rounded(safe), rounded(raw), "balance terms where accuracies changed by +6.25 and -6.24 points")


def cosine(a: Tensor, b: Tensor) -> float:
    return round(float(cosine_similarity(a.flatten(), b.flatten())), 4)


def rounded(t: Tensor) -> tuple[float, ...]:
    return tuple(round(float(x), 4) for x in t)
