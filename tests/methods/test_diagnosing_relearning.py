"""Diagnosing and re-learning: how far encoders go back, when, and what goes with them."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from equimodal import Batch, Classification, MultimodalModel
from equimodal.data import ValidationSplit, loader
from equimodal.errors import MethodError
from equimodal.functional import k_means, purity
from equimodal.fusion import Concat
from equimodal.methods import DiagnosingRelearning, EpochContext, Joint
from equimodal.testing import ToyData
from tests.helpers import assert_identical, sgd, weights

SIZES = {"a": 3, "b": 4, "c": 2}


def made(count: int = 2, norm: bool = False, name: Any = DiagnosingRelearning, **options: Any) -> Any:
    torch.manual_seed(0)
    names = list(SIZES)[:count]
    encoders = {m: nn.Sequential(nn.Linear(SIZES[m], 4), *([nn.BatchNorm1d(4)] if norm else [])) for m in names}
    model = MultimodalModel(encoders, Concat(dict.fromkeys(names, 4)), nn.Linear(4 * count, 3),
                            feature_sizes=dict.fromkeys(names, 4))  # fmt: skip
    return name(model, Classification(3), **options).double().train()


def data(count: int = 2, seed: int = 1, size: int = 24, absent: bool = False) -> Batch:
    g = torch.Generator().manual_seed(seed)
    x = {m: torch.randn(size, SIZES[m], generator=g, dtype=torch.float64) for m in list(SIZES)[:count]}
    i = torch.arange(size)
    return Batch(x, i % 3, {"a": i % 5 != 2, "b": (i % 4 != 1) | (i % 5 == 2)} if absent else None)


def context(train: Batch, other: Batch, epoch: int, engine: Any = None) -> EpochContext:
    return EpochContext(
        epoch, None, 1, ToyData([train]).loader, engine, loader(ValidationSplit.of(other), 7, shuffle=False)
    )


def purity_of(encoder: Any, batch: Batch, m: str) -> float:
    """By scikit-learn's definition of min-max scaling, on the samples that have the modality."""
    rows = torch.ones(len(batch)).bool() if batch.present is None or m not in batch.present else batch.present[m]
    z = encoder(batch.inputs[m][rows]).detach()
    low, high = z.min(0).values, z.max(0).values
    scaled = (z - low) / (high - low) * 2 - 1
    assert batch.target is not None
    return purity(k_means(scaled, 3, torch.Generator().manual_seed(0)), batch.target[rows])


@pytest.mark.parametrize("count", [2, 3])
@pytest.mark.parametrize("absent", [False, True])
def test_three_epochs_written_out(count: int, absent: bool) -> None:
    """Steps of joint training; before the second and third epoch each encoder goes tanh(lambda gap) of the way back."""
    ours, theirs = made(count, every=1, times=2, strength=1.5), made(count, name=Joint)
    train_, other = data(count, absent=absent), data(count, seed=2, size=19, absent=absent)
    start = weights(theirs.model)
    engine, reference = sgd(ours, lr=0.3, momentum=0.9), None
    shares = []
    for epoch in range(4):
        ours.on_train_epoch_start(context(train_, other, epoch, engine))
        report = ours.training_step(train_, engine)
        if reference is None:
            reference = sgd(theirs, lr=0.3, momentum=0.9)
        if epoch in (1, 2):
            for k, m in enumerate(theirs.modalities):
                encoder = theirs.model.encoder(m)
                gap = abs(purity_of(encoder, train_, m) - purity_of(encoder, other, m))
                w = math.tanh(1.5 * gap)
                shares.append(w)
                assert float(report.extras[f"reset/{m}"]) == pytest.approx(w, abs=1e-6)
                with torch.no_grad():
                    for name, p in encoder.named_parameters():
                        p.copy_(w * start[f"encoders.{k}.{name}"] + (1 - w) * p)
                        reference.optimizers[0].state.pop(p, None)
        else:
            assert not any(name.startswith("reset") for name in report.extras)
        theirs.training_step(train_, reference)
    assert max(shares) > 0.05, shares
    for name, value in weights(theirs.model).items():
        assert torch.allclose(weights(ours.model)[name], value, atol=1e-12, rtol=0), name


def move(method: Any, engine: Any) -> None:
    for _ in range(3):
        method.training_step(data(), engine)


@pytest.mark.parametrize("variant", ["paper", "released"])
def test_a_full_reset(variant: Any) -> None:
    """With a gap so large that w is 1: the encoder is where it began, statistics and momenta only in the paper's."""
    method = made(norm=True, every=1, strength=1e9, variant=variant)
    engine = sgd(method, lr=0.1, momentum=0.9)
    start = weights(method.model)
    train_, other = data(), data(seed=5)
    method.on_train_epoch_start(context(train_, other, 0, engine))
    move(method, engine)
    moved = weights(method.model)
    method.on_train_epoch_start(context(train_, other, 1, engine))
    now = weights(method.model)
    full = [
        m for k, m in enumerate("ab") if torch.equal(now[f"encoders.{k}.0.weight"], start[f"encoders.{k}.0.weight"])
    ]
    assert full
    k = "ab".index(full[0])
    name = f"encoders.{k}.1.running_mean"
    assert torch.equal(now[name], start[name] if variant == "paper" else moved[name])
    assert not torch.equal(moved[name], start[name])
    encoder = list(method.model.encoder(full[0]).parameters())
    assert all((p in engine.optimizers[0].state) is (variant == "released") for p in encoder)
    assert method.model.head.weight in engine.optimizers[0].state


def test_no_strength_is_joint_training() -> None:
    ours, joint = made(every=1, strength=0.0, variant="released"), made(name=Joint)
    for method in (ours, joint):
        engine = sgd(method)
        for epoch in range(3):
            method.on_train_epoch_start(context(data(), data(seed=2), epoch, engine))
            method.training_step(data(), engine)
    assert_identical(weights(ours.model), weights(joint.model))


def test_when_it_is_time() -> None:
    method = made(every=2, times=2)
    seen: list[int] = []
    for epoch in range(9):
        method.soft_reset.back = lambda *_, now=epoch: seen.append(now)
        method.on_train_epoch_start(context(data(), data(seed=2), epoch, sgd(method)))
    assert seen == [2, 2, 4, 4]


def test_a_modality_of_nobody_stays() -> None:
    method, batch = made(every=1, strength=1e9), data()
    nobody = Batch(batch.inputs, batch.target, {"b": torch.zeros(24, dtype=torch.bool)})
    engine = sgd(method)
    method.on_train_epoch_start(context(batch, nobody, 0, engine))
    move(method, engine)
    before: dict[str, Tensor] = weights(method.model.encoder("b"))
    method.on_train_epoch_start(context(batch, nobody, 1, engine))
    assert_identical(before, weights(method.model.encoder("b")))


def test_refusals() -> None:
    method = made(every=1)
    method.on_train_epoch_start(EpochContext(0))
    with pytest.raises(MethodError, match=r"context.loader"):
        method.on_train_epoch_start(EpochContext(1))
    with pytest.raises(MethodError, match=r"context.validation"):
        method.on_train_epoch_start(EpochContext(1, loader=[data()]))
    with pytest.raises(MethodError, match="`every`"):
        made(every=0)
