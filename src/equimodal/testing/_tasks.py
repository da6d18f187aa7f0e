"""Properties on every task that a class declares."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from equimodal.errors import UnsupportedError
from equimodal.inference import PAPER_RULES, RULES, rules_for
from equimodal.tasks import distribution_of
from equimodal.testing._cases import Case
from equimodal.testing._expect import (
    NotApplicable,
    expect,
    expect_error,
    expect_finite,
    expect_identical,
    expect_near,
)
from equimodal.testing._loops import adamw, announce, fitted, loss_of, sgd, split, train, weights
from equimodal.testing._models import NAMES
from equimodal.testing._property import Property
from equimodal.testing._task_models import TASKS, task_batch

NAN = float("nan")
EXACT = ("classification", "weighted", "multilabel", "mse", "gaussian", "regions")
"""Tasks whose loss is a mean over samples; Dice over the pixels of a batch is of the part that is seen."""


def runs_learns_and_predicts_on_a_task(case: Case, name: str, count: int) -> None:
    """Training lowers the loss and stays finite; outputs have the task's shape; the rule is one it allows."""
    method = case.for_task(name, count)
    batch = task_batch(name, method.task, count)
    before = loss_of(method, batch)
    epochs = 4 if count == 2 else 2
    train(method, adamw(method, lr=2e-2, clip_norm=2.0), range(epochs), [batch] * 3, total=epochs)
    expect_finite(weights(method), "after training")
    if count == 2 and not case.is_wild:
        after = loss_of(method, batch)
        expect(after < before, f"expected the loss to fall below {before:.4f}. Found {after:.4f}.")
    prediction = method.predict(batch.inputs)
    spatial = batch.inputs[NAMES[0]].shape[2:] if method.task.dense else ()
    shape = (len(batch), method.task.outputs, *spatial)
    for key, output in {"output": prediction.output, **prediction.unimodal}.items():
        expect(tuple(output.shape) == shape, f"{key}: expected the shape {shape}. Found {tuple(output.shape)}.")
    expect_finite(method.task.probabilities(prediction.output), "probabilities")
    few = batch.select(torch.arange(2))  # what is fitted does not matter here, and takes its time with maps
    rule, allowed = fitted(method, [few]), (*rules_for(distribution_of(method.task)), *PAPER_RULES)
    expect(rule in allowed or not method.inference.rule, f"expected a rule of {allowed}. Found {rule!r}.")


def absent_content_influences_nothing_on_a_task(case: Case, name: str, count: int) -> None:
    """NaN or zeros in absent rows: the same losses, weights and predictions to the last bit."""
    seen: list[tuple[list[dict[str, float]], dict[str, Tensor], Tensor]] = []
    for value in (NAN, 0.0):
        method = case.for_task(name, count, **case.auto())
        case.allows_absent(method)
        batch = task_batch(name, method.task, count, size=12, absent=value)
        engine = sgd(method, lr=0.01)
        announce(method, engine, steps=2, batches=[batch])
        losses = []
        for _ in range(2):
            report = method.training_step(batch, engine)
            losses.append({n: float(v) for n, v in report.losses.items()})
        fitted(method, [batch])
        seen.append((losses, weights(method), method.predict(batch.inputs, batch.present).output))
    expect(seen[0][0] == seen[1][0], f"expected equal losses. Found {seen[0][0][-1]} and {seen[1][0][-1]}.")
    expect_identical(seen[0][1], seen[1][1], "with NaN in absent rows")
    expect_finite(seen[0][2], "predictions with NaN in absent rows")
    expect_identical({"output": seen[0][2]}, {"output": seen[1][2]}, "predictions with NaN in absent rows")


def subsets_are_predicted_or_refused_on_a_task(case: Case, name: str) -> None:
    """Subsets of the modalities give finite outputs, or are refused by name; at least one works."""
    method = case.for_task(name, 3)
    batch = task_batch(name, method.task, 3)
    refusals = []
    for subset in ((0,), (0, 2), (1, 2)):
        try:
            output = method.predict({NAMES[i]: batch.inputs[NAMES[i]] for i in subset}).output
        except UnsupportedError as error:
            expect("`inputs`" in str(error), f"modalities {subset}: expected `inputs` in the message. Found: {error}")
            refusals.append(str(error))
            continue
        expect_finite(output, f"prediction from the modalities {subset}")
    expect(len(refusals) < 3, f"expected a prediction from some subset. Found only refusals: {refusals[:1]}")


def micro_batches_are_one_batch_on_a_task(case: Case, name: str, absent: bool) -> None:
    """A batch in three uneven parts gives the weights of the whole (1e-9), with class weights and absent modalities."""
    case.claims("accumulation")
    ends = []
    for parts in (1, 3):
        method = case.for_task(name, 3)
        if absent:
            case.allows_absent(method)
        batch = task_batch(name, method.task, 3, size=11, absent=NAN if absent else None)
        whole: Any = batch if parts == 1 else split(batch, parts)
        train(method, sgd(method, lr=0.05, momentum=0.0), range(2), [whole], total=2)
        ends.append(weights(method))
    expect_near(ends[0], ends[1], 1e-9, "in three micro-batches")


def every_rule_works_or_is_refused(case: Case, name: str, rule: str) -> None:
    """Each inference rule gives finite outputs and weights that sum to 1, or is refused by name."""
    if not case.accepts("inference"):
        raise NotApplicable("has no option `inference`")
    method = case.for_task(name, 2)
    if rule not in rules_for(distribution_of(method.task)):
        with expect_error(UnsupportedError, r"`inference`: .{30}", f"the rule {rule!r} on this task"):
            case.for_task(name, 2, inference=rule)
        return
    try:
        method = case.for_task(name, 2, inference=rule)
    except UnsupportedError as error:
        expect("`inference`" in str(error), f"expected `inference` in the message. Found: {error}")
        return
    batch = task_batch(name, method.task, 2, absent=NAN)
    prediction = method.predict(batch.inputs, batch.present)
    expect(prediction.rule == rule, f"expected the rule {rule!r}. Found {prediction.rule!r}.")
    expect_finite(prediction.output, "output")
    if prediction.weights:
        gap = float((torch.stack(list(prediction.weights.values())).sum(0) - 1).abs().max())
        expect(gap < 1e-12, f"expected weights that sum to 1. Found a gap of {gap:g}.")


_COUNTS = tuple((name, count) for name in TASKS for count in (2, 3))
PROPERTIES = (
    Property(runs_learns_and_predicts_on_a_task, "task", _COUNTS, every_setting=False),
    Property(absent_content_influences_nothing_on_a_task, "task", _COUNTS, every_setting=False),
    Property(subsets_are_predicted_or_refused_on_a_task, "task", tuple((n,) for n in TASKS), every_setting=False),
    Property(
        micro_batches_are_one_batch_on_a_task, "task", tuple((n, a) for n in EXACT for a in (False, True)),
        every_setting=False,
    ),
    Property(
        every_rule_works_or_is_refused, "task", tuple((n, r) for n in TASKS for r in RULES if r != "auto"),
        every_setting=False,
    ),
)  # fmt: skip
