"""Weak encoders first: the ranking, the stages, what keeps still, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from equimodal import Batch, Classification, MultimodalModel, PlainEngine
from equimodal.errors import MethodError
from equimodal.fusion import Concat
from equimodal.methods import EpochContext, Joint, WeakFirst
from tests.helpers import CLASSES, assert_identical, assert_near, make_method, plain_batch, plain_model, weights

SIZES = {"a": 4, "b": 3, "c": 2}


def told(method: WeakFirst, epoch: int, epochs: int, batches: list[Batch] | None = None) -> list[str]:
    method.on_train_epoch_start(EpochContext(epoch, epochs, 1, batches))
    found: list[str] = method.waiting()
    return found


def loud(strengths: dict[str, float], size: int = 12) -> tuple[MultimodalModel, Batch]:
    """A model and a batch in which a modality is right in so many samples: the identity on one-hot inputs."""
    y = torch.arange(size) % CLASSES
    inputs = {}
    for m, strength in strengths.items():
        wrong = torch.arange(size) >= round(strength * size)
        inputs[m] = nn.functional.one_hot(torch.where(wrong, (y + 1) % CLASSES, y), CLASSES).double()
    encoders: dict[str, nn.Module] = {m: nn.Linear(CLASSES, CLASSES, bias=False) for m in strengths}
    head = nn.Linear(CLASSES * len(strengths), CLASSES)
    with torch.no_grad():
        for encoder in encoders.values():
            next(encoder.parameters()).copy_(torch.eye(CLASSES))
        head.weight.copy_(torch.eye(CLASSES).repeat(1, len(strengths)))
        head.bias.zero_()
    sizes = dict.fromkeys(strengths, CLASSES)
    return MultimodalModel(encoders, Concat(sizes), head, feature_sizes=sizes).double(), Batch(inputs, y)


def test_the_weakest_is_first() -> None:
    model, batch = loud({"a": 0.75, "b": 0.25, "c": 0.5})
    method = WeakFirst(model, Classification(CLASSES))
    assert told(method, 0, 10) == []
    assert method.ranking == []
    assert told(method, 1, 10, [batch]) == ["a", "c"]
    assert method.ranking == ["b", "c", "a"]


def test_equal_scores_keep_the_order_and_absent_samples_do_not_count() -> None:
    model, batch = loud({"a": 0.5, "b": 0.5, "c": 0.5})
    method = WeakFirst(model, Classification(CLASSES))
    told(method, 1, 10, [batch])
    assert method.ranking == ["a", "b", "c"]
    present = {"a": torch.arange(12) < 6, "b": torch.arange(12) >= 6}  # a is right in all that it has, b in none
    method = WeakFirst(loud({"a": 0.5, "b": 0.5, "c": 0.5})[0], Classification(CLASSES))
    told(method, 1, 10, [Batch(batch.inputs, batch.target, present)])
    assert method.ranking == ["b", "c", "a"]


@pytest.mark.parametrize(
    ("epochs", "options", "expected"),
    [
        (8, {}, "-bbcc---"),
        (6, {"warm_up": 2, "alone": 0.4}, "--bc--"),
        (6, {"order": ("c", "b", "a"), "alone": 0.5}, "ccb---"),
        (2, {}, "--"),
        (3, {"alone": 0.9}, "-b-"),
    ],
)
def test_the_stages(epochs: int, options: dict[str, Any], expected: str) -> None:
    model, batch = loud({"a": 0.75, "b": 0.25, "c": 0.5})
    method, seen = WeakFirst(model, Classification(CLASSES), **options), ""
    for epoch in range(epochs):
        waiting = told(method, epoch, epochs, [batch])
        seen += "-" if not waiting else next(m for m in "abc" if m not in waiting)
    assert seen == expected


def test_frozen_encoders_keep_still_in_all_respects() -> None:
    method = WeakFirst(plain_model(SIZES, 5, CLASSES, norm=True), Classification(CLASSES), order=["b", "a", "c"])
    engine = PlainEngine(torch.optim.AdamW(method.parameters(), lr=0.1, weight_decay=0.5))
    batch = plain_batch(SIZES, CLASSES, 12, 0)
    for epoch, alone in ((0, "b"), (1, "a"), (2, None)):
        before = {n: t.clone() for n, t in method.model.state_dict().items()}
        told(method, epoch, 4)
        method.training_step(batch, engine)
        after = method.model.state_dict()
        moved = {
            n.split(".")[1] for n, t in after.items() if n.startswith("encoders") and not torch.equal(t, before[n])
        }
        assert moved == ({"0", "1", "2"} if alone is None else {str("abc".index(alone))})
        assert not torch.equal(after["head.weight"], before["head.weight"])


def test_three_steps_by_hand() -> None:
    """In a stage the step is that of joint training with the other encoders' gradients left out."""
    method = WeakFirst(plain_model(SIZES, 5, CLASSES), Classification(CLASSES), order=["c", "b", "a"])
    reference = Joint(plain_model(SIZES, 5, CLASSES), Classification(CLASSES))
    reference.model.load_state_dict(method.model.state_dict())
    engine = PlainEngine(torch.optim.SGD(method.parameters(), lr=0.2))
    for epoch, alone in enumerate(("c", "b", None)):
        batch = plain_batch(SIZES, CLASSES, 8, epoch)
        told(method, epoch, 4)
        method.training_step(batch, engine)
        assert batch.target is not None
        parameters = [p for m in SIZES if alone in (m, None) for p in reference.multimodal.parameters_of(m)]
        parameters += list(reference.multimodal.head.parameters())
        loss = nn.functional.cross_entropy(reference.model(batch.inputs), batch.target)
        for p, g in zip(parameters, torch.autograd.grad(loss, parameters), strict=True):
            p.data -= 0.2 * g
    assert_near(weights(method.model), weights(reference.model), 1e-12)


def test_the_ranking_is_saved_and_leaves_no_trace() -> None:
    model, batch = loud({"a": 0.75, "b": 0.25})
    method = WeakFirst(model, Classification(CLASSES)).train()
    before = weights(method)
    told(method, 1, 10, [batch])
    assert method.training
    assert_identical(weights(method), before)
    again = WeakFirst(loud({"a": 0.1, "b": 0.9})[0], Classification(CLASSES))
    again.load_state_dict(method.state_dict())
    assert again.ranking == ["b", "a"]
    assert again.waiting() == ["a"]


def test_refusals() -> None:
    with pytest.raises(MethodError, match=r"`order`: expected the modalities .* Found \['x'\]"):
        make_method("WeakFirst", 2, order=["x"])
    method = make_method("WeakFirst", 2)
    with pytest.raises(MethodError, match="needs to know the epoch"):
        list(method.phases([]))
    with pytest.raises(MethodError, match=r"`context.epochs`: .* Found None"):
        method.on_train_epoch_start(EpochContext(0))
    with pytest.raises(MethodError, match=r"`context.loader`: .* or use order="):
        method.on_train_epoch_start(EpochContext(1, 4))
    with pytest.raises(MethodError, match="`alone`: expected"):
        make_method("WeakFirst", 2, alone=1.0)
