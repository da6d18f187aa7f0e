"""G2D: where the released code departs from the paper."""

from __future__ import annotations

import torch
from torch import nn

from equimodal.methods.parts import feature_gap
from tests.audit.differences import Shown, difference

REPOSITORY = {"repository": "rAIson-Lab/G2D", "commit": "95969d8"}


@difference(
    "G2D",
    **REPOSITORY,
    title="the size of the feature term",
    paper="The term is the squared distance between two feature vectors, a sum over their entries.",
    release="It is the mean over the entries, with the same weight of 1.",
)
def feature_term() -> Shown:
    """Features of 512 numbers that differ by 1 each."""
    z, t = torch.ones(4, 512), torch.zeros(4, 512)
    paper, release = float(feature_gap(z, t, "sum").mean()), float(feature_gap(z, t, "mean").mean())
    return Shown(paper=paper, release=release, unit="feature term of vectors that differ by 1 in each of 512 entries")


@difference(
    "G2D",
    **REPOSITORY,
    title="teachers of equal score",
    paper="Modalities are ranked by the confidence of their teachers.",
    release="The index of the highest score is read as one number, and equal scores give two.",
)
def equal_scores() -> Shown:
    """Two scores of 0.5, of which the highest are looked up."""
    scores = torch.tensor([0.5, 0.5])
    found = "a ranking"
    try:
        int((scores == scores.max()).nonzero())
    except (ValueError, RuntimeError):
        found = "an error"
    return Shown(paper="a ranking", release=found, unit="what two equal scores give")


@difference(
    "G2D",
    **REPOSITORY,
    title="the encoder that waits",
    paper="The encoder of the stronger modality does not train in the first stage.",
    release="Gradients of tensors with four axes are set to zero; the others train, and weight decay acts on all.",
)
def waiting() -> Shown:
    """Largest change of a convolution and of a linear layer in one step with weight decay."""
    found = []
    for released in (False, True):
        torch.manual_seed(0)
        net = nn.Sequential(nn.Conv2d(1, 2, 2), nn.Flatten(), nn.Linear(2, 3))
        before = [p.detach().clone() for p in net.parameters()]
        torch.autograd.backward(nn.functional.cross_entropy(net(torch.randn(4, 1, 2, 2)), torch.arange(4) % 3))
        for p in net.parameters():
            if not released:
                p.grad = None
            elif p.ndim == 4 and p.grad is not None:
                p.grad.zero_()
        torch.optim.SGD(net.parameters(), lr=0.1, weight_decay=0.1).step()
        change = [float((p.detach() - b).abs().max()) for p, b in zip(net.parameters(), before, strict=True)]
        found.append((round(change[0], 4), round(change[2], 4)))
    assert found[0] == (0.0, 0.0)
    assert min(found[1]) > 0
    return Shown(paper=found[0], release=found[1], unit="largest change in a step: convolution; linear layer")
