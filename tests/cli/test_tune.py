"""``equimodal tune``: one command from data to verdict, which continues; its page needs nothing else."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest

from equimodal.cli._main import main
from equimodal.errors import DataError
from equimodal.report import render_tuning, tuning_table
from tests.cli.helpers import CLI, TINY

pytest.importorskip("optuna")

SMALL = [*TINY, "--budget", "9", "--methods", "MLA", "--fusions", "Sum", "--ensemble", "2", "--length", "1"]


@pytest.fixture(scope="module")
def tuned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a tuning that the command line made; only read."""
    folder = tmp_path_factory.mktemp("cli") / "tuned"
    assert main(["tune", *SMALL, "--out", str(folder), "--quiet"]) == 0
    return folder


def record(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "tune.json").read_text())
    return found


def test_the_folder_alone_continues_and_prints_the_verdict(cli: CLI, tuned: Path) -> None:
    before = record(tuned)
    lines = cli(["tune", "--out", str(tuned)]).splitlines()
    assert record(tuned) == before
    assert lines[0].split() == ["trial", "score,", "%", "epochs", "state", "fusion", "rate", "prediction"]
    assert any(line.startswith("0 Joint (c)") for line in lines)
    assert before["verdict"]["words"] in lines
    assert f"next: equimodal train --config {tuned / 'take.yaml'} --out RUN_DIR" in lines
    assert lines[-1] == str(tuned / "report.html")
    assert {t["fusion"] for t in before["trials"] if t["fusion"]} <= {"Concat", "Sum"}


def test_the_next_commands_work(cli: CLI, tuned: Path, tmp_path: Path) -> None:
    train, predict = (command.split()[1:] for command in record(tuned)["commands"])
    train[train.index("RUN_DIR")] = str(tmp_path / "run")
    assert "test accuracy" in cli(train)
    predict[predict.index("predictions.csv")] = str(tmp_path / "predictions.csv")
    cli(predict)
    assert len((tmp_path / "predictions.csv").read_text().splitlines()) == 25


def test_the_page_needs_nothing_else_and_says_everything(tuned: Path) -> None:
    page, found = (tuned / "report.html").read_text(), record(tuned)
    assert not re.search(r"(?:src|href)=\"(?!#)", page)
    assert "http" not in page
    assert page.count("<script") == 1  # the page's own
    for trial in found["trials"]:
        if trial["score"] is not None:
            assert f"<td>{trial['number']} {trial['method']}" in page
    for text in (
        "Winner, best control and default",
        "Importance of each choice",
        "What was tried",
        "Validation score",
        "Ensemble",
    ):
        assert text in page
    assert page.count("<svg") > 2


def test_what_a_record_says_is_escaped(tuned: Path, tmp_path: Path) -> None:
    found = record(tuned)
    found["title"] = "<script>alert(1)</script>"
    found["trials"][0]["method"] = "<b>\x1b[31mJoint"
    page = render_tuning(found, tmp_path / "page.html").read_text()
    assert page.count("<script") == 1  # the page's own
    assert "<b>" not in page
    assert "\x1b" not in page
    assert "\x1b" not in tuning_table({**found, "verdict": {**found["verdict"], "words": "\x1b[31mTake"}})


def test_a_regression_shows_its_error(tuned: Path, tmp_path: Path) -> None:
    found = record(tuned)
    found["metric"] = {"name": "mae", "higher_is_better": False}
    for trial in found["trials"]:
        if trial["score"] is not None:
            trial["score"] = -0.25
    assert "score, MAE" in tuning_table(found).splitlines()[0]
    assert "0.250" in tuning_table(found)
    assert "0.250" in render_tuning(found, tmp_path / "page.html").read_text()


@pytest.mark.parametrize("change", [{"trials": None}, {"trials": [{}]}, {"verdict": None}, {"trials": "none"}])
def test_a_malformed_record_is_refused(change: dict[str, Any], tuned: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="tuning: "):
        render_tuning({**record(tuned), **change}, tmp_path / "page.html")
    with pytest.raises(DataError, match="tuning: "):
        tuning_table({**record(tuned), **change})


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--budget", "60"], 2, "--out is missing"),
        ([*TINY, "--budget", "1", "--out", "t"], 1, "`budget`: expected at least 2 joint epochs"),
        ([*TINY, "--budget", "many", "--out", "t"], 2, "budget"),
        ([*TINY, "--methods", "MLAA", "--out", "t"], 2, "Unknown method 'MLAA'"),
        ([*TINY, "--budgets", "60", "--out", "t"], 2, "Did you mean '--budget'"),
        (["--data", "nothing.npz", "--out", "t"], 1, "nothing.npz"),
    ],
)
def test_wrong_commands_are_one_line(cli: CLI, arguments: list[str], code: int, message: str) -> None:
    assert message in cli.error(["tune", *arguments], code)


def test_other_data_in_the_folder_are_refused(cli: CLI, tuned: Path) -> None:
    error = cli.error(["tune", "--data.options.seed", "5", "--out", str(tuned)], 1)
    assert "expected the tuning that it holds. Found other" in error
    assert "fingerprint" in error


def test_interruption_says_how_to_continue(cli: CLI, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("equimodal.studies.tuning._search.advance", interrupted)
        cli(["tune", *SMALL, "--out", "t"], 130)
    assert "Continue with: equimodal tune --out t --workers 1" in cli.err
    assert "Take" in cli(["tune", "--out", "t"])


def test_without_the_extra_it_says_what_to_install(cli: CLI, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "optuna", None)
    assert 'pip install "equimodal[tune]"' in cli.error(["tune", *SMALL, "--out", "t"], 1)
