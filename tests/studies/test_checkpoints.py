"""Checkpoints and weights: nothing in them is executed, and a full disk loses nothing."""

from __future__ import annotations

import errno
import os
import pickle
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from equimodal.errors import CheckpointError, StorageError
from equimodal.methods import get
from equimodal.studies import load_run, load_weights, run, save_weights
from equimodal.studies.runs import _history as history_module
from equimodal.studies.runs._records import append_line, plain, read_checkpoint, read_lines, write_json, write_text
from tests.helpers import make_method
from tests.studies.helpers import Whole, as_of_the_first_version, assert_same_run, config, history
from tests.studies.test_run import stop_after


class Hostile:
    """Makes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)

    def __reduce__(self) -> Any:
        return os.mkdir, (self.path,)


@pytest.fixture(scope="module")
def unfinished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was stopped after two epochs; tests work on a copy."""
    folder = tmp_path_factory.mktemp("unfinished") / "a"
    with pytest.raises(RuntimeError, match="stop"):
        run(config(), folder, loggers=False, progress=stop_after(2, RuntimeError("stop")))
    return folder


@pytest.mark.parametrize("spoil", ["truncated", "empty", "text", "hostile", "hostile zip", "no state"])
def test_a_bad_checkpoint_is_refused_and_nothing_in_it_runs(
    unfinished: Path, whole: Whole, tmp_path: Path, spoil: str
) -> None:
    shutil.copytree(unfinished, tmp_path / "a")
    last, trap = tmp_path / "a" / "checkpoints" / "last.ckpt", tmp_path / "trap"
    content = last.read_bytes()
    if spoil == "truncated":
        last.write_bytes(content[: len(content) // 2])
    elif spoil == "empty":
        last.write_bytes(b"")
    elif spoil == "text":
        last.write_text("no checkpoint")
    elif spoil == "hostile":
        last.write_bytes(pickle.dumps({"state_dict": Hostile(trap)}))
    elif spoil == "hostile zip":
        torch.save({"state_dict": {}, "extra": Hostile(trap)}, last)
    else:
        torch.save({"weights": 1}, last)
    with pytest.raises(CheckpointError, match=r"last\.ckpt"):
        run(config(), tmp_path / "a", resume=True, loggers=False)
    assert not trap.exists()
    last.write_bytes(content)  # nothing else was harmed
    run(config(), tmp_path / "a", resume=True, loggers=False)
    assert_same_run(whole(config()), tmp_path / "a")


@pytest.mark.parametrize("spoil", ["truncated", "hostile", "missing"])
def test_bad_weights_are_refused_and_nothing_in_them_runs(whole: Whole, tmp_path: Path, spoil: str) -> None:
    as_of_the_first_version(shutil.copytree(whole(config(epochs=1)), tmp_path / "a"))
    file, trap = tmp_path / "a" / "weights.safetensors", tmp_path / "trap"
    if spoil == "truncated":
        file.write_bytes(file.read_bytes()[:-100])
    elif spoil == "hostile":
        file.write_bytes(pickle.dumps(Hostile(trap)))
    if spoil == "missing":
        file.unlink()
        with pytest.raises(ValueError, match="folder of a finished run"):
            load_run(tmp_path / "a")
        return
    with pytest.raises(CheckpointError, match="safetensors"):
        load_run(tmp_path / "a")
    assert not trap.exists()


def test_weights_of_another_model_are_refused_as_a_whole(tmp_path: Path) -> None:
    three, two = make_method("Ensemble", 3), make_method("Ensemble", 2)
    save_weights(three, tmp_path / "three.safetensors")
    before = {n: p.clone() for n, p in two.named_parameters()}
    with pytest.raises(CheckpointError, match="unknown"):
        load_weights(two, tmp_path / "three.safetensors")
    wide = make_method("Ensemble", 2)
    wide.heads = nn.ModuleDict()
    with pytest.raises(CheckpointError, match="unknown"):
        save_weights(two, tmp_path / "two.safetensors")
        load_weights(wide, tmp_path / "two.safetensors")
    assert all(torch.equal(p, before[n]) for n, p in two.named_parameters())


@pytest.mark.parametrize("name", ["Joint", "MLA", "CGGM", "MIE"])
def test_weights_come_back_with_their_metadata(tmp_path: Path, name: str) -> None:
    method = make_method(name, 2, inference="auto")
    method.inference._chosen = "product"
    path = save_weights(method, tmp_path / "w.safetensors", {"seed": 0})
    other = make_method(name, 2, seed=5, inference="auto")
    assert load_weights(other, path)["seed"] == 0
    for key, value in method.state_dict().items():
        if isinstance(value, torch.Tensor):
            assert torch.equal(value, other.state_dict()[key])
    assert other.inference.get_extra_state() == method.inference.get_extra_state()
    assert other.inference.get_extra_state()["chosen"] == "product"
    assert get(name).__name__ == name


# ---- a full disk ---------------------------------------------------------------------------------------------------


def disk_full(*_: Any, **__: Any) -> Any:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_full_disk_leaves_the_earlier_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_json(tmp_path / "a.json", {"x": 1})
    before = (tmp_path / "a.json").read_bytes()

    with monkeypatch.context() as patch:  # the content is in the partial file, and does not get onto the disk
        patch.setattr(os, "fsync", disk_full)
        with pytest.raises(StorageError, match=r"a\.json.*No space left"):
            write_json(tmp_path / "a.json", {"x": 2})
        method = make_method("Joint", 2)
        with pytest.raises(StorageError, match="No space left"):
            save_weights(method, tmp_path / "w.safetensors")
    assert (tmp_path / "a.json").read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]


def test_a_disk_that_fills_up_at_a_checkpoint_keeps_the_last_one(
    whole: Whole, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved = [0]
    original = torch.save

    def save(content: Any, file: Any) -> None:
        saved[0] += 1
        if saved[0] > 3:
            file.write(b"the first bytes")
            disk_full()
        original(content, file)

    with monkeypatch.context() as patch:
        patch.setattr(torch, "save", save)
        with pytest.raises(StorageError, match=r"No space left.*--resume"):
            run(config(), tmp_path / "a", loggers=False)
    assert read_checkpoint(tmp_path / "a" / "checkpoints" / "last.ckpt")["epoch"] in (0, 1)
    assert not list((tmp_path / "a" / "checkpoints").glob(".*"))
    run(config(), tmp_path / "a", resume=True, loggers=False)
    assert_same_run(whole(config()), tmp_path / "a")


def test_a_disk_that_fills_up_at_the_history_keeps_the_checkpoint(
    whole: Whole, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original: Any = vars(history_module)["append_line"]

    def append(path: Path, record: Any) -> None:
        if record["epoch"] == 2:
            raise StorageError(f"`{path}`: could not be written (No space left on device).")
        original(path, record)

    with monkeypatch.context() as patch:
        patch.setattr(history_module, "append_line", append)
        with pytest.raises(StorageError, match=r"history\.jsonl"):
            run(config(), tmp_path / "a", loggers=False)
    run(config(), tmp_path / "a", resume=True, loggers=False)
    assert [r["epoch"] for r in history(tmp_path / "a")] == [0, 1, 2]
    assert_same_run(whole(config()), tmp_path / "a")


def test_appending_to_a_full_disk_is_a_storage_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Path, "open", disk_full)
    with pytest.raises(StorageError, match="No space left"):
        append_line(tmp_path / "h.jsonl", {"epoch": 0})


# ---- records -------------------------------------------------------------------------------------------------------


def test_an_incomplete_last_line_is_left_out(tmp_path: Path) -> None:
    append_line(tmp_path / "h.jsonl", {"epoch": 0})
    append_line(tmp_path / "h.jsonl", {"epoch": 1})
    write_text(tmp_path / "h.jsonl", (tmp_path / "h.jsonl").read_text()[:-4])
    assert read_lines(tmp_path / "h.jsonl") == [{"epoch": 0}]
    assert read_lines(tmp_path / "none.jsonl") == []


def test_records_are_plain_values() -> None:
    found = plain({"a": torch.tensor(0.5), "b": (1, Path("x")), "c": float("nan"), 3: None})
    assert found == {"a": 0.5, "b": [1, "x"], "c": None, "3": None}


def test_files_are_readable_for_others(tmp_path: Path) -> None:
    old = os.umask(0o022)
    try:
        write_text(tmp_path / "a", "x")
    finally:
        os.umask(old)
    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o644
