"""Demonstrations about MIE, also named IGM (IJCAI 2025)."""

from __future__ import annotations

import torch
from torch import nn

from equimodal.methods.released import perturbed_loss
from tests.audit.differences import Shown, difference

REPOSITORY, COMMIT = "njustkmg/IJCAI25-IGM", "19aa8e5d99c9d4ff447ff2e5804a6c40d6ae9911"


@difference(
    "MIE", repository=REPOSITORY, commit=COMMIT,
    title="size of the perturbation",
    paper="The second loss is taken at weights moved by a radius along the gradient (0.05 in this library).",
    release="The radius is 1e-10, which a float32 weight of size 1 does not notice.",
)  # fmt: skip
def too_small_to_move() -> Shown:
    weight = nn.Parameter(torch.ones(1))
    loss = 3 * weight.sum()
    gradient = torch.autograd.grad(loss, weight, retain_graph=True)[0]
    paper = float((weight + 0.05 * gradient / gradient.norm() - weight).detach())
    before = weight.detach().clone()
    perturbed_loss(loss, lambda: 3 * weight.sum(), [weight], 0.5)
    return Shown(round(paper, 6), float(weight.detach() - before), "how far a weight of 1 moves")


@difference(
    "MIE", repository=REPOSITORY, commit=COMMIT,
    title="end of the perturbation",
    paper="The step starts from the weights before the perturbation.",
    release="The perturbation is not taken back: the step starts from the moved weights.",
)  # fmt: skip
def never_undone() -> Shown:
    weight = nn.Parameter(torch.full((1,), 1e-9, dtype=torch.float64))  # small enough to see it
    before = float(weight.detach())
    perturbed_loss(3 * weight.sum(), lambda: 3 * weight.sum(), [weight], 0.5)
    return Shown(0.0, round(float(weight.detach()) - before, 15), "displacement of a weight after the two passes")
