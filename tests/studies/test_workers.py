"""Workers of a comparison: warm processes that do one task after the other, and what happens when one dies."""

from __future__ import annotations

import math
import multiprocessing
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Generator
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("lightning")

from equimodal.studies import Entry, StudyConfig, StudyError, compare
from equimodal.studies.comparisons import WorkerDiedError, WorkerPool, _workers, worker_pool
from equimodal.studies.runs import Terminated, Termination
from tests.studies.helpers import assert_same_run, config


@contextmanager
def pool(count: int = 1, folder: Path = Path("f"), termination: Termination | None = None) -> Generator[WorkerPool]:
    with worker_pool(count, Termination() if termination is None else termination, folder) as made:
        yield made


def done(made: WorkerPool, tasks: list[Future[Any]]) -> None:
    left = set(tasks)
    while left:
        left -= set(made.wait())


def test_a_worker_does_one_task_after_the_other_and_is_replaced_in_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_workers, "CELLS", 3)
    monkeypatch.setenv("EQUIMODAL_SEEN", "there")
    with pool() as made:
        seen = made.submit(os.getenv, "EQUIMODAL_SEEN")
        tasks = [made.submit(os.getpid) for _ in range(5)]
        done(made, [seen, *tasks])
    assert seen.result() == "there"
    found = [task.result() for task in tasks]
    assert found[0] == found[1]
    assert found[2] == found[3] == found[4] != found[0]
    assert os.getpid() not in found
    assert not multiprocessing.active_children()


def test_what_a_task_raises_travels_with_its_traceback() -> None:
    with pool() as made:
        usual, odd, good = (
            made.submit(math.sqrt, -1.0),
            made.submit(compile, "1 +", "a.py", "eval"),
            made.submit(int, 1),
        )
        done(made, [usual, odd, good])
    assert isinstance(usual.exception(), ValueError)
    assert "math domain error" in "".join(usual.exception().__notes__)  # type: ignore[union-attr]
    assert isinstance(odd.exception(), SyntaxError)
    assert good.result() == 1


def test_a_worker_that_dies_takes_its_task_with_it_and_no_other() -> None:
    with pool(2) as made:
        before, dies, after = made.submit(os.getpid), made.submit(os._exit, 3), made.submit(os.getpid)
        done(made, [before, dies, after])
        more = [made.submit(os.getpid) for _ in range(4)]
        done(made, more)
    assert isinstance(dies.exception(), WorkerDiedError)
    assert "exit code 3" in str(dies.exception())
    assert before.exception() is None
    assert after.exception() is None
    assert all(task.exception() is None for task in more)


def test_a_worker_that_is_asked_to_end_ends_all(tmp_path: Path) -> None:
    with pytest.raises(Terminated) as stop, pool(2, tmp_path) as made:
        done(made, [made.submit(signal.raise_signal, signal.SIGINT), made.submit(sys.exit, 1)])  # both are answered
        made.submit(_end, str(tmp_path))
        done(made, [made.submit(int, 1), made.submit(_end, str(tmp_path))])
    assert stop.value.folder == str(tmp_path)
    assert not multiprocessing.active_children()


def _end(folder: str) -> None:
    raise Terminated(folder)


def test_a_pool_of_a_process_that_is_asked_to_end_takes_no_task(tmp_path: Path) -> None:
    termination = Termination()
    with pytest.raises(Terminated), pool(1, tmp_path, termination) as made:
        task = made.submit(os.getpid)
        termination.requested = True
        made.wait()
    assert not task.done()


def killing(folder: Path) -> Callable[[int, int, str], None]:
    """Progress of a comparison of two cells that kills its workers, once, while both run."""
    killed: list[str] = []

    def progress(epochs: int, total: int, what: str) -> None:
        if len(list(folder.glob("cells/*/*/history.jsonl"))) == 2 and not killed:
            for process in multiprocessing.active_children():
                process.kill()
            killed.append(what)

    return progress


@pytest.mark.slow
def test_a_cell_whose_process_dies_has_failed_and_the_others_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = config(epochs=60)  # longer than the parent waits between two looks
    entries = {"Joint": Entry("Joint"), "MIE": Entry("MIE")}
    settings = StudyConfig(entries, [0], one.data, one.model, one.training, controls=False)
    compare(settings, tmp_path / "one", cost=False)
    with pytest.raises(StudyError, match=r"(1 of 2|both) cells failed.*its process died \(exit code -9\)") as caught:
        compare(settings, tmp_path / "two", workers=2, cost=False, progress=killing(tmp_path / "two"))
    assert "seed0: its process died" in caught.value.study["incomplete"][0]
    monkeypatch.setattr(_workers, "CELLS", 1)  # a fresh worker for every cell changes nothing either
    compare(settings, tmp_path / "two", workers=2, cost=False)
    for label in ("Joint", "MIE"):
        assert_same_run(tmp_path / f"one/cells/{label}/seed0", tmp_path / f"two/cells/{label}/seed0")


_UNGUARDED = """
import sys
from pathlib import Path
from equimodal.studies.comparisons import worker_pool
from equimodal.studies.runs import Termination
with worker_pool(1, Termination(), Path("f")) as pool:
    task = pool.submit(abs, -1)
    while not task.done():
        pool.wait()
"""


@pytest.mark.slow
def test_a_script_without_a_guard_is_told_so(tmp_path: Path, root: Path) -> None:
    script = tmp_path / "unguarded.py"
    script.write_text(_UNGUARDED)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(root / "src"), str(root)])}
    found = subprocess.run(
        [sys.executable, str(script)], env=environment, capture_output=True, text=True, timeout=300, check=False
    )
    assert found.returncode == 1
    assert "WorkerDiedError: A worker process died while it started" in found.stderr
    assert "__name__ == '__main__'" in found.stderr
