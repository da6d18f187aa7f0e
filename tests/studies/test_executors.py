"""Where cells run changes no number, and none is trained twice: executors, several processes, data elsewhere."""

from __future__ import annotations

import os
import platform
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Collection, Iterator
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

import equimodal
from equimodal.errors import DataError, EquimodalError, UnknownNameError
from equimodal.studies import (
    Cell,
    DataConfig,
    Entry,
    Executor,
    StudyConfig,
    StudyError,
    build_data,
    compare,
    load_study,
)
from equimodal.studies.comparisons._executor import Postponed
from equimodal.studies.runs import in_use, is_finished, locked
from tests.cli.helpers import CLI, TINY
from tests.studies.helpers import assert_same_run
from tests.studies.test_compare import counted
from tests.studies.test_elsewhere import bundle
from tests.studies.uses import SINGLE, install, remove, study, taught, uninterrupted

CELLS = ["first/seed0", "second/seed0", "student/seed0"]


@pytest.fixture(autouse=True)
def _taught(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    yield from taught(tmp_path_factory)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The study of :func:`study` in one process; only read."""
    return uninterrupted(tmp_path_factory)


def place(folder: Path, cell: str) -> Path:
    return folder / "cells" / cell


def assert_same_study(ours: Path, theirs: Path) -> None:
    for cell in CELLS:
        assert_same_run(place(ours, cell), place(theirs, cell))
    a, b = ([without(row, "seconds") for row in load_study(f)["rows"]] for f in (ours, theirs))
    assert a == b
    assert load_study(ours)["incomplete"] == load_study(theirs)["incomplete"]


def without(row: dict[str, Any], name: str) -> dict[str, Any]:
    return {k: v for k, v in row.items() if k != name}


class Elsewhere(Executor):
    """Runs cells when it is asked what has ended, the last one first, and loses each machine once."""

    def __init__(self, slots: int) -> None:
        self.slots = slots
        self.given: list[str] = []
        self._waiting: list[tuple[Cell, Future[None]]] = []

    def submit(self, cell: Cell) -> Future[None]:
        self.given.append(cell.name)
        self._waiting.append((cell, Future()))
        return self._waiting[-1][1]

    def wait(self, running: Collection[Future[None]], timeout: float) -> Collection[Future[None]]:
        assert len(running) == len(self._waiting) <= self.slots
        cell, future = self._waiting.pop()
        if self.given.count(cell.name) == 1:
            future.set_exception(Postponed("lost"))
            return [future]
        try:
            cell.run()
            future.set_result(None)
        except EquimodalError as error:
            future.set_exception(error)
        return [future]

    def end(self, running: Collection[Future[None]]) -> None:
        raise AssertionError("nobody asked to end")


def test_an_executor_of_ones_own(tmp_path: Path, whole: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    started = counted(monkeypatch)
    executor = Elsewhere(2)
    compare(study(), tmp_path / "s", cost=False, executor=executor)
    assert sorted(started) == CELLS
    assert started[-1] == "student/seed0"
    assert sorted(executor.given) == sorted(2 * CELLS)
    assert_same_study(tmp_path / "s", whole)


class Nowhere(Elsewhere):
    """Says that all is done and has done nothing."""

    def wait(self, running: Collection[Future[None]], timeout: float) -> Collection[Future[None]]:
        ended = [future for _, future in self._waiting]
        self._waiting.clear()
        for future in ended:
            future.set_result(None)
        return ended


def test_results_that_do_not_arrive_are_a_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("equimodal.studies.comparisons._execution.ARRIVAL", 0.0)
    with pytest.raises(StudyError, match=r"all 3 cells failed.*first/seed0.*machines share.*it uses") as caught:
        compare(study(), tmp_path / "s", cost=False, executor=Nowhere(9))
    assert caught.value.study["rows"] == []


def test_parts_make_the_whole(tmp_path: Path, whole: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    started = counted(monkeypatch)
    one = compare(study(), tmp_path / "s", cost=False, cells=["second/seed0"])
    assert started == ["second/seed0"]
    assert [row["method"] for row in one["rows"]] == ["second"]
    assert one["incomplete"] == ["not finished: student/seed0", "not finished: first/seed0"]
    compare(study(), tmp_path / "s", cost=False, cells=["student/seed0"])  # with what it uses
    assert started == ["second/seed0", "first/seed0", "student/seed0"]
    assert_same_study(tmp_path / "s", whole)
    with pytest.raises(UnknownNameError, match=r"cell 'studnt/seed0'.*student/seed0"):
        compare(study(), tmp_path / "s", cells=["studnt/seed0"])


def test_what_failed_in_another_part_is_remembered(tmp_path: Path) -> None:
    entries = {"bad": Entry("MLA", {"alpha": -1.0}), **SINGLE}
    with pytest.raises(StudyError, match="^the only cell failed. "):
        compare(study(entries), tmp_path / "s", cost=False, cells=["bad/seed0"])
    found = compare(study(entries), tmp_path / "s", cost=False, cells=["first/seed0"])
    assert found["incomplete"][0].startswith("failed: bad/seed0: `alpha`")
    assert found["incomplete"][1:] == ["not finished: second/seed0"]


@pytest.mark.parametrize("seen", [True, False], ids=["seen", "begun in the same moment"])
def test_a_cell_of_another_process_is_waited_for(
    seen: bool, tmp_path: Path, whole: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not seen:
        monkeypatch.setattr("equimodal.studies.comparisons._execution.in_use", lambda _: False)
    started = counted(monkeypatch)
    first = place(tmp_path / "s", "first/seed0")
    locks = threading.Event()

    def other() -> None:
        with locked(first):
            locks.set()
            deadline = time.monotonic() + 60
            while "second/seed0" not in started and time.monotonic() < deadline:  # the others are not held up
                time.sleep(0.05)
            shutil.copytree(place(whole, "first/seed0"), first, dirs_exist_ok=True)

    thread = threading.Thread(target=other)
    thread.start()
    assert locks.wait(60)
    assert in_use(first)
    compare(study(), tmp_path / "s", cost=False, cells=CELLS)
    thread.join()
    assert not in_use(first)
    assert started == ["second/seed0", "student/seed0"]
    assert_same_study(tmp_path / "s", whole)


def test_a_run_that_was_finished_meanwhile_is_not_trained(
    tmp_path: Path, whole: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the look at the folder and its lock."""
    from equimodal.studies.runs import _run

    def late(method: Any, present: Any) -> None:
        if not is_finished(tmp_path / "run"):
            shutil.copytree(place(whole, "first/seed0"), tmp_path / "run")

    monkeypatch.setattr(_run, "refuse_incomplete", late)
    started = counted(monkeypatch)
    config = study().cells(build_data(study().data))["first/seed0"]
    found = _run.run(config, tmp_path / "run", resume=True)
    assert started == []
    assert found["seed"] == 0


# ---- the command line ----------------------------------------------------------------------------------------------

BOTH = ["compare", "--methods", "Joint,Ensemble", "--controls", "false", "--seeds", "0", "--cost", "false", *TINY]


def test_the_command_line_lists_and_runs_parts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cli = CLI(capsys)
    assert cli([*BOTH, "--list"]) == "Joint/seed0\nEnsemble/seed0\n"
    out = ["--out", str(tmp_path / "s"), "--quiet"]
    nothing = "part 3/4 has no cell: the comparison has 2, and the parts 1/4 to 2/4 have one each. Nothing was run.\n"
    assert cli([*BOTH, *out, "--part", "3/4"]) == nothing
    assert not (tmp_path / "s").exists()
    assert cli([*BOTH, *out, "--part", "2/2"]).startswith("1 of 2 cells finished. Their report: equimodal report ")
    assert is_finished(place(tmp_path / "s", "Ensemble/seed0"))
    assert not place(tmp_path / "s", "Joint/seed0").exists()
    assert "not finished: Joint/seed0" in cli(["report", str(tmp_path / "s"), "--format", "markdown"])
    assert cli([*BOTH, *out, "--cells", "Joint/seed0"]).startswith("2 of 2 cells finished.")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--part", "0/2"], "--part: expected I/N, the part I of N, from 1/N to N/N. Found 0/2."),
        (["--part", "3/2"], "Found 3/2."),
        (["--part", "1/2", "--cells", "Joint/seed0"], "Found 1/2 beside --cells."),
        (["--cells", "Join/seed0"], "cell 'Join/seed0'"),
        (["--cells", ""], "--cells: expected names, as LABEL/seed0. Found none."),
        (["--executor", "rai"], "executor 'rai'"),
        (["--cpus", "2"], "--cpus: expected --executor ray beside it. Found local."),
        (["--executor", "ray", "--workers", "2"], "--workers: expected none with --executor ray"),
    ],
)
def test_what_the_command_line_refuses(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], said: str
) -> None:
    assert said in CLI(capsys).error([*BOTH, "--out", str(tmp_path / "s"), *arguments], 2)
    assert not (tmp_path / "s").exists()


