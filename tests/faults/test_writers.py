"""Every system call of every writer fails in turn: the old or the new state is read, and a repeated call succeeds."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from equimodal.data import load_bundle, write_bundle
from equimodal.errors import EquimodalError
from tests.faults.calls import Calls, killed

pytest.importorskip("lightning")
pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="kills processes that it forks")


@dataclass
class Writer:
    """Writes state number 0 or 1 to a folder, and reads which one is there (-1: nothing)."""

    write: Callable[[Path, int], Any]
    read: Callable[[Path], int]


def bundle(name: str) -> Writer:
    split = ["train"] * 2 + ["validation"] * 2 + ["test"] * 2

    def write(folder: Path, state: int) -> None:
        labels = [["no", "yes"] * 3, ["left", "right"] * 3][state]
        write_bundle(folder / name, inputs={"a": np.eye(6) + state}, target=labels, split=split)

    def read(folder: Path) -> int:
        data = load_bundle(folder / name)
        numbers = int(np.asarray(next(iter(np_arrays(folder / name).values()))).max()) - 1
        assert data.classes == (("no", "yes"), ("left", "right"))[numbers]
        return numbers

    def np_arrays(path: Path) -> dict[str, Any]:
        from equimodal.data._arrays import Arrays

        return {"a": Arrays(path)["input_a"]}

    return Writer(write, read)


def checkpoint() -> Writer:
    from equimodal.studies.runs._checkpoint import LAST, WholeFiles, newest

    def write(folder: Path, state: int) -> None:
        parts: dict[str, Any] = {key: {} for key in ("callbacks", "loops", "random_state")}
        content = {"epoch": state, "global_step": state, "optimizer_states": [], "lr_schedulers": [], **parts}
        tensors = {"w": torch.full((500,), float(state))}
        content |= {"inside_epoch": False, "state_dict": tensors}
        WholeFiles().save_checkpoint(content, folder / LAST)

    def read(folder: Path) -> int:
        found = newest(folder)
        assert found is not None
        weights = found[1]["state_dict"]["w"]
        assert (weights == weights[0]).all()
        return int(weights[0])

    return Writer(write, read)


def record() -> Writer:
    from equimodal.studies.runs._records import read_json, write_json

    def write(folder: Path, state: int) -> None:
        write_json(folder / "metrics.json", {"a": state, "b": state})

    def read(folder: Path) -> int:
        found = read_json(folder / "metrics.json")
        assert found["a"] == found["b"]
        return int(found["a"])

    return Writer(write, read)


def history() -> Writer:
    from equimodal.studies.runs._records import append_line, read_lines

    def write(folder: Path, state: int) -> None:
        if len(read_lines(folder / "history.jsonl")) <= state:
            append_line(folder / "history.jsonl", {"epoch": state, "text": "x" * 50})

    return Writer(write, lambda folder: len(read_lines(folder / "history.jsonl")) - 1)


def journal() -> Writer:
    from equimodal.data.prepare._journal import Entry, Journal

    def opened(folder: Path) -> Journal:
        made = Journal(folder / "journal.jsonl", {"dataset": "toy"})
        made.open()
        return made

    def write(folder: Path, state: int) -> None:
        made = opened(folder)
        try:
            made.add([Entry(f"item{state}", state, 1)])
        finally:
            made.close()

    def read(folder: Path) -> int:
        made = opened(folder)
        made.close()
        return len(made.entries) - 1

    return Writer(write, read)


def study() -> Writer:
    from equimodal.studies import load_study
    from equimodal.studies.runs import write_sealed

    def write(folder: Path, state: int) -> None:
        write_sealed(folder, "study.json", {"a": state, "b": state})

    def read(folder: Path) -> int:
        found = load_study(folder)
        assert found["a"] == found["b"]
        return int(found["a"])

    return Writer(write, read)


WRITERS: dict[str, Callable[[], Writer]] = {
    "bundle": lambda: bundle("own.npz"), "folder": lambda: bundle("own"), "checkpoint": checkpoint, "record": record,
    "history": history, "journal": journal, "study": study,
}  # fmt: skip


@pytest.mark.parametrize("name", WRITERS)
@pytest.mark.parametrize("kill", [False, True], ids=["full", "killed"])
def test_after_a_fault_in_any_call_the_old_or_the_new_state_is_read(tmp_path: Path, name: str, kill: bool) -> None:
    writer = WRITERS[name]()
    (tmp_path / "old").mkdir()
    writer.write(tmp_path / "old", 0)
    found = []
    for at in range(1, 1000):
        folder = tmp_path / str(at)
        shutil.copytree(tmp_path / "old", folder)
        calls, said = Calls(at), ""
        if kill:
            if not killed(lambda folder=folder: writer.write(folder, 1), at):  # type: ignore[misc]
                break
        else:
            try:
                with calls():
                    writer.write(folder, 1)
            except (OSError, EquimodalError) as error:
                said = str(error)
            if calls.count < at:
                break
            assert "No space left" in said or writer.read(folder) == 1, said  # told, or got over
        found.append(writer.read(folder))
        assert found[-1] in (0, 1)
        writer.write(folder, 1)
        assert writer.read(folder) == 1
        shutil.rmtree(folder)
    assert len(found) >= 4
    assert 0 in found
    assert 1 in found or not kill
