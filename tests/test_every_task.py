"""Every method on every task: it runs and learns, or is refused with a sentence that says why."""

from __future__ import annotations

import pytest
import torch

from equimodal import PlainEngine
from equimodal.errors import UnsupportedError
from equimodal.inference import RULES, rules_for
from equimodal.methods import available, get
from equimodal.tasks import distribution_of
from equimodal.testing import PROPERTIES, Case, Check, checks_of
from tests.helpers import assert_near, companions_of, run, sgd, split, train, weights
from tests.task_helpers import TASKS, finite, task_batch, task_method

METHODS = available(outside=False)
GENERAL = ("Joint", "MultiLoss", "Unimodal", "Ensemble", "PretrainFinetune", "ModalityDropout", "MLA", "CGGM", "MIE")
"""Methods that are defined for every task. What others declare is up to them."""
WITHOUT_HEAD, WITHOUT_HEADS = ("Ensemble", "MLA", "MIE"), ("Joint", "PretrainFinetune", "ModalityDropout")


def test_the_tasks_of_the_library_are_covered() -> None:
    names = {build().name for build in TASKS.values()}
    assert names == {"classification", "multilabel", "regression", "segmentation"}
    assert all(set(get(m).info.tasks) == names for m in GENERAL)


def checks() -> list[Check]:
    """Every property of the tasks, on every method at its defaults."""
    cases = [Case(get(name), shared=companions_of(name)) for name in METHODS]
    return [c for p in PROPERTIES.values() if p.group == "task" for case in cases for c in checks_of(p, [case])]


@pytest.mark.parametrize("check", checks(), ids=str)
def test_property(check: Check) -> None:
    run(check)


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


@pytest.mark.parametrize("name", list(TASKS))
@pytest.mark.parametrize("method", [m for m in GENERAL if m != "Unimodal"])
def test_which_rules_are_refused(method: str, name: str) -> None:
    """The properties accept any refusal by name; these are the ones there should be."""
    kind = distribution_of(TASKS[name]())
    for rule in (r for r in RULES if r != "auto"):
        # without heads of their own these have the addends of a number, none of which predicts it
        addends = rule not in ("fused", "skill") and kind in ("gaussian", "point") and method in WITHOUT_HEADS
        if rule not in rules_for(kind) or addends or (rule == "fused" and method in WITHOUT_HEAD):
            with pytest.raises(UnsupportedError, match=r"`inference`: .{30}"):
                task_method(method, name, 2, inference=rule)
        else:
            assert task_method(method, name, 2, inference=rule).inference.rule == rule


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
