"""Properties about models and batches of every form, and about bad ones."""

from __future__ import annotations

import warnings
from typing import Any, cast

import torch
from torch import Tensor, nn

from equimodal import fusion as fusions
from equimodal.batch import Batch
from equimodal.errors import BatchError, EquimodalError, EquimodalWarning, ModelError, TargetError
from equimodal.fusion import Late
from equimodal.model import MultimodalModel
from equimodal.tasks import Classification
from equimodal.testing._cases import SIZES, Case, required_of
from equimodal.testing._expect import expect, expect_error, expect_finite, expect_identical
from equimodal.testing._loops import announce, sgd, train, weights
from equimodal.testing._models import (
    CLASSES,
    NAMES,
    WIDTH,
    OwnModel,
    Wrapped,
    concat,
    mlp,
    plain_batch,
    toy_batch,
    toy_encoders,
    toy_model,
)
from equimodal.testing._property import Property


def a_frozen_encoder_keeps_still(case: Case) -> None:
    """An encoder that requires no gradient is left as it is, and the others train."""
    model = toy_model(3)
    model.encoder(NAMES[1]).requires_grad_(False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", EquimodalWarning)  # that it is frozen
        method = case.on(model)
    before = weights(model.encoder(NAMES[1]))
    train(method, case.engine(method), range(3), [toy_batch(3)], total=3)
    expect_identical(before, weights(model.encoder(NAMES[1])), "the frozen encoder")
    expect_finite(weights(method), "after training")


def wrapped_encoders_are_the_same(case: Case) -> None:
    """Encoders inside a wrapper, whose parameters have other names, train to the same weights."""
    plain = case.make(3)
    torch.manual_seed(0)
    encoders: dict[str, nn.Module] = {m: Wrapped(e) for m, e in toy_encoders(3).items()}
    wrapped = case.on(MultimodalModel(encoders, concat(encoders), nn.Linear(3 * WIDTH, CLASSES)).double())
    train(plain, sgd(plain), range(2), [toy_batch(3)], total=2)
    train(wrapped, sgd(wrapped), range(2), [toy_batch(3)], total=2)
    names = {n.replace("_orig_mod.", ""): t for n, t in weights(wrapped).items()}
    expect_identical(weights(plain), names, "with wrapped encoders")


def a_model_of_ones_own(case: Case) -> None:
    """A model with the members of the protocol and no base class trains, or is refused; one without them is refused."""
    with expect_error(ModelError, r"lacks \['modalities'", "a model without the members"):
        required: dict[str, Any] = dict.fromkeys(required_of(case.method))
        case.method(nn.Linear(2, 2), Classification(2), **required)
    try:
        method = case.on(OwnModel())
    except EquimodalError as error:
        expect(str(error).startswith("`"), f"expected a message that begins with the parameter's name. Found: {error}")
        return
    train(method, sgd(method), range(2), [toy_batch(2)], total=2)
    expect_finite(method.predict(toy_batch(2).inputs).output, "prediction")


_SMALL: dict[str, dict[str, Any]] = {"LateTransformer": {"width": 8, "heads": 2, "hidden": 8, "layers": 1}}
"""Of fusions whose defaults are larger than all else here."""


def every_fusion_trains_or_is_refused(case: Case, fusion: str) -> None:
    """With each fusion of the library a step moves something and stays finite, or the fusion is refused by name."""
    torch.manual_seed(0)
    encoders: dict[str, nn.Module] = {m: mlp(n, WIDTH) for m, n in SIZES.items()}
    sizes = dict.fromkeys(encoders, WIDTH)
    late = fusion == "Late"
    join: Any = Late(sizes, CLASSES) if late else fusions.get(fusion)(sizes, **_SMALL.get(fusion, {}))
    head = nn.Identity() if late else nn.Linear(join.out_features, CLASSES)
    try:
        method = case.on(MultimodalModel(encoders, join, head).double())
    except EquimodalError as error:
        expect(str(error).startswith("`"), f"expected a message that begins with the parameter's name. Found: {error}")
        return
    before, batch = weights(method), plain_batch(SIZES, CLASSES, 12, 0)
    train(method, sgd(method), range(1), [batch], total=2)
    after = weights(method)
    expect_finite(after, "after a step")
    expect_finite(method.predict(batch.inputs).output, "prediction")
    expect(any(not torch.equal(t, before[n]) for n, t in after.items()), "expected a step to move weights. Found none.")


def bad_batches_are_refused(case: Case) -> None:
    """A batch that does not fit is refused by name, and nothing has moved."""
    method, batch = case.make(2), toy_batch(2)
    engine = sgd(method)
    announce(method, engine, batches=[batch])
    before = weights(method)
    y = cast(Tensor, batch.target)
    with expect_error(BatchError, r"unknown \['smell'\]", "an unknown modality"):
        method.training_step(Batch({**batch.inputs, "smell": torch.zeros(12, 1)}, y), engine)
    with expect_error(BatchError, "`target`", "no target"):
        method.training_step(Batch(batch.inputs), engine)
    bad = y.clone()
    bad[2], bad[5] = CLASSES, -1
    with expect_error(TargetError, rf"Found \[-1, {CLASSES}\] in rows \[2, 5\]", "classes that do not exist"):
        method.training_step(Batch(batch.inputs, bad), engine)
    with expect_error(TargetError, r"\.long\(\)", "classes in floating point"):
        method.training_step(Batch(batch.inputs, y.double()), engine)
    with expect_error(BatchError, "empty list", "no micro-batch"):
        method.training_step([], engine)
    with expect_error(BatchError, "same number of samples", "fewer targets than samples"):
        method.training_step((batch.inputs, y[:5]), engine)
    expect_identical(before, weights(method), "after refused batches")


def batches_of_every_form_are_the_same(case: Case) -> None:
    """A Batch, a pair, a list of two, a mapping and a list of one train to the same weights.

    A method that remembers samples refuses those without an index by name.
    """
    batch = toy_batch(2)
    forms: dict[str, Any] = {
        "Batch": batch, "pair": (batch.inputs, batch.target), "list of two": [batch.inputs, batch.target],
        "mapping": {"inputs": batch.inputs, "target": batch.target}, "list of one": [batch],
    }  # fmt: skip
    first = None
    for name, form in forms.items():
        method = case.make(2)
        engine = sgd(method)
        announce(method, engine, batches=[batch])
        try:
            method.training_step(form, engine)
        except BatchError as error:
            expect(str(error).startswith("`batch.index`") and form not in (batch, [batch]), f"with a batch as {name}")
            continue
        first = weights(method) if first is None else first
        expect_identical(first, weights(method), f"with a batch as {name}")


def a_batch_of_one_trains_or_is_refused(case: Case) -> None:
    """One sample trains; with batch normalisation, which needs two, it is refused by name and nothing moves."""
    method = case.make(2)
    train(method, sgd(method), range(2), [toy_batch(2, 1)], total=2)
    expect_finite(weights(method), "after batches of one sample")
    encoders: dict[str, nn.Module] = {m: nn.Sequential(mlp(5, WIDTH), nn.BatchNorm1d(WIDTH)) for m in NAMES[:2]}
    normed = case.on(MultimodalModel(encoders, concat(encoders), nn.Linear(2 * WIDTH, CLASSES)).double())
    before = {n: p.detach().clone() for n, p in normed.named_parameters()}
    one = Batch({m: torch.zeros(1, 5, dtype=torch.float64) for m in encoders}, torch.zeros(1, dtype=torch.int64))
    with expect_error(BatchError, "batch normalisation", "one sample under batch normalisation"):
        train(normed, sgd(normed), range(1), [one], total=2)
    expect_identical(before, dict(normed.named_parameters()), "after a refused batch of one")


PROPERTIES = (
    Property(a_frozen_encoder_keeps_still, "method"),
    Property(wrapped_encoders_are_the_same, "method"),
    Property(a_model_of_ones_own, "method"),
    Property(every_fusion_trains_or_is_refused, "method", tuple((name,) for name in fusions.available())),
    Property(bad_batches_are_refused, "method"),
    Property(batches_of_every_form_are_the_same, "method"),
    Property(a_batch_of_one_trains_or_is_refused, "method"),
)
