"""Demonstrations about IPRM (IJCAI 2025), which the library does not have."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.functional import cross_entropy

from tests.audit.differences import Shown, difference


@difference(
    "IPRM", repository="njustkmg/IJCAI25-IPRM", commit="0bb457fe69320948bf37061c836b516bbcb236e9",
    title="head of the third modality",
    paper="Every modality has a head of its own, with a loss.",
    release="With three modalities the features of the third go through the second's head: its own is never trained.",
)  # fmt: skip
def third_head() -> Shown:
    moved = []
    for used in (2, 1):  # whose head reads the third modality
        torch.manual_seed(0)
        heads = nn.ModuleList(nn.Linear(4, 3) for _ in range(3))
        features, target = torch.randn(3, 6, 4), torch.arange(6) % 3
        outputs = [heads[0](features[0]), heads[1](features[1]), heads[used](features[2])]
        torch.stack([cross_entropy(z, target) for z in outputs]).sum().backward()  # type: ignore[no-untyped-call]
        gradient = heads[2].weight.grad
        moved.append(0.0 if gradient is None else round(float(gradient.norm()), 4))  # type: ignore[operator]
    return Shown(moved[0], moved[1], "norm of the gradient of the third head")
