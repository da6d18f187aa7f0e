"""A comparison with workers ends at any moment at which it is asked to, and the same call continues it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.faults.families import TIMES, many

pytest.importorskip("lightning")
_SCRIPT = """
import sys
from pathlib import Path

if __name__ == "__main__":  # the workers import this file too
    from equimodal.studies import DataConfig, Entry, ModelConfig, StudyConfig, TrainingConfig, compare

    data = DataConfig("synthetic", options={"train": 3000, "validation": 24, "test": 24})
    training = TrainingConfig(epochs=500, batch_size=16, device="cpu")
    entries = {"Joint": Entry("Joint"), "MultiLoss": Entry("MultiLoss")}
    study = StudyConfig(entries, [0, 1], data, ModelConfig(feature_size=8, size="small"), training, controls=False)
    print("ready", flush=True)
    compare(study, Path(sys.argv[1]), workers=2, cost=False)
"""
_LIMIT = 30.0 * float(os.environ.get("EQUIMODAL_SLOWER", "1"))


def ended(folder: Path, root: Path, seconds: float) -> tuple[int, float, str]:
    """Exit code, seconds until the end, and what was said, of a comparison that is told to end after ``seconds``."""
    script = folder / "go.py"
    script.write_text(_SCRIPT)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(root / "src"), str(root)]), "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        [sys.executable, str(script), str(folder / "s")],
        env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        time.sleep(seconds)
        asked = time.monotonic()
        process.send_signal(signal.SIGTERM)
        said = process.communicate(timeout=2 * _LIMIT)[1]
        return process.returncode, time.monotonic() - asked, said
    finally:
        process.kill()
        process.wait()


def check(folder: Path, root: Path, seconds: float) -> None:
    folder.mkdir()
    code, took, said = ended(folder, root, seconds)
    # before the comparison listens it is ended by the system
    assert code in (75, -signal.SIGTERM), said
    assert code == 75 or seconds < 1, said
    assert took < _LIMIT, f"{took:.0f} s after SIGTERM at {seconds:.1f} s"
    assert code != 75 or "--workers 2 --cost false" in said


def test_a_comparison_ends_while_its_workers_start(tmp_path: Path, root: Path) -> None:
    check(tmp_path / "a", root, 1.0)


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="there is no SIGTERM")
def test_a_comparison_ends_at_any_moment(tmp_path: Path, root: Path) -> None:
    for number, rng in enumerate(many(5, seed=70)):
        check(tmp_path / str(number), root, float(rng.uniform(0.0, 20.0 if TIMES > 1 else 12.0)))
