"""A run on two devices is the run on one, through Python, the command line and torchrun; what cannot be is refused."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import equimodal
from equimodal.errors import DataError, EquimodalWarning, MethodError, NonFiniteError, UnsupportedError
from equimodal.studies import ModelConfig, RunConfig, run
from equimodal.studies.runs._processes import check_processes
from tests.helpers import assert_near
from tests.studies.helpers import arrays, config, history, weights

pytestmark = pytest.mark.distributed
MODEL = ModelConfig(feature_size=6, size="small", encoders={m: {"norm": "layer"} for m in ("m1", "m2")})
"""Without batch statistics, which are of each process's part."""


def settings(method: str = "MultiLoss", devices: int = 1, **training: Any) -> RunConfig:
    one = config(method, precision="64-true", devices=devices, **{"epochs": 2, **training})
    return replace(one, model=MODEL, metrics=["f1"], logger=["csv"])


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole") / "run"
    run(settings(), folder)
    return folder


def assert_equal_runs(ours: Path, theirs: Path) -> None:
    assert_near(weights(ours), weights(theirs), 1e-6)  # stored in float32
    a, b = (json.loads((f / "metrics.json").read_text()) for f in (ours, theirs))
    assert a["test"]["f1"] == b["test"]["f1"]
    assert a["selection"] == b["selection"]
    for mine, other in zip(history(ours), history(theirs), strict=True):
        assert mine["validation"]["loss"] == pytest.approx(other["validation"]["loss"], abs=1e-6)


def test_two_processes_equal_one_and_go_on(tmp_path: Path, whole: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    seen: list[Any] = []
    metrics = run(settings(devices=2), tmp_path / "two", progress=seen.append)
    assert [e["epoch"] for e in seen] == [1, 2]
    assert metrics == json.loads((tmp_path / "two" / "metrics.json").read_text())
    assert_equal_runs(tmp_path / "two", whole)
    assert (tmp_path / "two" / "logs" / "csv" / "version_0" / "metrics.csv").is_file()
    assert not (tmp_path / "two" / "logs" / "csv" / "version_1").exists()
    with pytest.raises(DataError, match=r"training\.devices \(expected 2, found 1\)"):
        run(settings(devices=1), tmp_path / "two", resume=True)


def test_an_error_of_one_process_is_the_error_of_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    data = arrays()
    ready = data._store.sources["m1"]._ready
    assert ready is not None
    ready[3] = torch.nan
    with pytest.raises(NonFiniteError, match=r"inputs\['m1'\]"):
        run(settings(devices=2), tmp_path / "broken", data=data)


@pytest.mark.parametrize(
    ("change", "error", "text"),
    [
        ({"devices": 3}, MethodError, "at most 2, the processors"),
        ({"devices": 2, "batch_size": 15}, MethodError, r"multiple of the 2 devices.*--training.batch_size 14"),
        ({"devices": 0}, MethodError, "training.devices"),
    ],
)
def test_what_is_refused(
    change: dict[str, Any], error: type[Exception], text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    with pytest.raises(error, match=text):
        check_processes(settings(**change))


def test_methods_say_what_they_do_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    released = replace(settings("MIE", devices=2), options={"variant": "released"})
    with pytest.raises(UnsupportedError, match=r"MIE under 2 processes: each process would.*--devices 1"):
        check_processes(released)
    with pytest.warns(EquimodalWarning, match="MCR under 2 processes: every process permutes its own samples"):
        check_processes(settings("MCR", devices=2))


@pytest.mark.slow
def test_two_devices_from_the_command_line(tmp_path: Path, whole: Path) -> None:
    """Without torchrun; a machine with one processor would refuse it."""
    if (os.cpu_count() or 1) < 2:
        pytest.skip("one processor")
    command = [
        sys.executable, "-m", "equimodal", "train", "--config", str(whole / "config.yaml"), "--devices", "2", "--out",
        str(tmp_path / "two"), "--quiet",
    ]  # fmt: skip
    environment = {**os.environ, "PYTHONPATH": str(Path(equimodal.__file__).parents[1]), "OMP_NUM_THREADS": "1"}
    found = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert found.returncode == 0, found.stderr
    assert found.stdout.count("selected: epoch") == 1, "only this process prints"
    assert json.loads((tmp_path / "two" / "metrics.json").read_text())["selection"]["trained"] == 2
    assert_equal_runs(tmp_path / "two", whole)


@pytest.mark.slow
def test_torchrun_from_the_command_line(tmp_path: Path, whole: Path) -> None:
    """The recipe of the documentation."""
    command = [
        sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "equimodal",
        "train", "--config", str(whole / "config.yaml"), "--devices", "2", "--out", str(tmp_path / "two"), "--quiet",
    ]  # fmt: skip
    environment = {**os.environ, "PYTHONPATH": str(Path(equimodal.__file__).parents[1]), "OMP_NUM_THREADS": "1"}
    found = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert found.returncode == 0, found.stderr
    assert found.stdout.count("selected: epoch") == 1, "only the first process prints"
    assert_equal_runs(tmp_path / "two", whole)
