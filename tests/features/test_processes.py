"""Two processes equal one, in a plain loop and through Lightning's DDP; exact evaluation; one failure stops all."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from equimodal.engine._processes import ExactSampler
from equimodal.errors import DataError
from equimodal.methods import available
from tests.features import workers
from tests.features.helpers import SETTINGS, Setting, data, departure, plain_method
from tests.helpers import assert_near, setting_id, sgd, split, train, weights

pytestmark = pytest.mark.distributed
DEFAULTS: list[Setting] = [(name, {}) for name in available()]


def local(name: str) -> bool:
    """Statistics that each process keeps of its own samples until they are summed."""
    return ".covariances." in name or name.startswith(("numerators", "denominators"))


def check(folder: Path, feature: str, way: str, settings: list[Setting]) -> None:
    cases = [(s, uneven, way) for s in settings for uneven in (False, True) if not (uneven and s[1].get("mixup_alpha"))]
    ranks = workers.run(workers.train_all, folder, cases)
    for number, (setting, uneven, _) in enumerate(cases):
        label = f"{setting_id(setting)}, uneven: {uneven}"
        kind = departure(setting, feature)
        ours, theirs = (r[number] for r in ranks)
        if kind == "refused":
            assert ours[0] == theirs[0] == "UnsupportedError", label
            assert ours[2] == theirs[2] == [], f"{label}: moved before it refused"
            continue
        assert isinstance(ours, dict), f"{label}: {ours}"
        shared = [n for n in ours if not local(n)]
        assert all(torch.equal(ours[n], theirs[n]) for n in shared), f"{label}: replicas differ"
        if kind is not None:
            continue
        whole = plain_method(setting)
        found = workers.batches(uneven)
        train(whole, sgd(whole, clip_norm=0.5), range(1), found, total=2 if way == "plain" else 1)
        try:
            assert_near({n: t for n, t in weights(whole).items() if n in shared}, {n: ours[n] for n in shared}, 1e-9)
        except AssertionError as error:
            raise AssertionError(f"{label}: {error}") from error


def test_processes(tmp_path: Path) -> None:
    """Half batches on two processes against the joined batches on one, with the options that the tests know."""
    check(tmp_path / "group", "processes", "plain", SETTINGS)


def test_trainer(tmp_path: Path) -> None:
    """The same through the Trainer, whose own reduction would stop at the first idle encoder."""
    pytest.importorskip("lightning")
    check(tmp_path / "group", "trainer", "trainer", DEFAULTS)


@pytest.mark.parametrize("padded", [False, True], ids=["exact sampler", "Lightning's padded sampler"])
def test_evaluation(tmp_path: Path, padded: bool) -> None:
    """Seven samples: the scores are those of one process on all seven, on both processes."""
    ranks = workers.run(workers.evaluate_all, tmp_path / "group", DEFAULTS if not padded else DEFAULTS[:2], padded)
    batch = data(7, 9)
    for setting, ours, theirs in zip(DEFAULTS, *ranks, strict=False):
        assert ours == theirs
        if setting[0] == "GBlend":  # weighs by validation losses, and here the two are given other validation samples
            continue
        method = plain_method(setting)
        train(method, sgd(method, clip_norm=0.5), range(1), [data()], total=1)
        prediction = method.predict(batch.inputs)
        assert batch.target is not None
        expected = float((prediction.output.argmax(1) == batch.target).sum()) / 7
        if departure(setting, "trainer") is None:
            assert ours["validation/score"] == pytest.approx(expected, abs=1e-6), setting
            loss = method.task.loss(prediction.output, batch.target)
            assert ours["validation/loss"] == pytest.approx(float(loss), abs=1e-5), setting
        assert ours["validation/score"] * 7 == pytest.approx(round(ours["validation/score"] * 7), abs=1e-5)


def test_a_failure_on_one_process_stops_all_of_them(tmp_path: Path) -> None:
    """A NaN on one of two: both raise, one says what, both can go on; statistics of both are as they were."""
    settings = [s for s in DEFAULTS if departure(s, "nonfinite") is None and departure(s, "processes") != "refused"]
    ranks = workers.run(workers.fail_on_one, tmp_path / "group", settings)
    for setting, ours, theirs in zip(settings, *ranks, strict=False):
        assert "another process" in ours[0][0], setting
        assert "inputs['a']" in theirs[0][0], setting
        assert ours[1], setting
        assert theirs[1], setting
        shared = [n for n in ours[2] if not local(n) and "running_" not in n]
        assert all(torch.equal(ours[2][n], theirs[2][n]) for n in shared), setting
    assert "another process" in ranks[0][-2]
    assert "joint" in ranks[1][-2]
    assert len(ranks[0][-1]) > len(settings)
    assert all("another process" in text for text in ranks[0][-1])
    assert set(ranks[1][-1]) == {"on purpose"}


def test_the_exact_sampler() -> None:
    samplers = [ExactSampler(range(10), rank, 3) for rank in range(3)]
    assert sorted(i for s in samplers for i in s) == list(range(10))
    assert [len(s) for s in samplers] == [4, 3, 3]
    assert list(ExactSampler(range(3))) == [0, 1, 2]
    with pytest.raises(DataError, match="rank"):
        ExactSampler(range(3), 3, 3)


def test_micro_batches_on_one_process_are_the_halves_of_two() -> None:
    """What the parallel tests take for granted."""
    parts = split(data(12), 2)
    assert [len(p) for p in parts] == [6, 6]
