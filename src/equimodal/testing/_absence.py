"""Properties about absent modalities, and about checkpoints."""

from __future__ import annotations

import io
import math
from functools import partial
from typing import Any

import torch
from torch import Tensor

from equimodal.batch import Batch, tree_map
from equimodal.errors import BatchError
from equimodal.methods import Method
from equimodal.testing._cases import Case
from equimodal.testing._data import ToyData
from equimodal.testing._expect import (
    expect,
    expect_error,
    expect_finite,
    expect_identical,
    expect_near,
    subset,
)
from equimodal.testing._loops import announce, fitted, sgd, train, validation_of, weights
from equimodal.testing._models import NAMES, toy_batch
from equimodal.testing._property import Property


def absent_pair(count: int = 3, size: int = 12) -> tuple[Batch, Batch]:
    """The same batch with NaN, and with zeros, in absent rows of two modalities."""
    batch = toy_batch(count, size)
    present = {NAMES[0]: torch.arange(size) % 3 != 0, NAMES[1]: torch.arange(size) % 4 != 1}

    def fill(value: float) -> Batch:
        x = dict(batch.inputs)
        for m, mask in present.items():
            x[m] = tree_map(partial(_where, mask, value), x[m])
        return Batch(x, batch.target, present, batch.index)

    return fill(math.nan), fill(0.0)


def _where(mask: Tensor, value: float, t: Tensor) -> Tensor:
    return torch.where(mask.reshape(-1, *[1] * (t.ndim - 1)), t, value)


def absent_content_influences_nothing(case: Case) -> None:
    """NaN or zeros in absent rows: the same losses, weights and predictions to the last bit."""
    dirty, clean = absent_pair()
    ours, theirs = case.make(3, **case.auto()), case.make(3, **case.auto())
    case.allows_absent(ours)
    reports: list[list[dict[str, float]]] = [[], []]
    for seen, method, batch in zip(reports, (ours, theirs), (dirty, clean), strict=True):
        engine = case.engine(method)
        announce(method, engine, steps=3, batches=[batch])
        for _ in range(3):
            seen.append({n: float(v) for n, v in method.training_step(batch, engine).losses.items()})
        train(method, engine, range(3), [batch], total=3)
        fitted(method, [batch])
    expect(reports[0] == reports[1], f"expected equal losses. Found {reports[0][-1]} and {reports[1][-1]}.")
    expect_identical(weights(ours), weights(theirs), "with NaN in absent rows")
    a, b = ours.predict(dirty.inputs, dirty.present), theirs.predict(clean.inputs, clean.present)
    outputs = {"output": a.output, **a.unimodal}
    expect_finite(outputs, "predictions with NaN in absent rows")
    expect_identical(outputs, {"output": b.output, **b.unimodal}, "predictions with NaN in absent rows")


def a_modality_of_nobody_is_one_left_out(case: Case) -> None:
    """A batch in which no sample has a modality trains as one without it, and leaves its encoder alone."""
    batch = toy_batch(3)
    for gone in NAMES[:3]:
        masked, short = case.make(3), case.make(3)
        case.allows_absent(masked)
        nobody = Batch(batch.inputs, batch.target, {gone: torch.zeros(12, dtype=torch.bool)}, batch.index)
        left_out = Batch({m: x for m, x in batch.inputs.items() if m != gone}, batch.target, None, batch.index)
        before = weights(masked)
        train(masked, sgd(masked), range(2), [nobody], total=2)
        train(short, sgd(short), range(2), [left_out], total=2)
        after = weights(masked)
        expect_near(after, weights(short), 1e-12, f"without {gone!r}")
        expect_finite(after, f"without {gone!r}")
        encoder = {n for n in before if n.startswith(f"model.encoders.{NAMES.index(gone)}.")}
        expect_identical(subset(before, encoder), subset(after, encoder), f"encoder of {gone!r}, which nobody has")
        a, b = masked.predict(batch.inputs, nobody.present).output, masked.predict(left_out.inputs).output
        expect_finite(a, f"prediction without {gone!r}")
        expect_near({"output": a}, {"output": b}, 1e-6, f"predictions without {gone!r}")


