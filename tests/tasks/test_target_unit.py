"""Targets far from 0 are learnt in deviations from their mean: the same training, and scores in the target's unit."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from equimodal import Batch, PlainEngine, Regression
from equimodal.data import from_arrays, loader
from equimodal.diagnostics import evaluate, probe_scores
from equimodal.errors import TargetError
from equimodal.methods import available, get
from equimodal.tasks import RegressionLoss
from equimodal.testing import Case, plain_model, task_batch
from tests.faults.families import attempt, many
from tests.helpers import assert_near, companions_of, sgd, train

LOSSES: tuple[RegressionLoss, ...] = ("l1", "mse", "huber", "gaussian_nll")
SPLIT = np.array(["train"] * 48 + ["validation"] * 24 + ["test"] * 24)


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("size", [1, 3])
def test_loss_and_residual_are_those_of_the_standardised_target(loss: RegressionLoss, size: int) -> None:
    for rng in many(5, seed=5):
        m, d = rng.normal(size=size) * 100, rng.uniform(0.01, 50, size=size)
        task: Any = Regression(size, loss=loss, mean=m.tolist(), deviation=d.tolist())
        plain = Regression(size, loss=loss)
        task.double()
        m, d = task.mean.numpy(), task.deviation.numpy()  # as they are kept
        y = torch.from_numpy(m + d * rng.normal(size=(7, size)))
        z = torch.from_numpy(rng.normal(size=(7, task.outputs)))
        moved = (y - torch.from_numpy(m)) / torch.from_numpy(d)
        torch.testing.assert_close(task.loss(z, y), plain.loss(z, moved), rtol=0, atol=1e-12)
        torch.testing.assert_close(task.residual(z, y), plain.residual(z, moved), rtol=0, atol=1e-12)
        guess = m + d * z[:, :size].numpy()
        assert np.allclose(task.probabilities(z).reshape(7, size).numpy(), guess, rtol=1e-12)
        assert float(task.score(z, y)) == pytest.approx(-np.abs(guess - y.numpy()).mean(), rel=1e-12)


def test_a_wrong_unit_is_refused() -> None:
    for options in (
        {"deviation": 0.0},
        {"deviation": -1.0},
        {"mean": float("nan")},
        {"mean": [1.0, 2.0]},
        {"mean": "a"},
    ):
        made: dict[str, Any] = options
        with pytest.raises(TargetError, match=f"`{next(iter(made))}`: expected"):
            Regression(**made)


UNIT: dict[str, Any] = {"mean": [400.0, -3.0], "deviation": [50.0, 50.0]}


@pytest.mark.parametrize("name", available(outside=False))
def test_every_method_trains_as_on_standardised_targets(name: str) -> None:
    """The same weights, and predictions that differ by the unit, temperatures included."""
    case = Case(get(name), {}, companions_of(name))
    if "regression" not in case.method.info.tasks:
        pytest.skip("not for regressions")
    plain: Any = Regression(2, loss="gaussian_nll")
    task: Any = Regression(2, loss="gaussian_nll", **UNIT)
    made: dict[Any, Any] = {}
    for own in (plain, task):
        batches = [task_batch("gaussian", plain, 2, 8, seed, 0.2) for seed in range(3)]
        if own is task:
            y = [
                torch.as_tensor(b.target) * torch.tensor(UNIT["deviation"]) + torch.tensor(UNIT["mean"])
                for b in batches
            ]
            batches = [Batch(b.inputs, own_y, b.present, b.index) for b, own_y in zip(batches, y, strict=True)]
        method: Any = case.for_task("gaussian", 2, own)
        train(method, sgd(method, 0.01), range(2), batches, 2)
        method.fit_inference(batches)
        made[own] = (method, method.eval().predict(batches[0].inputs, batches[0].present).output)
    (one, expected), (two, found) = made.values()
    assert_near(dict(one.named_parameters()), dict(two.named_parameters()), 1e-9)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-9)
    guess = task.probabilities(found)
    assert torch.allclose(guess, plain.probabilities(expected) * task.deviation + task.mean, rtol=1e-9)


def dataset(y: Any) -> Any:
    x = {"a": np.random.default_rng(0).normal(size=(len(SPLIT), 3)), "b": np.random.default_rng(1).normal(size=(96, 2))}
    return from_arrays(x, y, SPLIT, task="regression")


def test_a_dataset_gives_the_unit_of_targets_that_are_far_from_an_output() -> None:
    for rng in many(30, seed=81):
        near = rng.normal(size=len(SPLIT)) * float(rng.uniform(0.3, 5)) + float(rng.uniform(-0.3, 0.3))
        assert not dataset(near).task.rescales
        far = near * float(rng.choice([1, 1e4, 1e-4])) + float(rng.choice([-1, 1])) * 10.0 ** int(rng.integers(2, 12))
        data = dataset(far)
        assert len(set(data.train.target.tolist())) == len(np.unique(far[:48]))  # none of them is rounded into another
        task = data.task
        assert float(task.mean) == pytest.approx(far[:48].mean(), rel=1e-6)
        assert float(task.deviation) == pytest.approx(far[:48].std(), rel=1e-4)
        nothing = torch.zeros(48, 1)  # what an untrained model says: the error of the mean, not of the number 0
        assert float(task.loss(nothing, data.train.target)) < 1.01
        error = np.abs(far[:48] - far[:48].mean()).mean()
        assert -float(task.score(nothing, data.train.target)) == pytest.approx(error, rel=1e-3)
        assert not data.choose_task(standardise=False).rescales
    assert dataset(near).choose_task(standardise=True, loss="mse").rescales


def test_options_of_the_unit() -> None:
    data = dataset(np.arange(96.0))
    assert float(data.choose_task(mean=3.0).mean) == 3
    with pytest.raises(TargetError, match="`standardise`: expected True, False or 'auto'"):
        data.choose_task(standardise="yes")
    with pytest.raises(TargetError, match="`standardise`: expected False beside"):
        data.choose_task(standardise=True, mean=1.0)
    same = np.where(np.arange(96)[:, None] % 2, [7.0, 1e6], [7.0, -1e6])
    task = dataset(same).choose_task()
    assert task.deviation.tolist() == [1.0, 1e6]  # of a number that is the same for all
    for values in (1e200 * np.arange(96.0), np.full(96, 1e-300) * np.arange(96)):
        found, message = attempt(lambda y=values: dataset(y).task)
        assert found is None or not found.rescales or np.isfinite(float(found.deviation)), message


def test_predictions_and_probes_are_in_the_unit_and_weights_keep_it() -> None:
    rng = np.random.default_rng(3)
    a = rng.normal(size=(96, 3))
    data: Any = from_arrays({"a": a, "b": rng.normal(size=(96, 2))}, 1300 + 2 * a[:, 0], SPLIT, task="regression")
    torch.manual_seed(0)
    method: Any = get("Joint")(plain_model({"a": 3, "b": 2}, 8, 1).float(), data.task)
    batches = list(loader(data.train, 16, seed=0))
    first = method.eval().predict(batches[0].inputs)
    assert float((data.task.probabilities(first.output) - 1300).abs().max()) < 10
    train(method, PlainEngine(torch.optim.Adam(method.parameters(), 0.01)), range(20), batches, 20)
    found = evaluate(method.eval(), loader(data.test, 16), metrics=True)
    assert found.metrics["mae"] == pytest.approx(-found.score, rel=1e-4)
    assert 0 < found.metrics["mae"] < 1
    parts: Any = [list(loader(part, 16, shuffle=False)) for part in (data.train, data.validation, data.test)]
    assert -1 < probe_scores(method, *parts)["a"] < 0
    other: Any = get("Joint")(plain_model({"a": 3, "b": 2}, 8, 1).float(), Regression(mean=5.0, deviation=3.0))
    other.load_state_dict(method.state_dict())
    torch.testing.assert_close(
        other.task.probabilities(other.eval().predict(batches[0].inputs).output),
        method.task.probabilities(method.predict(batches[0].inputs).output),
    )
    with pytest.raises(RuntimeError, match=r"task\.mean"):
        get("Joint")(plain_model({"a": 3, "b": 2}, 8, 1).float(), Regression()).load_state_dict(method.state_dict())
