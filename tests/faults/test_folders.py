"""Every field of every file of a run, and every value of a command line, may be anything: refused by name, or right."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.faults import mutants
from tests.faults.families import TIMES

pytest.importorskip("lightning")
pytest.importorskip("jsonargparse")
studies = pytest.importorskip("equimodal.studies")
safetensors = pytest.importorskip("safetensors.torch")
yaml = pytest.importorskip("yaml")
from equimodal.cli import main  # noqa: E402 (needs the packages above)
from equimodal.studies.runs import read_yaml, seal  # noqa: E402

FOUND: Counter[str] = Counter()
"""Inputs of each kind that were refused, and that gave what is right; `EQUIMODAL_FAULTS_COUNTS=FILE` keeps it."""


@pytest.fixture(scope="module", autouse=True)
def counts() -> Iterator[None]:
    yield
    if name := os.environ.get("EQUIMODAL_FAULTS_COUNTS"):
        Path(name).write_text(json.dumps(FOUND, indent=1, sort_keys=True))


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run, an unfinished one, and a comparison; all are copied before they are changed."""
    folder = tmp_path_factory.mktemp("home")
    data = studies.DataConfig("synthetic", options={"train": 48, "validation": 24, "test": 24, "classes": 3})
    training = studies.TrainingConfig(epochs=2, batch_size=16, device="cpu")
    model = studies.ModelConfig(feature_size=8, size="small", encoders={"m1": {"dropout": 0.1}})
    config = studies.RunConfig("MLA", data=data, model=model, training=training, probe=False)
    studies.run(config, folder / "run", loggers=False)
    shutil.copytree(folder / "run", folder / "begun")
    for name in ("metrics.json", "weights.safetensors", "outcomes.npz"):
        (folder / "begun" / name).unlink()
    entries = {"Joint": studies.Entry("Joint")}
    studies.compare(
        studies.StudyConfig(entries, [0], data, model, training, controls=False), folder / "study", cost=False
    )
    assert main(["predict", str(folder / "run"), "--out", str(folder / "right.csv")]) == 0
    return folder


_EMPTY = '<svg xmlns="http://www.w3.org/2000/svg" width="1pt" height="1pt" viewBox="0 0 1 1"></svg>'


