"""Entries of equal configuration are one run, which is made once."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from equimodal.studies import Entry, StudyError, compare
from equimodal.studies.comparisons._twins import take_over
from equimodal.studies.runs import verify
from tests.features.killed import in_process
from tests.studies.helpers import assert_same_run
from tests.studies.test_compare import counted, study


def place(folder: Path, label: str) -> Path:
    return folder / "cells" / label / "seed0"


def twins() -> dict[str, Entry]:
    """Twice with defaults, once with one of them spelled out, and another one."""
    return {
        "one": Entry("MultiLoss"), "two": Entry("MultiLoss"), "three": Entry("MultiLoss", {"weight": 1.0}),
        "other": Entry("MultiLoss", {"weight": 0.5}),
    }  # fmt: skip


@pytest.mark.parametrize("workers", [1, 2])
def test_they_are_trained_once(tmp_path: Path, workers: int, monkeypatch: pytest.MonkeyPatch) -> None:
    started = counted(monkeypatch)
    found = compare(study(twins(), [0]), tmp_path / "s", cost=False, workers=workers)
    if workers == 1:  # else in other processes
        assert started == ["one/seed0", "other/seed0"]
    scores = {row["method"]: row for row in found["rows"]}
    assert set(scores) == set(twins())
    for label in ("two", "three"):
        assert_same_run(place(tmp_path / "s", "one"), place(tmp_path / "s", label))
        files = [
            {p.relative_to(f).as_posix(): p.read_bytes() for p in f.rglob("*") if p.is_file()}
            for f in (place(tmp_path / "s", "one"), place(tmp_path / "s", label))
        ]
        assert files[0] == files[1]  # times and versions included: they are of one run
        verify(place(tmp_path / "s", label))
    assert not list((tmp_path / "s").rglob(".twin*"))
    started.clear()
    assert compare(study(twins(), [0]), tmp_path / "s", cost=False) == found
    assert started == []


def test_a_twin_that_was_begun_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place(tmp_path / "s", "two").mkdir(parents=True)
    started = counted(monkeypatch)
    compare(study({k: twins()[k] for k in ("one", "two")}, [0]), tmp_path / "s", cost=False)
    assert started == ["one/seed0", "two/seed0"]


def test_a_later_entry_takes_over_what_is_finished(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compare(study({"one": Entry("MultiLoss")}, [0]), tmp_path / "s", cost=False)
    started = counted(monkeypatch)
    compare(study(twins(), [0]), tmp_path / "s", cost=False, cells=["three/seed0"])
    assert started == []
    verify(place(tmp_path / "s", "three"))


def _cut_copy(run: str, folder: str) -> None:
    """Take over, and end as a killed process does before the copy has its name."""
    Path.rename = lambda *_: os._exit(9)  # type: ignore[method-assign]
    take_over(Path(run), Path(folder))


def test_a_copy_that_was_cut_off_is_not_left_behind(tmp_path: Path) -> None:
    compare(study({"one": Entry("MultiLoss")}, [0]), tmp_path / "s", cost=False)
    assert in_process(_cut_copy, str(place(tmp_path / "s", "one")), str(place(tmp_path / "s", "two"))) == 9
    assert list((tmp_path / "s").rglob(".twin*"))
    assert take_over(place(tmp_path / "s", "one"), place(tmp_path / "s", "two"))
    assert not list((tmp_path / "s").rglob(".twin*"))
    verify(place(tmp_path / "s", "two"))


def test_each_writes_its_own_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("tensorboard")
    started = counted(monkeypatch)
    compare(study({k: twins()[k] for k in ("one", "two")}, [0]), tmp_path / "s", cost=False, loggers=True)
    assert started == ["one/seed0", "two/seed0"]


def test_they_fail_for_the_same_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    started = counted(monkeypatch)
    bad: dict[str, Any] = {name: Entry("MLA", {"alpha": -1.0}) for name in ("bad", "worse")}
    with pytest.raises(StudyError, match="^both cells failed. bad/seed0, worse/seed0: `alpha`"):
        compare(study(bad, [0]), tmp_path / "s", cost=False)
    assert started == []