def script(place: Path, root: Path, settings: StudyConfig) -> dict[str, str]:
    """The script of the documentation and what it calls, in a folder; the environment of its tasks."""
    page = (root / "docs" / "many-machines.md").read_text(encoding="utf-8")
    found = re.search(r"```sh file=study.sbatch\n(.*?)```", page, flags=re.DOTALL)
    assert found is not None
    (place / "study.sbatch").write_text(found[1], encoding="utf-8")
    described = {
        "data": vars(settings.data), "model": vars(settings.model), "training": vars(settings.training), "cost": False,
        "controls": False, "seeds": settings.seeds, "entries": {k: vars(e) for k, e in settings.entries.items()},
    }  # fmt: skip
    (place / "study.yaml").write_text(yaml.safe_dump(described, sort_keys=False), encoding="utf-8")
    programs = place / "bin"
    programs.mkdir()
    for name, line in (("equimodal", f'exec "{sys.executable}" -m equimodal "$@"'), ("scontrol", 'echo "$@" > asked')):
        (programs / name).write_text(f"#!/bin/sh\n{line}\n", encoding="utf-8")
        (programs / name).chmod(0o755)
    site = place / "site"
    install(site)
    remove(site)
    known = [str(Path(equimodal.__file__).parents[1]), str(root), str(site)]
    return {
        **os.environ, "PYTHONPATH": os.pathsep.join(known), "SLURM_ARRAY_TASK_MAX": "2", "SLURM_ARRAY_JOB_ID": "42",
        "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}",
    }  # fmt: skip


