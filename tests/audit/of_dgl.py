"""DGL: where the released code departs from the paper."""

from __future__ import annotations

import torch
from torch import nn

from tests.audit.differences import Shown, difference

REPOSITORY = {"repository": "shicaiwei123/ICCV2025-GDL", "commit": "b72a55f"}


@difference(
    "DGL",
    **REPOSITORY,
    title="the layers before a gate",
    paper="The fused loss trains the whole fusion, the maps before a gate included.",
    release="The fused loss is cut before these maps, which belong to the fusion, and their gradient of the unimodal "
    "losses is deleted, so they keep their initial weights.",
)
def gate() -> Shown:
    """A fusion out(sigmoid(x(a)) * y(b)) and one step; how far x moved."""
    moved = []
    for cut_before in (True, False):  # the cut is where the modality's own part ends
        torch.manual_seed(0)
        a, b = torch.randn(2, 8, 4).unbind()
        x, y, out = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 3)
        parts = x(a), y(b)
        fused = parts if cut_before else tuple(p.detach() for p in parts)
        output = out(torch.sigmoid(fused[0]) * fused[1])
        before = x.weight.detach().clone()
        optimizer = torch.optim.SGD([*x.parameters(), *y.parameters(), *out.parameters()], lr=0.1)
        torch.autograd.backward(nn.functional.cross_entropy(output, torch.arange(8) % 3))
        optimizer.step()
        moved.append(round(float((x.weight.detach() - before).abs().max()), 4))
    assert moved[0] > 0
    assert moved[1] == 0
    return Shown(paper=moved[0], release=moved[1], unit="largest change of the first map's weights in one step")
