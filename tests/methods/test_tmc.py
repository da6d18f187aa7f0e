"""TMC and ETMC against their equations, the schedule of the divergence, and what they refuse."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import Tensor
from torch.nn.functional import softplus

from equimodal import Batch, Classification, PlainEngine
from equimodal.errors import MethodError, ScheduleWarning, UnsupportedError
from equimodal.methods import TMC, EpochContext
from tests.helpers import CLASSES, make_method, plain_batch, plain_model
from tests.methods.toys import random_absence

F64 = torch.float64
SIZES = {"a": 4, "b": 3, "c": 2}


def batch_of(sizes: dict[str, int], seed: int, absent: bool) -> Batch:
    batch = plain_batch(sizes, CLASSES, 6, seed)
    return random_absence(batch, seed) if absent else batch


def loss_of(alpha: Tensor, label: int, strength: float) -> Tensor:
    """Of one sample, term by term."""
    y = torch.zeros(CLASSES, dtype=F64)
    y[label] = 1
    total = torch.digamma(alpha.sum()) - torch.digamma(alpha[label])
    w = y + (1 - y) * alpha
    kl = torch.lgamma(w.sum()) - math.lgamma(CLASSES) - torch.lgamma(w).sum()
    kl = kl + ((w - 1) * (torch.digamma(w) - torch.digamma(w.sum()))).sum()
    return total + strength * kl


def combined(one: Tensor, other: Tensor) -> Tensor:
    """Dempster's rule for the Dirichlet parameters of two opinions."""
    (b1, s1), (b2, s2) = (((a - 1) / a.sum(), a.sum()) for a in (one, other))
    u1, u2 = CLASSES / s1, CLASSES / s2
    conflict = b1.sum() * b2.sum() - (b1 * b2).sum()
    belief, doubt = (b1 * b2 + b1 * u2 + b2 * u1) / (1 - conflict), u1 * u2 / (1 - conflict)
    return belief * CLASSES / doubt + 1


@pytest.mark.parametrize("joint", [False, True])
@pytest.mark.parametrize("count", [2, 3])
@pytest.mark.parametrize("absent", [False, True])
def test_three_steps_of_the_equations(joint: bool, count: int, absent: bool) -> None:
    """One step in each of three epochs, with lambda 1/2, 1 and 1."""
    sizes = dict(list(SIZES.items())[:count])
    batches = [batch_of(sizes, seed, absent) for seed in range(3)]
    ours = TMC(plain_model(sizes, 5, CLASSES), Classification(CLASSES), joint=joint, annealing=2)
    theirs = TMC(plain_model(sizes, 5, CLASSES), Classification(CLASSES), joint=joint, annealing=2)
    theirs.load_state_dict(ours.state_dict())
    engine = PlainEngine(torch.optim.SGD(ours.parameters(), lr=0.3))
    parameters = list(theirs.parameters())
    for epoch, batch in enumerate(batches):
        ours.on_train_epoch_start(EpochContext(epoch, 3, 1))
        ours.training_step(batch, engine)
        assert batch.target is not None
        features = theirs.multimodal.encode(batch.inputs, batch.present)
        heads, total = theirs.heads(features), torch.zeros((), dtype=F64)
        fused = theirs.multimodal.head(theirs.multimodal.fuse(features, batch.present))
        for i, label in enumerate(batch.target.tolist()):
            here = [m for m in sizes if batch.present is None or bool(batch.present[m][i])]
            opinions = [softplus(heads[m][i]) + 1 for m in here]
            opinions += [softplus(fused[i]) + 1] if joint else []
            whole = opinions[0]
            for other in opinions[1:]:
                whole = combined(whole, other)
            for alpha in (whole, *opinions):
                total = total + loss_of(alpha, label, min(1.0, (epoch + 1) / 2)) / 6
        for p, g in zip(parameters, torch.autograd.grad(total, parameters, allow_unused=True), strict=True):
            if g is not None:
                p.data -= 0.3 * g
    for (name, p), q in zip(ours.named_parameters(), parameters, strict=True):
        assert torch.allclose(p, q, rtol=0, atol=1e-12), name


@pytest.mark.parametrize("joint", [False, True])
def test_prediction_is_the_expected_probability(joint: bool) -> None:
    ours = TMC(plain_model(SIZES, 5, CLASSES), Classification(CLASSES), joint=joint)
    batch = batch_of(SIZES, 0, True)
    prediction = ours.predict(batch.inputs, batch.present)
    assert prediction.rule == ("evidential_fused" if joint else "evidential")
    features = ours.multimodal.encode(batch.inputs, batch.present)
    heads, fused = ours.heads(features), ours.multimodal.head(ours.multimodal.fuse(features, batch.present))
    assert batch.present is not None
    for i in range(6):
        opinions = [softplus(heads[m][i]) + 1 for m in SIZES if batch.present[m][i]]
        opinions += [softplus(fused[i]) + 1] if joint else []
        whole = opinions[0]
        for other in opinions[1:]:
            whole = combined(whole, other)
        assert torch.allclose(prediction.probabilities[i], whole / whole.sum(), atol=1e-12)
        assert torch.allclose(prediction.output[i].exp(), whole, rtol=1e-10)
    assert prediction.weights == {}


def test_evidence_for_a_wrong_class_costs_more_later() -> None:
    ours = TMC(plain_model(SIZES, 5, CLASSES), Classification(CLASSES), annealing=4)
    engine = PlainEngine(torch.optim.SGD(ours.parameters(), lr=0.0))
    seen = []
    for epoch in range(6):
        ours.on_train_epoch_start(EpochContext(epoch))
        seen.append(float(ours.training_step(batch_of(SIZES, 0, False), engine).loss))
    steps = [b - a for a, b in itertools.pairwise(seen)]
    assert steps[:3] == pytest.approx([steps[0]] * 3, rel=1e-5)  # losses are reported in float32
    assert steps[0] > 0
    assert steps[3:] == [0.0, 0.0]
    assert ours.get_extra_state() == {"epoch": 5}


def test_only_what_gives_opinions_is_trained() -> None:
    ours = TMC(plain_model(SIZES, 5, CLASSES), Classification(CLASSES))
    before = {n: p.detach().clone() for n, p in ours.named_parameters()}
    ours.on_train_epoch_start(EpochContext(0))
    ours.training_step(batch_of(SIZES, 0, False), PlainEngine(torch.optim.SGD(ours.parameters(), lr=0.1)))
    still = {n for n, p in ours.named_parameters() if torch.equal(p, before[n])}
    assert still == {n for n in before if n.startswith("model.head")}


def test_warning_and_refusals() -> None:
    ours = TMC(plain_model(SIZES, 5, CLASSES), Classification(CLASSES))
    with pytest.warns(ScheduleWarning, match="does not know the epoch"):
        ours.training_step(batch_of(SIZES, 0, False), PlainEngine(torch.optim.SGD(ours.parameters(), lr=0.1)))
    with pytest.raises(UnsupportedError, match="TMC trains no joint head, which 'fused' reads. Use joint=True"):
        make_method("TMC", 2, inference="fused")
    with pytest.raises(UnsupportedError, match="no joint head, which 'evidential_fused' reads"):
        make_method("TMC", 2, inference="evidential_fused")
    with pytest.raises(UnsupportedError, match="Ensemble trains no joint head"):
        make_method("Ensemble", 2, inference="evidential_fused")
    with pytest.raises(MethodError, match="`annealing`: expected"):
        make_method("TMC", 2, annealing=0)
