"""AUG against the loss of the paper written out, the assignment of classifiers, and the released rule."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from equimodal import PlainEngine
from equimodal.errors import MethodError, ScheduleWarning, UnsupportedError
from equimodal.methods import AUG, EpochContext
from equimodal.tasks import MultiLabel
from tests.helpers import assert_identical, assert_near, weights
from tests.methods.affine import (
    CLASSES,
    batch_of,
    cross_entropy,
    descend,
    encoders_of,
    features_of,
    make,
    masks_of,
    steps,
)

LAMBDA, HIDDEN = 0.4, 6


def build(count: int, numbers: list[int], **options: Any) -> AUG:
    """With some classifiers in use from the start."""
    method: AUG = make(AUG, count, share=LAMBDA, hidden=HIDDEN, maximum=3, **options)
    method.classifiers.counts = numbers
    return method


@pytest.mark.parametrize("count", [2, 3])
@pytest.mark.parametrize("variant", ["paper", "released"])
def test_three_steps_are_those_of_the_equations(count: int, variant: str) -> None:
    """One, two and three classifiers; modalities in turn, so the shared layer moves in between."""
    numbers = [2, 3, 1][:count]
    ours, theirs = build(count, numbers, variant=variant), build(count, numbers)
    data = [batch_of(count, seed) for seed in range(3)]
    steps(ours, data)
    encoders, last = encoders_of(theirs), theirs.classifiers.last
    for batch in data:
        y = batch.target
        assert y is not None
        onehot = torch.eye(CLASSES, dtype=torch.float64)[y]
        for (m, mask), n, position in zip(masks_of(batch).items(), numbers, range(count), strict=True):
            layers: Any = [theirs.classifiers.projections[3 * position + j] for j in range(n)]
            z = features_of(encoders, batch)[m][mask]
            u = [(z @ w.weight.T + w.bias).clamp(min=0) @ last.weight.T + last.bias for w in layers]
            loss = cross_entropy(sum(u[1:], u[0]), y[mask])
            if n > 1:
                known = u[:-1] if variant == "paper" else [sum(u[1:-1], u[0])]
                left = onehot[mask]
                for k in known:
                    left = left - LAMBDA * onehot[mask] * k.detach().softmax(1)
                log_p = u[-1] - u[-1].logsumexp(1, keepdim=True)
                loss = loss + cross_entropy(sum(u[1:-1], u[0]), y[mask]) - (left.clamp(min=0) * log_p).sum(1).mean()
            trained = layers if variant == "paper" else layers[:1]
            parameters = [p for layer in (encoders[m], last, *trained) for p in (layer.weight, layer.bias)]
            descend(parameters, torch.autograd.grad(loss, parameters))
    assert_near(dict(ours.named_parameters()), dict(theirs.named_parameters()), 1e-12)


def test_the_modality_that_is_behind_gets_a_classifier() -> None:
    """Scores of the epoch are mean probabilities of the true class; equal ones change nothing."""
    method = build(2, [1, 1], every=2, margin=0.0)
    data = [batch_of(2, seed, absent=False) for seed in range(2)]
    seen: dict[str, list[float]] = {m: [] for m in method.modalities}
    engine = PlainEngine(torch.optim.SGD(method.parameters(), lr=0.0))
    counts = []
    for epoch in range(5):
        method.on_train_epoch_start(EpochContext(epoch))
        counts.append(list(method.classifiers.counts))
        seen = {m: [] for m in method.modalities}
        for batch in data:
            features = method.multimodal.encode(batch.inputs)
            for m, u in method.unimodal_outputs(features).items():
                p = u.detach().softmax(1)
                seen[m] += p[torch.arange(len(batch)), batch.target].tolist()
            method.training_step(batch, engine)
    s = [sum(values) / len(values) for values in seen.values()]
    method.on_train_epoch_start(EpochContext(5))
    assert method.scores.last == pytest.approx(s, abs=1e-12)
    assert counts[0] == counts[1] == [1, 1]  # looked at before epochs 2 and 4
    assert counts[2] == counts[3]
    assert sum(counts[2]) == 3
    assert sum(counts[4]) == 4
    later = build(2, [3, 3], every=1, margin=0.0)
    steps(later, data)
    later.on_train_epoch_start(EpochContext(1))
    assert later.classifiers.counts == [3, 3]  # the maximum


def test_a_classifier_whose_turn_has_not_come_keeps_still() -> None:
    method = build(2, [1, 2])
    before = weights(method)
    steps(method, [batch_of(2)])
    moved = [n for n, t in weights(method).items() if "projections" in n and not torch.equal(t, before[n])]
    assert {n.split(".")[2] for n in moved} == {"0", "3", "4"}


def test_the_number_of_classifiers_is_in_the_state() -> None:
    method, other = build(2, [2, 3]), build(2, [1, 1])
    steps(method, [batch_of(2)])
    other.load_state_dict(method.state_dict())
    batch = batch_of(2, 7)
    assert_identical(
        {"u": method.predict(batch.inputs, batch.present).output},
        {"u": other.predict(batch.inputs, batch.present).output},
    )
    assert other.classifiers.counts == [2, 3]


def test_refusals() -> None:
    with pytest.raises(MethodError, match="`every`"):
        make(AUG, 2, every=0)
    with pytest.raises(MethodError, match="`task`: AUG supports classification"):
        make(AUG, 2, MultiLabel(CLASSES))
    with pytest.raises(UnsupportedError, match="no joint head"):
        make(AUG, 2, inference="fused")
    method = make(AUG, 2)
    with pytest.warns(ScheduleWarning, match="on_train_epoch_start"):
        method.training_step(batch_of(2), PlainEngine(torch.optim.SGD(method.parameters(), lr=0.1)))
