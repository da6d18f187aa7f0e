"""DGL: where the released code departs from the paper."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from equimodal import Batch, Classification, MultimodalModel, PlainEngine
from equimodal.fusion import Concat
from equimodal.methods import DGL
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


@difference(
    "DGL",
    **REPOSITORY,
    title="the weight under Adam",
    paper="The weight of the unimodal losses is a strength that is chosen for each dataset.",
    release="As in the paper; it is a learning rate of the encoders, which an optimizer of Adam's kind cancels.",
)
def adam() -> Shown:
    """How many times further the encoders move in one step with a weight of 4 than with 1."""
    ratios = []
    kinds: list[Any] = [torch.optim.SGD, torch.optim.Adam]
    for kind in kinds:
        moved = []
        for weight in (1.0, 4.0):
            torch.manual_seed(0)
            encoders: dict[str, Any] = {"a": nn.Linear(5, 4), "b": nn.Linear(3, 4)}
            model = MultimodalModel(encoders, Concat({"a": 4, "b": 4}), nn.Linear(8, 3)).double()
            before = {m: e.weight.detach().clone() for m, e in encoders.items()}
            batch = Batch({"a": torch.randn(6, 5).double(), "b": torch.randn(6, 3).double()}, torch.arange(6) % 3)
            engine = PlainEngine(kind(model.parameters(), lr=1e-3))
            DGL(model, Classification(3), weight=weight).training_step(batch, engine)
            moved.append(sum(float((e.weight.detach() - before[m]).norm()) for m, e in encoders.items()))
        ratios.append(round(moved[1] / moved[0], 3))
    return Shown(paper=ratios[0], release=ratios[1], unit="step of the encoders at weight 4 over that at 1 (SGD; Adam)")
