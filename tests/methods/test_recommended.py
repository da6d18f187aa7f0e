"""What each method class recommends can be built, trained and read for every task that the class supports."""

from __future__ import annotations

import inspect
import warnings

import pytest

from equimodal.errors import EquimodalWarning
from equimodal.methods import CGGM, MIE, MLA, EpochContext, Joint, available, get
from equimodal.testing import TASKS, sgd, task_batch, task_model


@pytest.mark.parametrize("task_name", ["classification", "multilabel", "l1", "gaussian", "segmentation"])
@pytest.mark.parametrize("name", available(outside=False))
def test_it_can_be_built_trained_and_read(name: str, task_name: str) -> None:
    task = TASKS[task_name]()
    if task.name not in get(name).info.tasks:
        pytest.skip("the class does not support the task")
    parameters = inspect.signature(get(name).__init__).parameters.values()
    if any(p.default is p.empty and p.kind is p.KEYWORD_ONLY for p in parameters):
        pytest.skip("the class needs finished runs")
    options = get(name).recommended(task)
    method = get(name)(task_model(task_name, task, 3), task, **options).double()
    batch = task_batch(task_name, task, 3, 8)
    engine = sgd(method)
    method.on_train_epoch_start(EpochContext(0, epochs=1, steps=1, loader=[batch], engine=engine, validation=[batch]))
    method.training_step(batch, engine)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", EquimodalWarning)  # eight samples
        rule = method.fit_inference([batch])
    assert rule == options.get("inference", rule)
    assert method.predict(batch.inputs).output.shape[0] == 8


def test_the_papers_stay_the_defaults() -> None:
    task = TASKS["classification"]()
    for method in (MLA, MIE, CGGM, Joint):
        assert method(task_model("classification", task, 2), task).inference.rule != "skill"
