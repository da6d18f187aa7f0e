"""Every method on every task: it runs and learns, or is refused with a sentence that says why."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from equimodal import Batch, PlainEngine
from equimodal.errors import UnsupportedError
from equimodal.inference import RULES, rules_for
from equimodal.methods import Method, available, get
from equimodal.tasks import distribution_of
from tests.helpers import NAMES, adamw, announce, assert_identical, assert_near, sgd, split, train, weights
from tests.task_helpers import NAN, TASKS, finite, task_batch, task_method

METHODS = available()
every_task = pytest.mark.parametrize("name", list(TASKS))
every_method = pytest.mark.parametrize("method", METHODS)


def test_the_tasks_of_the_library_are_covered() -> None:
    names = {build().name for build in TASKS.values()}
    assert names == {"classification", "multilabel", "regression", "segmentation"}
    assert all(set(get(m).info.tasks) == names for m in METHODS)


def loss_of(method: Method, batch: Batch) -> float:
    assert batch.target is not None
    return float(method.task.loss(method.predict(batch.inputs, batch.present).output, batch.target))


@every_method
@every_task
@pytest.mark.parametrize("count", [2, 3])
def test_it_runs_learns_and_predicts(method: str, name: str, count: int) -> None:
    ours = task_method(method, name, count)
    batch = task_batch(name, ours.task, count)
    before = loss_of(ours, batch)
    epochs = 4 if count == 2 else 2
    train(ours, adamw(ours, lr=2e-2, clip_norm=2.0), range(epochs), [batch] * 3, total=epochs)
    assert finite(ours)
    if count == 2:
        assert loss_of(ours, batch) < before
    prediction = ours.predict(batch.inputs)
    expected = (len(batch), ours.task.outputs, *([] if not ours.task.dense else batch.inputs[NAMES[0]].shape[2:]))
    assert prediction.output.shape == expected
    assert all(z.shape == expected for z in prediction.unimodal.values())
    read = ours.task.probabilities(prediction.output)
    assert torch.isfinite(read).all()
    rule = ours.fit_inference([batch])
    assert rule in rules_for(distribution_of(ours.task))


@every_method
@every_task
@pytest.mark.parametrize("count", [2, 3])
def test_absent_content_influences_nothing(method: str, name: str, count: int) -> None:
    seen: list[tuple[list[dict[str, float]], dict[str, Tensor], Tensor]] = []
    for value in (NAN, 0.0):
        options: dict[str, Any] = {} if method == "Unimodal" else {"inference": "auto"}
        ours = task_method(method, name, count, **options)
        batch = task_batch(name, ours.task, count, size=12, absent=value)
        engine = sgd(ours, lr=0.01)
        announce(ours, engine, steps=2)
        losses = []
        for _ in range(2):
            report = ours.training_step(batch, engine)
            losses.append({n: float(v) for n, v in report.losses.items()})
        ours.fit_inference([batch])
        seen.append((losses, weights(ours), ours.predict(batch.inputs, batch.present).output))
    assert seen[0][0] == seen[1][0]
    assert_identical(seen[0][1], seen[1][1])
    assert torch.isfinite(seen[0][2]).all()
    assert torch.equal(seen[0][2], seen[1][2])


@every_method
@every_task
def test_any_subset_can_be_predicted(method: str, name: str) -> None:
    ours = task_method(method, name, 3)
    batch = task_batch(name, ours.task, 3)
    for subset in ((0,), (0, 2), (1, 2)):
        inputs = {NAMES[i]: batch.inputs[NAMES[i]] for i in subset}
        if method == "Unimodal" and ours.task.dense and 0 not in subset:
            with pytest.raises(UnsupportedError, match="one modality of this method"):
                ours.predict(inputs)
            continue
        assert torch.isfinite(ours.predict(inputs).output).all()


# ---- micro-batches --------------------------------------------------------------------------------------------------

EXACT = ["classification", "weighted", "multilabel", "mse", "gaussian", "regions"]


@pytest.mark.parametrize(
    "method", ["Joint", "MultiLoss", "Ensemble", "PretrainFinetune", "Unimodal", "MLA", "CGGM", "MIE"]
)
@pytest.mark.parametrize("name", EXACT)
@pytest.mark.parametrize("absent", [False, True])
def test_micro_batches_are_one_batch(method: str, name: str, absent: bool) -> None:
    """Class weights, absent modalities and uneven parts included; Dice over a batch alone is of the part seen."""
    options: dict[str, Any] = {"sam": None} if method == "MIE" else {}
    ends = []
    for parts in (1, 3):
        ours = task_method(method, name, 3, **options)
        batch = task_batch(name, ours.task, 3, size=11, absent=NAN if absent else None)
        given: Any = batch if parts == 1 else split(batch, parts)
        train(ours, sgd(ours, lr=0.05, momentum=0.0), range(2), [given], total=2)
        ends.append(weights(ours))
    assert_near(ends[0], ends[1], 1e-9)


def test_ignored_pixels_under_accumulation() -> None:
    """The cross-entropy of a segmentation is a mean over the pixels that count, however they are spread."""
    from equimodal.tasks import Segmentation

    ends = []
    for parts in (1, 4):
        task = Segmentation(3, dice_weight=0.0, class_weight=[0.2, 0.3, 0.5], ignore_index=9)
        ours = task_method("MultiLoss", "segmentation", 2, task=task)
        batch = task_batch("segmentation", task, 2, absent=0.0)
        assert batch.target is not None
        batch.target[:3] = 9  # the first part has nothing to learn from
        train(ours, sgd(ours), range(2), [batch if parts == 1 else split(batch, parts)], total=2)
        ends.append(weights(ours))
    assert_near(ends[0], ends[1], 1e-9)


# ---- refusals -------------------------------------------------------------------------------------------------------


@every_method
@every_task
@pytest.mark.parametrize("rule", [r for r in RULES if r != "auto"])
def test_every_rule_works_or_is_refused(method: str, name: str, rule: str) -> None:
    if method == "Unimodal":
        pytest.skip("has one modality and so no rule")
    kind = distribution_of(TASKS[name]())
    # without heads of their own these have the addends of a number, none of which predicts it
    addends = kind in ("gaussian", "point") and method in ("Joint", "PretrainFinetune", "ModalityDropout")
    no_head = rule == "fused" and method in ("Ensemble", "MLA", "MIE")
    if rule not in rules_for(kind) or no_head or (addends and rule != "fused"):
        with pytest.raises(UnsupportedError, match=r"`inference`: .{30}"):
            task_method(method, name, 2, inference=rule)
        return
    ours = task_method(method, name, 2, inference=rule)
    batch = task_batch(name, ours.task, 2, absent=NAN)
    prediction = ours.predict(batch.inputs, batch.present)
    assert prediction.rule == rule
    assert torch.isfinite(prediction.output).all()
    if prediction.weights:
        total = torch.stack(list(prediction.weights.values())).sum(0)
        assert (total - 1).abs().max() < 1e-12


@pytest.mark.parametrize("name", ["l1", "mse", "huber"])
def test_a_number_has_no_uncertainty(name: str) -> None:
    for rule in ("uncertainty", "precision"):
        with pytest.raises(UnsupportedError, match="gaussian_nll"):
            task_method("MLA", name, 2, inference=rule)
    assert task_method("MLA", name, 2).inference.rule == "mean"
    with pytest.raises(UnsupportedError, match="nothing to calibrate"):
        task_method("MLA", name, 2, calibrated=True)
    assert task_method("MLA", "gaussian", 2).inference.rule == "uncertainty"


def test_mixup_where_it_is_defined() -> None:
    for name in ("segmentation", "regions", "volume"):
        with pytest.raises(UnsupportedError, match="no label map"):
            task_method("MIE", name, 2, mixup_alpha=1.0)
    for name in ("weighted", "multilabel", "l1", "gaussian"):
        ours = task_method("MIE", name, 2, mixup_alpha=1.0)
        train(ours, sgd(ours, lr=0.01), range(1), [task_batch(name, ours.task, 2)], total=1)
        assert finite(ours)


def test_the_released_fusion_of_mla_is_for_classes() -> None:
    for name in ("multilabel", "l1", "segmentation"):
        with pytest.raises(UnsupportedError, match="released code of MLA"):
            task_method("MLA", name, 2, variant="released")


def test_the_engine_can_be_any_optimizer() -> None:
    ours = task_method("CGGM", "l1", 2, window=1)
    engine = PlainEngine(torch.optim.Adam(ours.parameter_groups(lr=1e-2)))
    train(ours, engine, range(2), [task_batch("l1", ours.task, 2)] * 3, total=2)
    assert finite(ours)
