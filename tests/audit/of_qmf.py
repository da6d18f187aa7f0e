"""QMF: the margin of its ranking, and its first batch."""

from __future__ import annotations

import math

import torch

from equimodal import Batch, Classification, PlainEngine
from equimodal.functional import confidence_ranking
from equimodal.methods import QMF
from tests.audit.differences import Shown, difference
from tests.helpers import plain_batch, plain_model

REPOSITORY, COMMIT = "QingyangZhang/QMF", "fe6c4c6"


@difference(
    "QMF",
    repository=REPOSITORY,
    commit=COMMIT,
    title="margin of the ranking loss",
    paper="A sample whose losses so far are larger must be less confident, by a margin: two equal confidences cost it.",
    release="The second confidence is shifted to the other side, so the margin is slack: equal ones cost nothing.",
)
def the_margin_is_slack() -> Shown:
    past, equal = torch.tensor([2.0, 1.0]), torch.tensor([0.4, 0.4])
    # the release: a margin ranking loss of zero margin whose second confidence is shifted by margin / sign
    other, sign = past.roll(-1), torch.sign(past - past.roll(-1))
    shifted = equal.roll(-1) + (past - other).abs() / sign
    released = torch.nn.functional.margin_ranking_loss(equal, shifted, -sign)
    ours = [confidence_ranking(equal, past, past.min(), past.max(), m) for m in ("required", "slack")]
    assert float(ours[1]) == float(released)
    return Shown(float(ours[0]), float(released), "loss of two samples with past losses 2 and 1 and equal confidence")


@difference(
    "QMF",
    repository=REPOSITORY,
    commit=COMMIT,
    title="the first batch",
    paper="Ranks samples by the losses that they had, which are finite from the first batch on.",
    release="The script for RGB-D ranks before it stores a loss; the history is zero and its normalisation 0/0.",
)
def the_first_batch() -> Shown:
    torch.manual_seed(0)
    history = torch.zeros(6)
    normalised = (history - history.min()) / (history.max() - history.min())
    margin = (normalised - normalised.roll(-1)).abs()
    released = torch.nn.functional.margin_ranking_loss(torch.rand(6), torch.rand(6) + margin, torch.ones(6))
    assert math.isnan(released)
    sizes = {"image": 4, "depth": 3}
    method = QMF(plain_model(sizes, 5, 3), Classification(3))
    batch: Batch = plain_batch(sizes, 3, 6, 0)
    report = method.training_step(batch, PlainEngine(torch.optim.SGD(method.parameters(), lr=0.1)))
    return Shown(float(report.losses["rank/image"]), "NaN", "ranking loss of the first batch")