class Trial:
    """Calls a command on a changed folder, and judges what it says."""

    def __init__(self, home: Path, place: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.home, self.place, self._capsys = home, place, capsys
        self.out = place / "out.csv"
        self.draws = True
        """Whether figures are drawn, which takes most of the time of a page; else they are made, and left empty."""

    def fresh(self, name: str) -> Path:
        """A new copy of one of the folders."""
        shutil.rmtree(self.place / name, ignore_errors=True)
        shutil.copytree(self.home / name, self.place / name)
        return self.place / name

    def __call__(self, command: list[str], what: object, file: str = "", kind: str = "") -> int:
        """The exit code; anything but a right result or one line that names the file fails."""
        self.out.unlink(missing_ok=True)
        with pytest.MonkeyPatch.context() as patch:
            if not self.draws:
                patch.setattr("matplotlib.figure.Figure.savefig", lambda _, file, **__: file.write(_EMPTY))
            code = main([*command, "--quiet"] if command[0] in ("train", "compare") else command)
        said = self._capsys.readouterr()
        errors = [line for line in said.err.splitlines() if not line.startswith("warning: ")]
        note = (what, command[0], code, said.err[:600])
        assert code in (0, 1, 2), note
        assert not any((ord(c) < 32 and c != "\n") or c in "\x7f\u202e" for c in said.err + said.out), note
        assert "Traceback" not in said.err, note
        assert "unforeseen" not in said.err, note
        FOUND[f"{kind or file}: {'refused' if code else 'right'}"] += 1
        if code == 0:
            assert not errors, note
            if self.out.exists() and "weights" not in file:
                assert self.out.read_text() == (self.home / "right.csv").read_text(), note
            return code
        assert len(errors) == 1, note
        if file:
            assert file in errors[0] or any(str(part) in errors[0] for part in what if part != ""), note  # type: ignore[attr-defined]
        assert re.search(r"[Ee]xpected|needs|Unknown|unknown|not a valid|have changed", errors[0]), note
        return code

    def predict(self, folder: Path) -> list[str]:
        """The command."""
        return ["predict", str(folder), "--out", str(self.out)]


def chosen(count: int, total: int, seed: int) -> set[int]:
    """Which mutants are tried: a part of them, all in the long version."""
    if TIMES > 1 or total <= count:
        return set(range(total))
    return set(np.random.default_rng(seed).choice(total, count, replace=False).tolist())


def try_all(
    trial: Trial, folder: str, file: str, read: Callable[[Path], Any], write: mutants.Writer, count: int,
    commands: Callable[[Path], list[list[str]]],
) -> None:  # fmt: skip
    """Each mutant of a file with each command."""
    original = read(trial.home / folder / file)
    picked = chosen(count, sum(1 for _ in mutants.mutants(original)), len(file))
    wrong = []
    for number, (path, kind, value) in enumerate(mutants.mutants(original)):
        if number not in picked:
            continue
        trial.draws = number % 10 == 0
        place = trial.fresh(folder)
        write(place / file, value)
        owner = (place / file).parent
        if Path(file).name != "content.json" and (owner / "content.json").exists():
            seal(owner, [Path(file).name])
        for command in commands(place):
            try:
                trial(command, (*path, kind), Path(file).name)
            except AssertionError as error:  # all are told together
                wrong.append(str(error).splitlines()[0])
    assert not wrong, "\n".join([f"{len(wrong)} of {len(picked)}", *wrong[:30]])


@pytest.fixture
def trial(home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Trial:
    return Trial(home, tmp_path, capsys)


def read_plain(path: Path) -> Any:
    return json.loads(path.read_text())


@pytest.mark.parametrize("file", ["config.yaml", "environment.json", "content.json"])
def test_predict_of_a_run_with_another_field(trial: Trial, file: str) -> None:
    read, write = (read_yaml, mutants.write_yaml) if file.endswith("yaml") else (read_plain, mutants.write_json)
    try_all(trial, "run", file, read, write, 60, lambda place: [trial.predict(place)])


@pytest.mark.parametrize("file", ["config.yaml", "environment.json", "metrics.json"])
def test_resume_of_a_finished_run_with_another_field(trial: Trial, file: str) -> None:
    read, write = (read_yaml, mutants.write_yaml) if file.endswith("yaml") else (read_plain, mutants.write_json)
    try_all(trial, "run", file, read, write, 40, lambda place: [["train", "--resume", "--out", str(place)]])


@pytest.mark.parametrize("file", ["study.yaml", "cells/Joint/seed0/metrics.json", "cells/Joint/seed0/environment.json"])
def test_a_comparison_with_another_field_is_not_continued(trial: Trial, file: str) -> None:
    read, write = (read_yaml, mutants.write_yaml) if file.endswith("yaml") else (read_plain, mutants.write_json)
    command = ["compare", "--methods", "Joint", "--seeds", "0", "--controls", "false", "--cost", "false", "--out"]
    try_all(trial, "study", file, read, write, 12, lambda place: [[*command, str(place)]])


def header_of(path: Path) -> Any:
    """What the weights say about themselves."""
    with safetensors.safe_open(str(path), "pt") as file:
        return json.loads(file.metadata()["equimodal"])


def test_weights_with_another_header(trial: Trial) -> None:
    tensors = safetensors.load_file(trial.home / "run" / "weights.safetensors")

    def write(path: Path, value: Any) -> None:
        safetensors.save_file(tensors, path, {"equimodal": mutants.flat(value)})

    def read(path: Path) -> Any:
        return {"extra": header_of(path)["extra"]}

    try_all(trial, "run", "weights.safetensors", read, write, 60, lambda place: [trial.predict(place)])


def test_a_history_with_another_field_is_not_continued(trial: Trial) -> None:
    def read(path: Path) -> Any:
        return json.loads(path.read_text().splitlines()[0])

    def write(path: Path, value: Any) -> None:
        path.write_text(mutants.flat(value) + "\n" + "".join(path.read_text().splitlines(keepends=True)[1:]))

    command = ["compare", "--methods", "Joint", "--seeds", "0", "--controls", "false", "--cost", "false", "--out"]
    file = "cells/Joint/seed0/history.jsonl"
    try_all(trial, "study", file, read, write, 12, lambda place: [[*command, str(place)]])


def test_a_checkpoint_with_another_field_is_not_continued(trial: Trial) -> None:
    whole = torch.load(trial.home / "begun" / "checkpoints" / "last.ckpt", weights_only=True)
    names = [k for k in whole if k not in ("pytorch-lightning_version", "hparams_name", "hyper_parameters")]
    every = [
        ((name, kind), mutants.changed(whole, (name,), mutants.WRONG[kind]))
        for name in names
        for kind in ("null", "text", "list", "mapping", "huge", "missing")
    ] + [
        (("state_dict", name), mutants.changed(whole, ("state_dict", name), wrong))
        for name in list(whole["state_dict"])[:3]
        for wrong in (torch.zeros(1), None, "x", mutants.ABSENT)
    ]
    picked = chosen(14, len(every), 7)
    for number, (path, value) in enumerate(every):
        if number not in picked:
            continue
        place = trial.fresh("begun")
        torch.save(value, place / "checkpoints" / "last.ckpt")
        code = trial(["train", "--resume", "--out", str(place)], path, "last.ckpt")
        if code == 0:
            found, right = (read_plain(f / "metrics.json")["test"] for f in (place, trial.home / "run"))
            assert found == right, path


WORDS = [
    ".nan", ".inf", "-5", "9" * 20, "9" * 500, "1e300", "null", "[1]", "{a: 1}", "x", "", "true", "a=1", "[[[[1]]]]",
    "\x1b[31m", "../x", "x" * 5000, "[" * 200, "*a", "&a [*a]", "{a: 1, a: 2}", "!!python/object:os.system x",
]  # fmt: skip
COMMANDS = {
    "train": ["--method", "MLA"], "compare": ["--methods", "Joint", "--cost", "false"], "predict": ["none"],
    "evaluate": ["none"], "export": ["none"], "tune": [],
}  # fmt: skip


@pytest.mark.parametrize("command", COMMANDS)
def test_no_value_of_an_option_is_a_traceback(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Where the value is right, the command ends at the folder that cannot be made, or at the run that is not there."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "afile").write_text("")
    main([command, *COMMANDS[command][:2], "--help"])
    options = sorted(set(re.findall(r"--[a-zA-Z_][\w.\-]*", capsys.readouterr().out)))
    options = [o for o in options if o not in ("--help", "--print_config", "--resume", "--debug", "--quiet", "--out")]
    every = [(option, word) for option in options for word in WORDS]
    picked = chosen(25, len(every), len(command))
    small = ["--data", "synthetic", "--data.options", "{train: 24, validation: 12, test: 12}"]
    wrong = []
    for number, (option, word) in enumerate(every):
        if number not in picked:
            continue
        given = [command, *COMMANDS[command], *(small if command in ("train", "compare", "tune") else [])]
        given += [] if command in ("predict", "evaluate", "export") else ["--out", "afile/x"]
        code = main([*given, f"{option}={word}"])
        said = capsys.readouterr()
        lines = [line for line in said.err.splitlines() if not line.startswith("warning: ")]
        FOUND[f"command line: {'right' if 'afile' in said.err or '`none`' in said.err else 'refused'}"] += 1
        good = code in (1, 2) and len(lines) == 1 and "Traceback" not in said.err and "unforeseen" not in said.err
        if not good or any(ord(c) < 32 and c != "\n" for c in said.err + said.out):
            wrong.append((option, word[:40], code, said.err[:300]))
    assert not wrong, "\n".join(map(str, [len(wrong), *wrong[:30]]))
