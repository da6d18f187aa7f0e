"""Data Remixing: what its repository computes."""

from __future__ import annotations

import itertools
from typing import Any

import torch

from equimodal import Classification
from equimodal.methods import DataRemixing
from equimodal.testing import ToyData, plain_batch, plain_model
from tests.audit.differences import Shown, difference


@difference(
    "DataRemixing",
    repository="MatthewMaxy/Remix_ICML2025",
    commit="6ff72b9",
    title="order of the batches of an epoch",
    paper="Batches are reassembled so that each has samples of one modality.",
    release="All batches of video come first, then all of audio, in every epoch.",
)
def blocks() -> Shown:
    """How often the modality changes from one batch to the next; the paper's order is shuffled."""
    changes = {}
    for variant in ("paper", "released"):
        torch.manual_seed(0)
        model = plain_model({"a": 3, "b": 3}, 4, 2)
        method: Any = DataRemixing(model, Classification(2), warmup=0, variant=variant).double()
        source = ToyData([plain_batch({"a": 3, "b": 3}, 2, 160, 0)])
        source.loader.batch_size, source.loader.shuffle = 8, True
        method.on_train_epoch_start(source.context(0))
        order = [next(m for m in "ab" if b.count(m)) for b in source.epoch()]
        changes[variant] = sum(x != y for x, y in itertools.pairwise(order))
    assert changes["released"] == 1 < changes["paper"]
    return Shown(float(changes["paper"]), float(changes["released"]), "changes of modality in an epoch of 20 batches")
