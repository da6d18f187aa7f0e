"""AUG: where the released code departs from the paper."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from equimodal import Batch, Classification, MultimodalModel, PlainEngine
from equimodal.fusion import Concat
from equimodal.methods import AUG, EpochContext
from tests.audit.differences import Shown, difference

REPOSITORY = {"repository": "njustkmg/NeurIPS25-AUG", "commit": "841d079eff52a1f381d15da3a702ac8440e9db61"}


def second_classifier(variant: Any) -> float:
    """How far the projection of a second classifier moves in 100 steps."""
    torch.manual_seed(0)
    encoders: dict[str, nn.Module] = {"a": nn.Linear(5, 4), "b": nn.Linear(3, 4)}
    model = MultimodalModel(encoders, Concat({"a": 4, "b": 4}), nn.Linear(8, 3)).double()
    method = AUG(model, Classification(3), variant=variant, hidden=8)
    method.classifiers.counts = [2, 2]
    batch = Batch({"a": torch.randn(6, 5).double(), "b": torch.randn(6, 3).double()}, torch.arange(6) % 3)
    layer: Any = method.classifiers.projections_of("a")[1]
    before = layer.weight.detach().clone()
    engine = PlainEngine(torch.optim.SGD(method.parameters(), 0.01, momentum=0.9, weight_decay=1e-4))
    method.on_train_epoch_start(EpochContext(0))
    for _ in range(100):
        method.training_step(batch, engine)
    return round(float((layer.weight.detach() - before).abs().max()), 4)


@difference(
    "AUG",
    **REPOSITORY,
    title="classifiers after the first",
    paper="The newest classifier is trained on the residual target.",
    release="The optimizer is made before training and is not given the classifiers that are appended later.",
)
def appended() -> Shown:
    """A hundred steps with two classifiers."""
    paper, release = second_classifier("paper"), second_classifier("released")
    assert paper > 0
    assert release == 0
    return Shown(paper=paper, release=release, unit="largest change of the second projection in 100 steps")


@difference(
    "AUG",
    **REPOSITORY,
    title="the prediction of which the residual is taken",
    paper="The residual subtracts the probability of each earlier classifier by itself.",
    release="It subtracts half of the softmax of the earlier classifiers' summed outputs.",
)
def residual() -> Shown:
    """Two earlier classifiers with outputs (1, 0) each, true class 0, lambda 0.5."""
    u = torch.tensor([1.0, 0.0], dtype=torch.float64)
    paper = 1 - 0.5 * 2 * float(u.softmax(0)[0])
    release = 1 - 0.5 * float((2 * u).softmax(0)[0])
    return Shown(paper=round(paper, 4), release=round(release, 4), unit="residual target of the true class")
