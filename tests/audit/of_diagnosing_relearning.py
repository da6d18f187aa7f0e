"""Diagnosing and re-learning: what its repository computes."""

from __future__ import annotations

from typing import Any

import torch

from equimodal import Classification
from equimodal.methods import DiagnosingRelearning
from equimodal.testing import ToyData, plain_batch, plain_model
from tests.audit.differences import Shown, difference
from tests.helpers import sgd

REPOSITORY, COMMIT = "GeWu-Lab/Diagnosing_Relearning_ECCV2024", "025085e"


@difference(
    "DiagnosingRelearning",
    repository=REPOSITORY,
    commit=COMMIT,
    title="running statistics at a reset",
    paper="An encoder that is reset fully is as it was at the start.",
    release="Only named parameters are mixed, so running statistics of batch normalisation stay.",
)
def statistics() -> Shown:
    left = {}
    for variant in ("paper", "released"):
        torch.manual_seed(0)
        model = plain_model({"a": 3, "b": 3}, 4, 2, norm=True)
        method: Any = DiagnosingRelearning(model, Classification(2), every=1, strength=1e9, variant=variant)
        method.double().train()
        train, other = plain_batch({"a": 3, "b": 3}, 2, 24, 0), plain_batch({"a": 3, "b": 3}, 2, 24, 7)
        engine = sgd(method)
        for epoch in range(2):
            source = ToyData([train])
            source.plain = [other]
            method.on_train_epoch_start(source.context(epoch, engine=engine))
            if epoch == 0:
                method.training_step(train, engine)
        left[variant] = float(model.encoder("a")[1].running_mean.norm())  # type: ignore[index]
    return Shown(left["paper"], round(left["released"], 4), "running mean after a full reset, which began as 0")


@difference(
    "DiagnosingRelearning",
    repository=REPOSITORY,
    commit=COMMIT,
    title="resets in a training of the default length",
    paper="Encoders are reset three times, every 20 epochs; the released script sets 90 epochs for that.",
    release="Started without the script, the code has a default of 50 epochs, with room for two resets.",
)
def resets() -> Shown:
    release = len([epoch for epoch in range(50) if epoch and epoch % 20 == 0])
    assert release == 2
    return Shown(3.0, float(release), "resets")
