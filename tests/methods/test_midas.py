"""MIDAS against the paper written out sample by sample, its warm-up, and batches that allow no mixture."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from equimodal import Batch, PlainEngine
from equimodal.errors import MethodError
from equimodal.methods import MIDAS, EpochContext, MultiLoss
from equimodal.tasks import MultiLabel
from tests.helpers import assert_identical, assert_near, moved, weights
from tests.methods.affine import (
    CLASSES,
    batch_of,
    cross_entropy,
    descend,
    encoders_of,
    features_of,
    head_of,
    make,
    masks_of,
    steps,
)

LAMBDA, ETA = 0.6, 0.05


def partners_of(batch: Batch, generator: torch.Generator) -> list[list[int] | None]:
    """Of each sample the rows that its modalities are from: drawn as the method says, row by row."""
    masks, size = list(masks_of(batch).values()), len(batch)
    stays = int(torch.randint(len(masks), (), generator=generator))
    drawn = torch.rand(len(masks), size, size, generator=generator)
    found: list[list[int] | None] = []
    assert batch.target is not None
    for i in range(size):
        rows: list[int] | None = []
        for m, mask in enumerate(masks):
            apart = [j for j in range(size) if bool(mask[j]) and int(batch.target[j]) != int(batch.target[i])]
            if not all(bool(v[i]) for v in masks) or not apart:
                rows = None
                break
            assert rows is not None
            rows.append(i if m == stays else max(apart, key=lambda j: float(drawn[m, i, j])))
        found.append(rows)
    return found


@pytest.mark.parametrize("count", [2, 3])
@pytest.mark.parametrize("absent", [False, True])
def test_three_steps_are_those_of_the_equations(count: int, absent: bool) -> None:
    options: dict[str, Any] = {"misaligned_weight": LAMBDA, "step": ETA, "warm_up": 0.0, "seed": 4}
    ours, theirs = make(MIDAS, count, **options), make(MIDAS, count, **options)
    start = torch.tensor([1.0, 1.3, 1.0][:count], dtype=torch.float64)
    ours.alpha.copy_(start)
    data = [batch_of(count, seed, absent) for seed in range(3)]
    reports = steps(ours, data)
    generator, alpha = torch.Generator().manual_seed(4), start.tolist()
    encoders, head, parameters = encoders_of(theirs), head_of(theirs), list(theirs.parameters())
    for batch, report in zip(data, reports, strict=True):
        assert [float(v) for v in report.coefficients["alpha"].values()] == pytest.approx(alpha, abs=1e-12)
        z, y, masks = features_of(encoders, batch), batch.target, masks_of(batch)
        assert y is not None
        names = list(z)
        total = cross_entropy(torch.cat(list(z.values()), 1) @ head.weight.T + head.bias, y)
        confidence: dict[str, Any] = {}
        for m, mask in masks.items():
            own = theirs.heads[m][-1]
            u = z[m] @ own.weight.T + own.bias
            total = total + cross_entropy(u[mask], y[mask])
            confidence[m] = u.detach().softmax(1)[torch.arange(len(batch)), y]
        terms, c_sum, p_sum, number = [], [0.0] * count, [0.0] * count, 0
        for i, rows in enumerate(partners_of(batch, generator)):
            if rows is None:
                continue
            number += 1
            u = head.weight @ torch.cat([z[m][r] for m, r in zip(names, rows, strict=True)]) + head.bias
            log_p = u - u.logsumexp(0)
            c = [float(confidence[m][r]) for m, r in zip(names, rows, strict=True)]
            p = [float(log_p.detach().exp()[y[r]]) for r in rows]
            new = [k for k, r in enumerate(rows) if r != i]
            likeness = sum(float(torch.cosine_similarity(z[names[k]][i], z[names[k]][rows[k]], dim=0).detach())
                           for k in new) / len(new)  # fmt: skip
            label = sum(alpha[k] * c[k] / sum(c) * log_p[y[r]] for k, r in enumerate(rows))
            terms.append(-(1 + (likeness + 1) / 2) * label)
            for k in range(count):
                c_sum[k] += c[k] / sum(c)
                p_sum[k] += p[k] / sum(p)
        assert number > 2
        total = total + LAMBDA * torch.stack(terms).sum() / number
        descend(parameters, torch.autograd.grad(total, parameters))
        weak = c_sum.index(min(c_sum))
        sign = (c_sum[weak] > p_sum[weak]) - (c_sum[weak] < p_sum[weak])
        alpha = [max(1.0, alpha[k] + ETA * sign) if k == weak else 1.0 for k in range(count)]
    assert_near(dict(ours.named_parameters()), dict(theirs.named_parameters()), 1e-12)
    assert ours.alpha.tolist() == pytest.approx(alpha, abs=1e-12)


def test_the_warm_up_trains_unimodal_losses_alone() -> None:
    """A share of the epochs, in which fusion and head keep still."""
    method, batch = make(MIDAS, 2, warm_up=0.5), batch_of(2)
    engine = PlainEngine(torch.optim.SGD(method.parameters(), 0.1))
    for epoch in range(4):
        method.on_train_epoch_start(EpochContext(epoch, 4))
        before = weights(method)
        report = method.training_step(batch, engine)
        changed = {n for n, delta in moved(before, method).items() if bool(delta.any())}
        assert ("model.head.weight" in changed) is (epoch >= 2)
        assert ("misaligned" in report.losses) is (epoch >= 2)
        assert any(n.startswith("model.encoders") for n in changed)


@pytest.mark.parametrize("kind", ["one class", "no complete sample", "one sample", "a modality left out"])
def test_a_batch_that_allows_no_mixture_trains_as_without(kind: str) -> None:
    full, size = batch_of(2, absent=False), 12
    names = list(full.inputs)
    batch = {
        "one class": Batch(full.inputs, torch.ones(size, dtype=torch.int64)),
        "no complete sample": Batch(
            full.inputs, full.target, {m: torch.arange(size) % 2 == i for i, m in enumerate(names)}
        ),
        "one sample": full.select(torch.tensor([3])),
        "a modality left out": Batch({names[0]: full.inputs[names[0]]}, full.target),
    }[kind]
    ours, theirs = make(MIDAS, 2, warm_up=0.0), make(MultiLoss, 2)
    (report,) = steps(ours, [batch])
    steps(theirs, [batch])
    assert float(report.losses.get("misaligned", torch.zeros(()))) == 0
    assert_near(dict(ours.named_parameters()), dict(theirs.named_parameters()), 1e-15)
    assert ours.alpha.tolist() == [1.0, 1.0]


def test_a_weight_of_zero_is_multi_loss() -> None:
    ours, theirs = make(MIDAS, 3, warm_up=0.0, misaligned_weight=0.0), make(MultiLoss, 3)
    data = [batch_of(3, seed) for seed in range(2)]
    steps(ours, data)
    steps(theirs, data)
    assert_near(dict(ours.named_parameters()), dict(theirs.named_parameters()), 1e-14)


def test_soft_targets_count_by_their_most_probable_class() -> None:
    hard = batch_of(2, absent=False)
    assert hard.target is not None
    soft = Batch(hard.inputs, torch.eye(CLASSES, dtype=torch.float64)[hard.target])
    ours, theirs = make(MIDAS, 2, warm_up=0.0), make(MIDAS, 2, warm_up=0.0)
    steps(ours, [hard])
    steps(theirs, [soft])
    assert_near(weights(ours), weights(theirs), 1e-12)


def test_alpha_is_in_the_state() -> None:
    method, other = make(MIDAS, 2, warm_up=0.0), make(MIDAS, 2, warm_up=0.0, seed=9)
    steps(method, [batch_of(2, seed) for seed in range(3)])
    other.load_state_dict(method.state_dict())
    steps(method, [batch_of(2, 5)])
    steps(other, [batch_of(2, 5)])
    assert_identical(weights(method), weights(other))


def test_refusals() -> None:
    with pytest.raises(MethodError, match="`step`"):
        make(MIDAS, 2, step=0.0)
    with pytest.raises(MethodError, match="`task`: MIDAS supports classification"):
        make(MIDAS, 2, MultiLabel(CLASSES))
    method = make(MIDAS, 2)
    with pytest.raises(MethodError, match="needs to know the epoch"):
        method.training_step(batch_of(2), PlainEngine(torch.optim.SGD(method.parameters(), 0.1)))
    with pytest.raises(MethodError, match=r"`context\.epochs`"):
        method.on_train_epoch_start(EpochContext(0))
