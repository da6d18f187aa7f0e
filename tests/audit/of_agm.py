"""Demonstrations about AGM (Li et al., ICCV 2023)."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from equimodal.functional import agm_coefficients
from tests.audit.differences import Shown, difference

REPOSITORY, COMMIT = "lihong2303/AGM_ICCV2023", "5a65542"


@difference(
    "AGM", repository=REPOSITORY, commit=COMMIT,
    title="scales outlive their window",
    paper="Gradients are modulated in a window of epochs.",
    release="Hooks multiply every gradient by a stored scale, which is only rewritten inside the window: from epoch 21 "
    "on the scale of the last batch of epoch 20 stays in force.",
)  # fmt: skip
def window() -> Shown:
    factors: dict[str, float] = {}
    for rule in ("paper", "release"):
        scale = 1.0
        for epoch in range(1, 22):  # epochs 1 to 20 are modulated
            inside = epoch <= 20
            scale = 0.5 if inside else 1.0 if rule == "paper" else scale
        x = torch.ones((), requires_grad=True)
        y = 3 * x
        y.register_hook(lambda g, s=scale: g * s)  # type: ignore[no-untyped-call]
        y.backward()  # type: ignore[no-untyped-call]
        factors[rule] = float(x.grad if x.grad is not None else Tensor([math.nan])) / 3
    return Shown(factors["paper"], factors["release"], "factor on a gradient in epoch 21, after 1/2 in epoch 20")


@difference(
    "AGM", repository=REPOSITORY, commit=COMMIT,
    title="cap of the difference",
    paper="One rule for all datasets; the script of CREMA-D bounds the difference of the ratios by 10.",
    release="The script of UR-Funny bounds it by 7, those of AVE, AV-MNIST and MOSEI do not.",
)  # fmt: skip
def caps() -> Shown:
    twelve, nothing = torch.tensor([12.0], dtype=torch.float64), torch.zeros(1, dtype=torch.float64)
    paper, seven, none = (float(agm_coefficients(nothing, twelve, 1.0, cap).log()) for cap in (10.0, 7.0, math.inf))
    return Shown(paper, (seven, none), "logarithm of the scale for a difference of 12 (UR-Funny, MOSEI)")
