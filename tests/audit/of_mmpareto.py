"""Demonstrations about MMPareto (Wei and Hu, ICML 2024)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from equimodal.functional import norm_restoration, pareto_weights
from tests.audit.differences import Shown, difference

REPOSITORY, COMMIT = "GeWu-Lab/MMPareto_ICML2024", "a339db3"


@difference(
    "MMPareto", repository=REPOSITORY, commit=COMMIT,
    title="length restored per tensor",
    paper="The common direction of an encoder is scaled as a whole to the length of the sum of both gradients.",
    release="Each tensor is scaled by itself, and only where that makes it longer, so the direction turns.",
)  # fmt: skip
def per_tensor() -> Shown:
    g = torch.tensor([[1.0, 0.0], [-0.5, 1.0]], dtype=torch.float64)  # an encoder of two tensors of one element
    gram = g @ g.T
    w = pareto_weights(gram)
    h, total = 2 * w @ g, g.sum(0)
    paper = norm_restoration(gram, w) * h
    release = h * (total.abs() / h.abs()).clamp_min(1)
    assert abs(float(paper[1] / paper[0]) - 1.5) < 1e-12
    return Shown(rounded(paper), rounded(release), "step along each of two tensors")


@difference(
    "MMPareto", repository=REPOSITORY, commit=COMMIT,
    title="rate never decays",
    paper="The settings name a decay of the learning rate by 0.1 after 30 epochs.",
    release="The scheduler is made and passed on, and its step() is never called: the rate stays as it was.",
)  # fmt: skip
def no_decay() -> Shown:
    rates = []
    for stepped in (True, False):
        optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=2e-3)
        scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 30, 0.1)
        for _ in range(31):
            optimizer.step()
            if stepped:
                scheduler.step()
        rates.append(optimizer.param_groups[0]["lr"])
    return Shown(round(rates[0], 6), rates[1], "learning rate in epoch 31 of 50")


@difference(
    "MMPareto", repository=REPOSITORY, commit=COMMIT,
    title="gamma without conflict",
    paper="Unimodal assistance changes a step where gradients conflict.",
    release="Where they agree, too, the encoder's step is 1.5 times the sum of the gradients: a larger rate.",
)  # fmt: skip
def gamma_always() -> Shown:
    g = torch.tensor([[1.0, 2.0], [1.0, 2.0]], dtype=torch.float64)
    w = pareto_weights(g @ g.T)
    steps = {gamma: float((gamma * 2 * w @ g)[0]) for gamma in (1.0, 1.5)}
    return Shown(steps[1.0], steps[1.5], "step of SGD with rate 1 for two equal gradients (1, 2), first entry")


def rounded(t: Tensor) -> tuple[float, ...]:
    return tuple(round(float(x), 4) for x in t)
