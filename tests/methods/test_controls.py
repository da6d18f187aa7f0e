"""The controls: MultiLoss, Unimodal, Ensemble, PretrainFinetune, ModalityDropout, and Joint's exact split."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch
from torch import nn

from equimodal import Batch, Classification, MultimodalModel
from equimodal.errors import MethodError, ModelError, UnsupportedError
from equimodal.fusion import Concat, Sum
from equimodal.methods import Ensemble, EpochContext, Joint, ModalityDropout, MultiLoss, PretrainFinetune, Unimodal
from tests.helpers import (
    CLASSES,
    NAMES,
    WIDTH,
    adamw,
    assert_identical,
    assert_near,
    make_batch,
    make_encoders,
    make_method,
    make_model,
    moved,
    sgd,
    train,
    weights,
)


@pytest.mark.parametrize("count", [2, 3, 5])
@pytest.mark.parametrize("fusion", [Concat, Sum])
@pytest.mark.parametrize("bias", [True, False])
def test_the_split_of_an_additive_head_sums_to_the_output(count: int, fusion: Any, bias: bool) -> None:
    encoders = make_encoders(count)
    joined = fusion(dict.fromkeys(encoders, WIDTH))
    model = MultimodalModel(encoders, joined, nn.Linear(joined.out_features, CLASSES, bias=bias)).double()
    method = Joint(model, Classification(CLASSES), inference="mean")
    fused, unimodal, _ = method.outputs(make_batch(count).inputs)
    assert fused is not None
    assert (torch.stack(list(unimodal.values())).sum(0) - fused).abs().max() < 1e-12


def test_a_head_that_cannot_be_split_is_refused() -> None:
    encoders = make_encoders(2)
    head = nn.Sequential(nn.Linear(2 * WIDTH, 4), nn.ReLU(), nn.Linear(4, CLASSES))
    model = MultimodalModel(encoders, Concat(dict.fromkeys(encoders, WIDTH)), head).double()
    for rule in ("mean", "uncertainty", "product"):
        with pytest.raises(UnsupportedError, match="`inference`"):
            Joint(model, Classification(CLASSES), inference=rule)
    auto = Joint(model, Classification(CLASSES), inference="auto")
    assert auto.fit_inference([make_batch(2)]) == "fused"
    assert auto.predict(make_batch(2).inputs).unimodal == {}
    MultiLoss(model, Classification(CLASSES), inference="mean")


def test_multi_loss_against_a_plain_loop() -> None:
    method = make_method("MultiLoss", 3, weight=0.7)
    twin = copy.deepcopy(method)
    model, heads = twin.model, twin.heads
    assert isinstance(model, MultimodalModel)
    optimizer = torch.optim.SGD(twin.parameters(), lr=0.05, momentum=0.9)
    engine = sgd(method)
    for step in range(3):
        batch = make_batch(3, seed=step)
        report = method.training_step(batch, engine)
        h = model.encode(batch.inputs)
        parts = [nn.functional.cross_entropy(heads[m](h[m]), batch.target) for m in NAMES[:3]]
        fused = nn.functional.cross_entropy(model(batch.inputs), batch.target)
        total = fused + 0.7 * torch.stack(parts).sum()
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
        assert float(report.losses["fused"]) == pytest.approx(float(fused.detach()), abs=1e-12)
        assert float(report.loss) == pytest.approx(float(total.detach()), rel=1e-6)
    assert_near(weights(method), weights(twin))


def test_multi_loss_without_weight_is_joint() -> None:
    a, b = make_method("MultiLoss", 2, weight=0.0), make_method("Joint", 2)
    engines = [sgd(a), sgd(b)]
    for step in range(3):
        a.training_step(make_batch(2, seed=step), engines[0])
        b.training_step(make_batch(2, seed=step), engines[1])
    assert_identical(weights(a.model), weights(b.model))


@pytest.mark.parametrize("chosen", [0, 1, 2])
def test_unimodal_trains_and_reads_one_modality(chosen: int) -> None:
    method = make_method("Unimodal", 3, modality=NAMES[chosen])
    assert isinstance(method, Unimodal)
    before, batch = weights(method), make_batch(3)
    method.training_step(batch, adamw(method))
    change = moved(before, method)
    heads = {f"model.encoders.{chosen}.", f"heads.heads.{chosen}."}
    for n, t in change.items():
        inside = any(n.startswith(h) for h in heads)
        assert inside or float(t.abs().max()) == 0, n
    prediction = method.predict(batch.inputs)
    other = {m: (x if m == NAMES[chosen] else _nan(x)) for m, x in batch.inputs.items()}
    assert torch.equal(prediction.output, method.predict(other).output)
    assert list(prediction.unimodal) == [NAMES[chosen]]


def _nan(x: Any) -> Any:
    from equimodal.batch import tree_map

    return tree_map(lambda t: t * math.nan, x)


def test_unimodal_without_its_modality() -> None:
    method = make_method("Unimodal", 2, modality=NAMES[0])
    batch = make_batch(2)
    nobody = torch.zeros(12, dtype=torch.bool)
    some = torch.arange(12) < 4
    for inputs, present in (
        ({NAMES[1]: batch.inputs[NAMES[1]]}, None),
        (batch.inputs, {NAMES[0]: nobody}),
    ):
        p = method.predict(inputs, present).probabilities
        assert (p - 1 / CLASSES).abs().max() < 1e-12
    partly = method.predict(batch.inputs, {NAMES[0]: some}).probabilities
    assert (partly[~some] - 1 / CLASSES).abs().max() < 1e-12
    assert (partly[some] - method.predict(batch.inputs).probabilities[some]).abs().max() < 1e-12
    before = weights(method)
    report = method.training_step(Batch(batch.inputs, batch.target, {NAMES[0]: nobody}), sgd(method))
    assert report.losses == {}
    assert float(report.loss) == 0
    assert_identical(before, weights(method))
    with pytest.raises(MethodError, match=r"`modality`: expected one of.*'smell'"):
        make_method("Unimodal", 2, modality="smell")


def test_ensemble_equals_its_members() -> None:
    ensemble = make_method("Ensemble", 3)
    engine = adamw(ensemble)
    members = {m: make_method("Unimodal", 3, modality=m) for m in NAMES[:3]}
    engines = {m: adamw(one) for m, one in members.items()}
    for step in range(3):
        batch = make_batch(3, seed=step)
        ensemble.training_step(batch, engine)
        for m, one in members.items():
            one.training_step(batch, engines[m])
    z = ensemble.predict(make_batch(3).inputs).unimodal
    for m, one in members.items():
        assert torch.equal(z[m], one.predict(make_batch(3).inputs).unimodal[m])


def test_pretrain_finetune_is_ensemble_then_joint() -> None:
    method = make_method("PretrainFinetune", 3)
    first, data = make_method("Ensemble", 3), [make_batch(3, seed=s) for s in range(2)]
    train(method, adamw(method), range(2), data, total=4)
    train(first, adamw(first), range(2), data, total=4)
    assert_identical(weights(method.model), weights(first.model))
    assert_near(dict(method.predict(data[0].inputs).unimodal), dict(first.predict(data[0].inputs).unimodal), 1e-12)
    assert torch.allclose(method.predict(data[0].inputs).output, first.predict(data[0].inputs).output)
    second = Joint(copy.deepcopy(method.model), Classification(CLASSES))
    engine = adamw(method)
    for one, own in ((method, engine), (second, adamw(second))):
        train(one, own, range(2, 4), data, total=4)
    assert_identical(weights(method.model), weights(second.model))


def test_pretrain_finetune_resets_the_optimizer_at_the_change() -> None:
    method = make_method("PretrainFinetune", 2)
    engine = adamw(method)
    train(method, engine, range(1), [make_batch(2)], total=2)
    assert engine.optimizers[0].state
    method.on_train_epoch_start(EpochContext(1, 2, 1, None, engine))
    assert not engine.optimizers[0].state


def test_pretrain_finetune_can_freeze_the_encoders() -> None:
    method = make_method("PretrainFinetune", 2, freeze=True)
    engine = adamw(method)
    train(method, engine, range(1), [make_batch(2)], total=2)
    before = weights(method)
    train(method, engine, range(1, 2), [make_batch(2)], total=2)
    change = moved(before, method)
    assert all((float(t.abs().max()) == 0) == ("model.head" not in n) for n, t in change.items())


@pytest.mark.parametrize("share", [0.01, 0.5, 0.99])
@pytest.mark.parametrize("epochs", [2, 3, 10])
def test_both_parts_of_pretrain_finetune_get_an_epoch(share: float, epochs: int) -> None:
    method = make_method("PretrainFinetune", 2, pretrain=share)
    assert isinstance(method, PretrainFinetune)
    parts, engine = [], sgd(method)
    for epoch in range(epochs):
        method.on_train_epoch_start(EpochContext(epoch, epochs, engine=engine))
        parts.append(method.pretraining)
    assert parts[0] is True
    assert parts[-1] is False
    assert abs(sum(bool(p) for p in parts) - share * epochs) <= 1


def test_pretrain_finetune_needs_the_epochs() -> None:
    method = make_method("PretrainFinetune", 2)
    with pytest.raises(MethodError, match="on_train_epoch_start"):
        method.training_step(make_batch(2), sgd(method))
    with pytest.raises(MethodError, match=r"`context\.epochs`"):
        method.on_train_epoch_start(EpochContext(0))


def test_modality_dropout_never_drops_everything_and_has_the_right_rate() -> None:
    for count, q in ((2, 0.5), (3, 0.7), (5, 0.2)):
        method = make_method("ModalityDropout", count, probability=q)
        assert isinstance(method, ModalityDropout)
        kept = method.draw(20000)
        assert kept.any(1).all()
        expected = (1 - q) / (1 - q**count)
        assert (kept.double().mean(0) - expected).abs().max() < 0.02


def test_modality_dropout_scales_survivors_and_is_off_in_evaluation() -> None:
    method = make_method("ModalityDropout", 3, probability=0.6)
    assert isinstance(method, ModalityDropout)
    batch = make_batch(3)
    (batch,) = method.prepare([batch])
    (kept,) = batch.extras.values()
    h = method.multimodal.encode(batch.inputs)
    scale = (1 - 0.6**3) / (1 - 0.6)
    for i, (m, dropped) in enumerate(method._features(batch).items()):
        expected = h[m] * kept[:, i, None] * scale
        assert (dropped - expected).abs().max() < 1e-12
    assert (method.predict(batch.inputs).output - method.model(batch.inputs).detach()).abs().max() < 1e-12


def test_modality_dropout_of_nothing_is_joint() -> None:
    a, b = make_method("ModalityDropout", 2, probability=0.0), make_method("Joint", 2)
    engines = [sgd(a), sgd(b)]
    for step in range(3):
        a.training_step(make_batch(2, seed=step), engines[0])
        b.training_step(make_batch(2, seed=step), engines[1])
    assert_near(weights(a.model), weights(b.model), 1e-12)


@pytest.mark.parametrize("left_out", [False, True])
def test_modality_dropout_keeps_a_modality_that_is_there(left_out: bool) -> None:
    """Not one that the batch lacks."""
    method = make_method("ModalityDropout", 3, probability=0.9)
    assert isinstance(method, ModalityDropout)
    batch = make_batch(3, size=60)
    if left_out:
        batch = Batch({m: x for m, x in batch.inputs.items() if m != NAMES[1]}, batch.target)
    else:
        batch = Batch(batch.inputs, batch.target, {NAMES[1]: torch.zeros(60, dtype=torch.bool)})
    features = method._features(method.prepare([batch])[0])
    used = torch.stack([(features[m] != 0).any(1) for m in (NAMES[0], NAMES[2])])
    assert used.any(0).all()


def test_modality_dropout_uses_its_own_generator() -> None:
    state = torch.get_rng_state()
    method = ModalityDropout(make_model(2), Classification(CLASSES), seed=5)
    torch.set_rng_state(state)
    draws = [method.draw(10) for _ in range(2)]
    assert torch.equal(state, torch.get_rng_state())
    again = make_method("ModalityDropout", 2, probability=0.2)
    again.load_state_dict(method.state_dict(), strict=False)
    assert isinstance(again, ModalityDropout)
    assert torch.equal(method.draw(10), again.draw(10))
    assert not torch.equal(draws[0], draws[1])


def test_a_single_modality_is_enough_for_controls() -> None:
    for name in ("Joint", "MultiLoss", "Unimodal", "Ensemble", "PretrainFinetune", "ModalityDropout"):
        method = make_method(name, 1)
        train(method, sgd(method), range(2), [make_batch(1)], total=2)
        assert torch.isfinite(method.predict(make_batch(1).inputs).output).all()


@pytest.mark.parametrize(
    ("name", "options", "parameter"),
    [
        ("MultiLoss", {"weight": -1.0}, "weight"),
        ("MultiLoss", {"weight": math.nan}, "weight"),
        ("PretrainFinetune", {"pretrain": 0.0}, "pretrain"),
        ("PretrainFinetune", {"pretrain": 1.0}, "pretrain"),
        ("ModalityDropout", {"probability": 1.0}, "probability"),
        ("ModalityDropout", {"probability": -0.1}, "probability"),
        ("Joint", {"inference": "vote"}, "inference"),
        ("Joint", {"sharpness": 1.0}, "sharpness"),
    ],
)
def test_bad_hyperparameters(name: str, options: dict[str, Any], parameter: str) -> None:
    with pytest.raises(MethodError, match=f"`{parameter}`"):
        make_method(name, 2, **options)


def test_own_heads_must_cover_the_modalities() -> None:
    for cls in (MultiLoss, Ensemble, PretrainFinetune):
        with pytest.raises(ModelError, match="`heads`"):
            cls(make_model(2), Classification(CLASSES), heads={NAMES[0]: nn.Linear(WIDTH, CLASSES)})
        with pytest.raises(ModelError, match="`heads`"):
            cls(make_model(1), Classification(CLASSES), heads={m: nn.Linear(WIDTH, CLASSES) for m in NAMES[:2]})
