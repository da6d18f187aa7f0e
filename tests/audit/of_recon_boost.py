"""ReconBoost: what its repository computes."""

from __future__ import annotations

from typing import Any

import torch

from equimodal import Classification
from equimodal.functional import known_share
from equimodal.methods import EpochContext, ReconBoost
from equimodal.testing import plain_batch, plain_model
from tests.audit.differences import Shown, difference
from tests.helpers import make_batch, make_method, sgd, weights

REPOSITORY, COMMIT = "huacong/ReconBoost", "441eb51"


@difference(
    "ReconBoost",
    repository=REPOSITORY,
    commit=COMMIT,
    title="the agreement with the modality before",
    paper="Agreement with the modality of the stage before is part of what a stage minimises.",
    release="Both arguments of the mean squared error are detached, so the term has no gradient.",
)
def agreement() -> Shown:
    moved = {}
    for variant in ("paper", "released"):
        ends = []
        for weight in (0.0, 100.0):
            method = make_method("ReconBoost", 2, variant=variant, agreement=weight, stage_epochs=1, rectify_epochs=1)
            engine = sgd(method, momentum=0.0)
            for epoch in range(3):
                method.on_train_epoch_start(EpochContext(epoch, engine=engine))
                method.training_step(make_batch(2), engine)
            ends.append(torch.cat([t.flatten() for t in weights(method.model).values()]))
        moved[variant] = float((ends[0] - ends[1]).norm())
    assert moved["released"] == 0.0 < moved["paper"]
    return Shown(round(moved["paper"], 4), moved["released"], "how far the term moves the encoders in one step")


@difference(
    "ReconBoost",
    repository=REPOSITORY,
    commit=COMMIT,
    title="the first stage",
    paper="Without a learner before it, the ensemble predicts nothing: all classes alike.",
    release="The ensemble is one random number in one column, whose softmax is 1 at every class.",
)
def first_stage() -> Shown:
    """w1 = 5, w2 = 1, C = 6, in the release without pre-trained encoders."""
    output, target = torch.randn(4, 6, dtype=torch.float64), torch.arange(4)
    log_p = torch.log_softmax(output, 1).gather(1, target[:, None])[:, 0]
    paper = (5 * -log_p + known_share(output, torch.zeros_like(output), target)) / 6
    release = (5 * -log_p + torch.full((4, 1), 0.3).softmax(1)[:, 0] * log_p) / 6
    weights_ = [float((loss / -log_p).mean()) for loss in (paper, release)]
    assert abs(weights_[0] - (5 - 1 / 6) / 6) < 1e-9
    assert abs(weights_[1] - 4 / 6) < 1e-9
    return Shown(round(weights_[0], 4), round(weights_[1], 4), "weight of the cross-entropy, 6 classes")


@difference(
    "ReconBoost",
    repository=REPOSITORY,
    commit=COMMIT,
    title="modalities whose turn it is not",
    paper="One modality is updated at a time; the others are fixed.",
    release="The others run in training mode, so the running statistics of their batch normalisation move.",
)
def statistics() -> Shown:
    moved = {}
    for variant in ("paper", "released"):
        torch.manual_seed(0)
        model = plain_model({"a": 3, "b": 3}, 4, 2, norm=True)
        method: Any = ReconBoost(model, Classification(2), variant=variant, stage_epochs=1, rectify_epochs=1)
        method.double().train()
        engine = sgd(method)
        for epoch in range(3):
            before = weights(model.encoder("a"))
            method.on_train_epoch_start(EpochContext(epoch, engine=engine))
            method.training_step(plain_batch({"a": 3, "b": 3}, 2, 8, epoch), engine)
        after = weights(model.encoder("a"))
        moved[variant] = sum(float((after[n] - t).norm()) for n, t in before.items() if "running_mean" in n)
    return Shown(moved["paper"], round(moved["released"], 4), "how far the running mean of the other encoder moves")
