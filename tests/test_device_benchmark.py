"""The benchmark for accelerators runs on a processor too, small, and its numbers fit together."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
import torch

pytest.importorskip("lightning")  # the benchmark times with the studies' own clock


@pytest.fixture
def device(root: Path) -> Iterator[ModuleType]:
    """benchmarks/device.py as a module."""
    spec = importlib.util.spec_from_file_location("device_benchmark", root / "benchmarks" / "device.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["device_benchmark"] = module
    before = torch.backends.cudnn.benchmark
    spec.loader.exec_module(module)
    yield module
    torch.backends.cudnn.benchmark = before
    del sys.modules["device_benchmark"]


def test_a_small_run(
    device: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(device, "STACKS", {"two layers": (2,)})
    out = tmp_path / "results" / "device.json"
    arguments = ["--model=small", "--batch=4", "--rounds=2", "--product=16", "--methods=Joint", "--modes=default",
                 "--backend=eager", "--precision=float32", "--peak=0.5", f"--out={out}"]  # fmt: skip
    assert device.main(arguments) == 0
    result = json.loads(out.read_text(encoding="utf-8"))
    rows = {row["entry"]: row for row in result["rows"]}
    assert set(rows) >= {"hand-written loop", "Joint"}
    assert rows["Joint"]["time"] == 1
    assert (result["peak_flops_per_second"], result["peak_source"]) == (0.5e12, "--peak")
    for row in rows.values():
        expected = row["step_flops"] * row["steps_per_second"] / 0.5e12
        assert row["share_of_peak"] == pytest.approx(expected)
    # two encoders of 32 x 64 and 64 x 64, a head of 128 x 6: forwards, and backwards to weights and features
    layers = 2 * (32 * 64 * 2 + 64 * 64 * 3) + 128 * 6 * 3
    assert rows["hand-written loop"]["step_flops"] == 2 * 4 * layers == rows["Joint"]["step_flops"]
    assert [(row["entry"], row["mode"]) for row in result["modes"]] == [("Joint", "default")]
    assert [(row["encoders"], row["modalities"]) for row in result["stacked"]] == [("two layers", 2)]
    assert all(row["time"] > 0 for table in ("modes", "stacked") for row in result[table])
    text = capsys.readouterr().out
    assert "Joint: default" in text
    assert "stacked: 2 x two layers" in text


def test_peaks_by_name(device: ModuleType) -> None:
    half = torch.bfloat16
    assert device.peak("NVIDIA H100 80GB HBM3", None, half, 1.0) == (989e12, "data sheet of H100")
    assert device.peak("NVIDIA H100 PCIe", None, half, 1.0)[0] == 756e12
    assert device.peak("NVIDIA H200", None, None, 1.0) == (67e12, "data sheet of H200")
    assert device.peak("NVIDIA L40S", None, half, 1.0)[0] == 362e12
    assert device.peak("cpu", None, half, 3.0) == (3.0, "matrix product")
    assert device.peak("NVIDIA H100 80GB HBM3", 2.0, half, 1.0) == (2e12, "--peak")


@pytest.mark.skipif(shutil.which("sh") is None, reason="no shell")
def test_the_script_runs_all_parts_and_fails_with_one_of_them(root: Path, tmp_path: Path) -> None:
    """With programs in the place of Python: one says what it is given, one fails."""
    parts = ["device", "device-float32", "tests"]
    for program, code in (("echo", 0), ("false", 1)):
        out = tmp_path / program
        run = subprocess.run(
            ["sh", str(root / "scripts" / "device.sh"), str(out)], env={**os.environ, "PYTHON": program},
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert run.returncode == code
        assert [line for line in run.stdout.splitlines() if line.startswith("==")] == [f"== {name}" for name in parts]
        assert sorted(p.name for p in out.iterdir()) == sorted(f"{name}.log" for name in parts)
    said = [(tmp_path / "echo" / f"{name}.log").read_text(encoding="utf-8") for name in parts]
    assert f"benchmarks/device.py --out {tmp_path}/echo/device.json" in said[0]
    assert "--precision float32" in said[1]
    assert "-m gpu" in said[2]
    assert f"--junitxml={tmp_path}/echo/tests.xml" in said[2]


def test_unknown_entries_are_refused(device: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    for methods in ("Joint;Jont", "MLA"):
        with pytest.raises(SystemExit):
            device.main(["--methods", methods])
        assert "expected Joint and others" in capsys.readouterr().err
