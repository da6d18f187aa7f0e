"""Checks of runs and comparisons on disk: from records, with the model, and what is refused."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from equimodal.cli import main
from equimodal.diagnostics import Outcomes
from equimodal.errors import DataError, UnknownNameError
from equimodal.studies import (
    DataConfig,
    Entry,
    ModelConfig,
    RunConfig,
    StudyConfig,
    TrainingConfig,
    check_folder,
    check_run,
    check_study,
    compare,
    findings_of,
    run,
)
from equimodal.studies import runs as records
from tests.cli.helpers import CLI

QUICK = TrainingConfig(epochs=2, batch_size=16, device="cpu", lr=1e-2)
SMALL = ModelConfig(feature_size=6, size="small")
DATA = DataConfig("synthetic", options={"train": 72, "validation": 24, "test": 48, "classes": 3, "features": 7})


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("check") / "run"
    run(RunConfig("CGGM", data=DATA, model=SMALL, training=QUICK), folder, loggers=False)
    return folder


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("check") / "study"
    entries = {"MLA": Entry("MLA"), "Joint": Entry("Joint"), "Ensemble": Entry("Ensemble")}
    config = StudyConfig(entries, seeds=[0], data=DATA, model=SMALL, training=QUICK, controls=False)
    compare(config, folder, cost=False)
    return folder


def rewritten(folder: Path, target: Path, change: Any) -> Path:
    """A copy of a run whose outcomes are changed and sealed again, as another training would have left them."""
    shutil.copytree(folder, target)
    found = change(records.read_outcomes(target / "outcomes.npz"))
    from equimodal.studies.runs._outcomes import write_outcomes

    write_outcomes(target / "outcomes.npz", found)
    records.seal(target, ["outcomes.npz"])
    return target


def test_a_run_keeps_what_its_probes_earned(one: Path) -> None:
    outcomes, metrics = records.read_outcomes(one / "outcomes.npz"), json.loads((one / "metrics.json").read_text())
    assert set(metrics["probe"]) == {"m1", "m2"}
    for m, score in metrics["probe"].items():
        assert float(outcomes[f"probe/{m}"].score()) == pytest.approx(score)


def test_a_run_is_checked_with_its_model(one: Path) -> None:
    report = check_run(one)
    (few,) = report.of("EQ005")
    score = json.loads((one / "metrics.json").read_text())["validation"]["score"]
    assert f"{100 * score:.1f} % is of 24 samples" in few.reason
    why = {u.code: u.why for u in report.unchecked}
    assert set(why) <= {"EQ003", "EQ004", "EQ009", "EQ014", "EQ017"}  # no controls, no groups, no projector, no gain
    assert not [w for w in why.values() if "refused" in w]


def test_records_alone_say_what_they_can(one: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> Any:
        raise AssertionError("the model was loaded")

    monkeypatch.setattr("equimodal.studies.checks._run.load_run", refuse)
    report = check_run(one, records_only=True)
    assert report.codes
    assert {"EQ001", "EQ002", "EQ005", "EQ008", "EQ013"} <= {*report.codes, *report.passed}
    assert all("equimodal check" in u.why for u in report.unchecked if u.code in ("EQ011", "EQ018"))


def test_recorded_outcomes_decide(one: Path, tmp_path: Path) -> None:
    def change(outcomes: Mapping[str, Outcomes]) -> dict[str, Outcomes]:
        right = np.ones((48, 1), np.float32)
        return {**outcomes, "probe/m1": Outcomes(right, right), "unimodal/m1": Outcomes(0 * right, right)}

    report = check_run(rewritten(one, tmp_path / "run", change), records_only=True)
    (found,) = [f for f in report.of("EQ001") if f.where == "m1"]
    assert found.number == 1.0


def test_a_run_whose_data_are_gone_is_checked_by_its_records(one: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def gone(*_: Any) -> Any:
        raise DataError("`data.npz`: expected a bundle. Found no such file.")

    monkeypatch.setattr("equimodal.studies.checks._run.load_run", gone)
    report = check_run(one)
    assert any("could not be loaded: `data.npz`" in u.why for u in report.unchecked)


def test_a_comparison_is_checked_entry_by_entry(study: Path) -> None:
    report = check_study(study)
    about = {(f.code, f.where.partition(":")[0]) for f in report.findings}
    assert ("EQ009", "MLA") in about  # two epochs on 72 samples: no gain over the best control
    assert not {where for code, where in about if code == "EQ009"} & {"Joint", "Ensemble"}
    assert "EQ016" in report.passed  # the data were looked at
    (few,) = report.of("EQ005")[:1]
    assert few.severity == "warning"


def test_findings_for_reports_come_from_records_alone(study: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> Any:
        raise AssertionError("the model was loaded")

    monkeypatch.setattr("equimodal.studies.checks._study.load_run", refuse)
    found = findings_of(study)
    assert "EQ009" in {f.code for f in found}
    assert [f.severity for f in found] == sorted((f.severity for f in found), key=["error", "warning", "note"].index)


def test_an_ensemble_that_is_better_is_found_in_a_comparison(study: Path, tmp_path: Path) -> None:
    target = tmp_path / "study"
    shutil.copytree(study, target)
    right = np.ones((48, 1), np.float32)
    from equimodal.studies.runs._outcomes import write_outcomes

    for label, value in (("Ensemble", 1.0), ("MLA", 0.0)):
        cell = target / "cells" / label / "seed0"
        outcomes = records.read_outcomes(cell / "outcomes.npz")
        write_outcomes(cell / "outcomes.npz", {**outcomes, "prediction": Outcomes(value * right, right)})
        records.seal(cell, ["outcomes.npz"])
    (found,) = [f for f in findings_of(target) if f.code == "EQ003" and f.where == "MLA"]
    assert found.number == 1.0


def test_an_unfinished_cell_of_a_comparison_is_named(study: Path, tmp_path: Path) -> None:
    assert check_study(study, records_only=True).subject == f"{study}, 3 entries"
    target = tmp_path / "study"
    shutil.copytree(study, target)
    shutil.rmtree(target / "cells" / "MLA")
    found = check_study(target, records_only=True)
    assert found.subject == f"{target}, 2 entries, without 1 unfinished cell(s) (MLA/seed0)"


def test_what_is_no_run_or_comparison_is_refused_by_name(one: Path, study: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such folder"):
        check_folder(tmp_path / "nothing")
    with pytest.raises(DataError, match="Found a folder without a run"):
        check_folder(tmp_path)
    target = tmp_path / "study"
    target.mkdir()
    shutil.copy(study / "study.yaml", target)
    with pytest.raises(DataError, match="at least one finished cell"):
        check_folder(target)
    unfinished = tmp_path / "unfinished"
    shutil.copytree(one, unfinished)
    (unfinished / "weights.safetensors").unlink()
    with pytest.raises(DataError, match="unfinished"):
        check_folder(unfinished)
    changed = tmp_path / "changed"
    shutil.copytree(one, changed)
    (changed / "metrics.json").write_text((one / "metrics.json").read_text() + " ")
    with pytest.raises(DataError, match=r"metrics.json"):
        check_folder(changed)
    with pytest.raises(UnknownNameError, match="EQ01"):
        check_folder(one, ignore=["EQ01"])


# ---- the command -----------------------------------------------------------------------------------------------------


def test_the_command_prints_findings_and_next_steps(one: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cli = CLI(capsys)
    text = cli(["check", str(one), "--fast", "--ignore", "EQ005,eq011"])
    assert "2 muted" in text
    assert "[EQ005]" not in text
    record = json.loads(cli(["check", str(one), "--fast", "--format", "json"]))
    assert {f["code"] for f in record["findings"]} >= {"EQ005"}
    assert all(f["next_step"] and f["page"] for f in record["findings"])
    cli(["check", str(one), "--fast", "--strict"], code=1)
    every = ",".join({f["code"] for f in record["findings"]})
    cli(["check", str(one), "--fast", "--strict", "--ignore", every])


def test_the_command_refuses_by_name(one: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cli = CLI(capsys)
    assert "EQ0044" in cli.error(["check", str(one), "--ignore", "EQ0044"], 2)
    assert "no such folder" in cli.error(["check", str(tmp_path / "no")], 1)
    assert "ModuleNotFoundError" in cli.error(["check", "no_such_module:made"], 2)
    assert "--records" in cli.error(["check", "no_such_module:made", "--records"], 2)


def test_the_command_checks_a_model_in_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "own_script.py").write_text(
        "from tests.diagnostics.checks.constructed import data, told\n"
        "from torch import nn\n"
        "def trained(): return {'model': told((1.0, 0.0)), **data()}\n"
        "def strange(): return {'model': nn.Linear(2, 2), **data()}\n"
        "def unknown(): return {'model': told(), 'tests': []}\n"
        "number = lambda: 3\n"
    )
    monkeypatch.chdir(tmp_path)
    cli = CLI(capsys)
    assert "[EQ010]" in cli(["check", "own_script:trained", "--fast"])
    assert "parameters_of" in cli.error(["check", "own_script:strange"], 1)
    assert "tests" in cli.error(["check", "own_script:unknown"], 2)
    assert "int" in cli.error(["check", "own_script:number"], 2)
    assert "AttributeError" in cli.error(["check", "own_script:nothing"], 2)


def test_colours_on_a_terminal_hide_no_letters(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("rich")
    from equimodal.cli import _check
    from equimodal.diagnostics import Report
    from equimodal.diagnostics.checks import Finding

    class Terminal:
        def __init__(self) -> None:
            self.text = ""

        def write(self, text: str) -> int:
            self.text += text
            return len(text)

        def flush(self) -> None: ...

        def isatty(self) -> bool:
            return True

    terminal = Terminal()
    monkeypatch.setattr("sys.stdout", terminal)
    found = Finding("EQ001", "Title [bold]", "warning", 1.0, 0.0, "Reason\x1b[31m", "Do.", "docs/checks/eq001.md")
    _check._show(Report("x", (found,)))
    assert "warning [EQ001] Title [bold]" in terminal.text
    assert "\x1b[31mReason" not in terminal.text
    assert main(["check", "--help"]) == 0
