"""Worker processes: a run that is killed, a worker that dies, what is left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from equimodal.data import prepare
from equimodal.errors import DataError
from tests.data.prepare.cremad import bytes_of
from tests.data.prepare.toy import Toy, write_toy

pytestmark = pytest.mark.slow
ROOT = Path(__file__).resolve().parents[3]
_SCRIPT = """
import sys
from pathlib import Path
from equimodal.data import prepare
from tests.data.prepare.toy import Toy
if __name__ == "__main__":
    raw = Path(sys.argv[1])
    prepare.prepare(Toy, raw, raw.parent / "out", workers=2, delay=float(sys.argv[2]))
"""


def start(folder: Path, raw: Path, delay: float) -> subprocess.Popen[bytes]:
    script = folder / "go.py"
    script.write_text(_SCRIPT, encoding="utf-8")
    path = os.pathsep.join([str(ROOT), str(Path(prepare.__file__).parents[3])])
    environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen([sys.executable, str(script), str(raw), str(delay)], env=environment, cwd=folder)


def children(pid: int) -> list[int]:
    """All processes below ``pid``."""
    try:
        own = [int(p) for t in Path(f"/proc/{pid}/task").iterdir() for p in (t / "children").read_text().split()]
    except OSError:
        return []
    return [*own, *(p for child in own for p in children(child))]


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="needs /proc to find the worker processes")
def test_a_killed_run_goes_on_and_leaves_no_process_behind(tmp_path: Path) -> None:
    raw = write_toy(tmp_path / "raw", 100)
    process = start(tmp_path, raw, 0.02)
    data = tmp_path / "out.partial" / "a.rows"
    journal = tmp_path / "out.partial" / "journal.jsonl"
    deadline = time.monotonic() + 120
    while not (journal.exists() and len(journal.read_bytes().splitlines()) > 1):
        assert process.poll() is None, "the run was over before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.01)
    workers = children(process.pid)
    assert data.stat().st_size > 256
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    while any(Path(f"/proc/{pid}").exists() for pid in workers):
        assert time.monotonic() < deadline, "worker processes outlived the run"
        time.sleep(0.05)
    assert not (tmp_path / "out").exists()

    report = prepare.prepare(Toy, raw, tmp_path / "out", workers=2, delay=0.02)
    assert 0 < report.resumed < 100
    other = prepare.prepare(Toy, raw, tmp_path / "other", workers=0, delay=0.02)
    assert bytes_of(tmp_path / "out") == bytes_of(tmp_path / "other")
    assert report.fingerprint == other.fingerprint


def test_a_worker_that_dies_is_named_and_nothing_is_lost(tmp_path: Path) -> None:
    raw = write_toy(tmp_path / "raw")
    (raw / "020.a").write_text("die", encoding="utf-8")
    with pytest.raises(DataError, match=r"Found one dead.*'020'.*run the same command again"):
        prepare.prepare(Toy, raw, tmp_path / "out", workers=2)
    (raw / "020.a").write_text("20", encoding="utf-8")
    report = prepare.prepare(Toy, raw, tmp_path / "out", workers=0)
    assert report.samples == 24
    assert report.resumed > 0


def test_a_defect_in_a_worker_arrives_with_its_item(tmp_path: Path) -> None:
    raw = write_toy(tmp_path / "raw")
    (raw / "007.b").write_text("bug", encoding="utf-8")
    with pytest.raises(DataError, match="array `b` of '007'.*ZeroDivisionError"):
        prepare.prepare(Toy, raw, tmp_path / "out", workers=2)