def task(number: int, place: Path, environment: dict[str, str]) -> subprocess.Popen[str]:
    own = {**environment, "SLURM_ARRAY_TASK_ID": str(number)}
    pipe = subprocess.PIPE
    return subprocess.Popen(["bash", "study.sbatch"], env=own, cwd=place, stdout=pipe, stderr=pipe, text=True)


@pytest.mark.slow
def test_the_script_of_the_documentation(tmp_path: Path, root: Path, whole: Path) -> None:
    """Two tasks of an array at once, in a plain shell; the teachers of both are trained once."""
    environment = script(tmp_path, root, study())
    tasks = [task(number, tmp_path, environment) for number in (1, 2)]
    said = [one.communicate(timeout=500) for one in tasks]
    assert [one.returncode for one in tasks] == [0, 0], said
    assert any("3 of 3 cells finished" in out for out, _ in said), said
    assert_same_study(tmp_path / "study", whole)
    report = subprocess.run(
        ["equimodal", "report", "study"], env=environment, cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert report.returncode == 0, report.stderr
    assert (tmp_path / "study" / "report.html").is_file()
    assert not (tmp_path / "asked").exists()


@pytest.mark.slow
def test_a_task_whose_time_is_over_goes_back_into_the_queue(tmp_path: Path, root: Path) -> None:
    environment = script(tmp_path, root, study({"first": SINGLE["first"]}, epochs=400))
    one = task(1, tmp_path, environment)
    epochs = place(tmp_path / "study", "first/seed0") / "history.jsonl"
    deadline = time.monotonic() + 300
    while not epochs.exists() and time.monotonic() < deadline:
        assert one.poll() is None, one.communicate()
        time.sleep(0.05)
    one.send_signal(signal.SIGTERM)
    out, err = one.communicate(timeout=120)
    assert one.returncode == 75, (out, err)
    assert (tmp_path / "asked").read_text() == "requeue 42_1\n"
    assert "Continue with: equimodal compare --out study --cost false --cells first/seed0" in err
    assert not is_finished(epochs.parent)
    assert not in_use(epochs.parent)


# ---- data that lie elsewhere ---------------------------------------------------------------------------------------


def test_data_are_found_where_the_machine_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here = tmp_path / "here"
    (here / "own").mkdir(parents=True)
    bundle(here / "own" / "set.npz", 0)
    expected = build_data(DataConfig(str(here / "own" / "set.npz"))).fingerprint
    monkeypatch.chdir(tmp_path)
    for said in ("own/set.npz", "elsewhere/set.npz", "/nowhere/set.npz"):
        with pytest.raises(DataError):
            build_data(DataConfig(said))
    monkeypatch.setenv("EQUIMODAL_DATA", str(here))
    assert build_data(DataConfig("own/set.npz")).fingerprint == expected
    for said in ("elsewhere/set.npz", "/nowhere/set.npz"):  # by the last part
        monkeypatch.setenv("EQUIMODAL_DATA", str(here / "own"))
        assert build_data(DataConfig(said)).fingerprint == expected
    places = tmp_path / "places.yaml"
    machine = platform.node()
    each = {"no-such-*": "/none", f"{machine[:3]}*": str(here), "*": "/none"}
    places.write_text(yaml.safe_dump(each, sort_keys=False))
    monkeypatch.setenv("EQUIMODAL_DATA", str(places))
    assert build_data(DataConfig("own/set.npz")).fingerprint == expected
    places.write_text("no-such-machine: /none\n")
    with pytest.raises(DataError, match=f"machine '{machine}'. Found 'no-such-machine'"):
        build_data(DataConfig("own/set.npz"))
    places.write_text("[1]\n")
    with pytest.raises(DataError, match=r"places\.yaml"):
        build_data(DataConfig("own/set.npz"))


def test_other_data_on_another_machine_are_refused(tmp_path: Path) -> None:
    settings = study()
    data = build_data(settings.data)
    config = settings.cells(data)["first/seed0"]
    other = replace(settings.data, options={**settings.data.options, "seed": 5})
    with pytest.raises(DataError, match=r"synthetic.*fingerprint.*same files onto every machine"):
        Cell("first/seed0", config, tmp_path / "run", other, data.fingerprint).run()
    assert not (tmp_path / "run").exists()
