"""MASAM: where the released code departs from what is known of the paper."""

from __future__ import annotations

import argparse

import torch

from tests.audit.differences import Shown, difference

REPOSITORY = {"repository": "Orange2107/MASAM-Multimodal-Adaptive-SAM", "commit": "713f931"}


@difference(
    "MASAM",
    **REPOSITORY,
    title="the share of the score under the published command",
    paper="The configuration of CREMA-D weighs the two parts of the score by 0.8 and 0.2.",
    release="Every default of the command line overwrites the configuration, and the published command gives neither.",
)
def share() -> Shown:
    """A configuration of 0.8 and a command line with a default of 0.5 that is not given."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--alpha", type=float, default=0.5)
    configuration = {"alpha": 0.8}
    paper = configuration["alpha"]
    configuration |= vars(parser.parse_args([]))
    return Shown(paper=paper, release=configuration["alpha"], unit="weight of the loss's decay in the score")


@difference(
    "MASAM",
    **REPOSITORY,
    title="gradients that oppose each other",
    paper="The radius is multiplied by the cosine of the whole encoder's gradients, small where they agree little.",
    release="The factor is the cosine of the last tensor where it is above 0, else 1: the full radius.",
)
def opposed() -> Shown:
    """Two tensors whose unimodal gradients have a cosine of -0.4 with the fused ones; radius 0.3."""
    fused = [torch.tensor([1.0, 0.0]), torch.tensor([1.0, 0.0])]
    own = [torch.tensor([-0.4, (1 - 0.4**2) ** 0.5])] * 2
    whole = torch.dot(torch.cat(fused), torch.cat(own)) / torch.cat(fused).norm() / torch.cat(own).norm()
    paper = 0.3 * max(float(whole), 0.0)
    along = [g if torch.dot(g, h) < 0 else torch.dot(g, h) * g for g, h in zip(fused, own, strict=True)]
    last = float(torch.cosine_similarity(fused[-1], own[-1], dim=0))
    moved = torch.cat(along) / torch.cat(along).norm() * 0.3 * (last if last > 0 else 1.0)
    return Shown(paper=round(paper, 4), release=round(float(moved.norm()), 4), unit="length of the perturbation")