def every_subset_can_be_predicted(case: Case) -> None:
    """Any subset of the modalities gives probabilities; a sample without any modality is refused by name."""
    method, batch = case.make(3), toy_batch(3)
    for subset_ in ((0,), (1,), (2,), (0, 2), (0, 1, 2)):
        p = method.predict({NAMES[i]: batch.inputs[NAMES[i]] for i in subset_}).probabilities
        gap = float((p.sum(1) - 1).abs().max())
        expect(gap < 1e-12, f"modalities {subset_}: expected probabilities that sum to 1. Found a gap of {gap:g}.")
    with expect_error(BatchError, "unknown|expected some of the modalities", "an unknown modality"):
        method.predict({"smell": torch.zeros(2, 1)})
    with expect_error(BatchError, "expected some of the modalities", "no modality"):
        method.predict({})
    with expect_error(BatchError, "at least one modality per sample", "samples without any modality"):
        method.predict(batch.inputs, {m: torch.zeros(12, dtype=torch.bool) for m in NAMES[:3]})
    with expect_error(BatchError, "at least one modality per sample", "samples without any modality"):
        method.predict({NAMES[0]: batch.inputs[NAMES[0]]}, {NAMES[0]: torch.arange(12) > 3})


# ---- checkpoints -----------------------------------------------------------------------------------------------------


def resuming_is_exact(case: Case) -> None:
    """Ten steps equal five (or seven, inside an epoch), saved, loaded into fresh objects, and the rest, bit for bit."""
    batches = [toy_batch(3, seed=s) for s in range(5)]

    def fresh() -> tuple[Method, Any, ToyData]:
        method = case.make(3, **case.auto())
        return method, case.engine(method), ToyData(batches)

    def steps(method: Method, engine: Any, data: ToyData, plan: list[tuple[int, int]]) -> None:
        for epoch, step in plan:
            context = data.context(epoch, 2, engine)
            method.train()
            if step == 0:
                method.on_train_epoch_start(context)
            entries = data.epoch()
            method.training_step(entries[step % len(entries)], engine)
            if step == 4:
                method.on_train_epoch_end(context)
                method.on_validation_end(validation_of(method, batches, 0.5 - 0.1 * epoch))
                fitted(method, [batches[0]])

    plan = [(epoch, step) for epoch in range(2) for step in range(5)]
    straight, engine, data = fresh()
    steps(straight, engine, data, plan)
    x = batches[0].inputs
    first, engine, data = fresh()
    for begin, at in ((0, 5), (5, 7)):  # the same training, saved between epochs and inside one
        steps(first, engine, data, plan[begin:at])
        file = io.BytesIO()
        states = {"method": first, "optimizer": engine.optimizers[0], "loader": data.loader}
        torch.save({name: part.state_dict() for name, part in states.items()}, file)
        file.seek(0)
        state = torch.load(file, weights_only=True)
        random_state = torch.get_rng_state()
        torch.manual_seed(99)
        second, new_engine, new_data = fresh()
        with torch.no_grad():
            for p in second.parameters():
                p.add_(1.0)
        second.load_state_dict(state["method"])
        new_engine.optimizers[0].load_state_dict(state["optimizer"])
        new_data.loader.load_state_dict(state["loader"])
        steps(second, new_engine, new_data, plan[at:])
        expect_identical(weights(straight), weights(second), f"continued after {at} of 10 steps")
        a, b = straight.predict(x), second.predict(x)
        expect_identical({"output": a.output}, {"output": b.output}, f"predictions continued after {at} of 10 steps")
        expect(a.rule == b.rule, f"expected the inference rule {a.rule!r} after loading. Found {b.rule!r}.")
        torch.set_rng_state(random_state)


PROPERTIES = (
    Property(absent_content_influences_nothing, "method"),
    Property(a_modality_of_nobody_is_one_left_out, "method"),
    Property(every_subset_can_be_predicted, "method"),
    Property(resuming_is_exact, "method"),
)
