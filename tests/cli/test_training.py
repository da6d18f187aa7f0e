"""What watches a training and what is measured of it, from the command line."""

from __future__ import annotations

import csv
import json
import sys
from pathlib import Path

import pytest
import yaml

from equimodal.cli._parser import call_list
from equimodal.errors import MissingExtraError
from equimodal.studies import load_run, suggest_rate
from equimodal.studies.runs._loggers import check_loggers
from tests.cli.helpers import CLI, TINY
from tests.studies.helpers import config

TRAIN = ["train", *TINY, "--method", "CGGM", "--probe", "false"]


def test_metrics_loggers_and_details(cli: CLI, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    cli([*TRAIN, "--metrics", "f1,auroc,fbeta(beta=2.0)", "--logger", "csv,tensorboard", "--loader.workers", "1",
         "--out", str(folder)])  # fmt: skip
    metrics = json.loads((folder / "metrics.json").read_text())
    for part in ("test", "validation"):
        assert {"f1", "auroc", "fbeta(beta=2.0)"} <= set(metrics[part])
    assert metrics["test"]["f1"] == pytest.approx(metrics["test"]["macro_f1"])
    details = json.loads((folder / "details.json").read_text())
    assert sorted(details) == ["test", "validation"]
    assert sum(map(sum, details["test"]["confusion"])) == 24
    f1 = [value or 0.0 for value in details["test"]["f1"]]
    assert sum(f1) / 3 == pytest.approx(metrics["test"]["f1"], abs=1e-6)
    with (folder / "logs" / "csv" / "version_0" / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    lines = [json.loads(line) for line in (folder / "history.jsonl").read_text().splitlines()]
    logged = [row for row in rows if row["training/loss"]]
    assert [float(row["training/loss"]) for row in logged] == pytest.approx([line["loss"] for line in lines], abs=1e-6)
    names = ("training/lr/0", "training/loss/joint", "training/coefficient/balance/m1", "validation/score/m2")
    assert all(any(row[name] for row in rows) for name in names)
    assert list((folder / "logs" / "tensorboard").glob("events.out.tfevents.*"))
    assert yaml.safe_load((folder / "config.yaml").read_text())["logger"] == ["csv", "tensorboard"]
    shown = cli(["evaluate", str(folder), "--metrics", "ece", "--out", str(tmp_path / "e.json")])
    assert "ece: " in shown
    record = json.loads((tmp_path / "e.json").read_text())
    assert record["details"] == details["test"]
    assert record["metrics"]["ece"] > 0


def test_wrong_metrics_and_loggers_are_refused_before_anything_is_made(cli: CLI, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    assert "Did you mean 'auroc'" in cli.error([*TRAIN, "--metrics", "aurok", "--out", str(folder)], 2)
    assert "'tensorboard'" in cli.error([*TRAIN, "--logger", "tensorbord", "--out", str(folder)], 2)
    assert "aurok" in cli.error(["compare", *TINY, "--metrics", "aurok", "--out", str(folder)], 2)
    assert not folder.exists()
    assert call_list("f1,fbeta(beta=2.0, average='micro')") == ["f1", "fbeta(beta=2.0, average='micro')"]
    assert call_list(["a", "b"]) == ["a", "b"]


@pytest.mark.parametrize("name", ["wandb", "mlflow"])
def test_a_logger_that_is_not_installed_says_what_to_install(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(MissingExtraError, match=r'pip install "equimodal\[loggers\]"'):
        check_loggers([name])


@pytest.mark.parametrize("name", ["wandb", "mlflow"])
def test_outside_loggers_offline(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cli: CLI) -> None:
    pytest.importorskip(name)
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    cli([*TRAIN, "--logger", name, "--out", str(tmp_path / "run")])
    found = tmp_path / "run" / "logs" / ("wandb" if name == "wandb" else "mlflow.db")
    assert found.exists()


def test_the_rate_is_found_printed_and_recorded(cli: CLI, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    printed = cli([*TRAIN, "--find-rate", "--out", str(folder)])
    assert "arXiv 1506.01186" in printed
    assert not folder.exists()
    cli([*TRAIN, "--rate", "auto", "--logger", "none", "--out", str(folder)])
    stored = yaml.safe_load((folder / "config.yaml").read_text())
    record = json.loads((folder / "rate.json").read_text())
    assert stored["training"]["lr"] == record["suggestion"] == pytest.approx(float(printed.split()[-1]), rel=1e-2)
    assert record["rule"].startswith("a tenth of the rate")
    assert len(record["rates"]) == len(record["losses"])
    cli(["train", "--resume", "--out", str(folder), "--rate", "auto"])  # what was found then
    assert load_run(folder)[0].training.lr == record["suggestion"]
    assert "training.lr" in cli.error(["compare", *TINY, "--rate", "auto", "--out", str(tmp_path / "s")], 1)


def test_the_rate_in_python() -> None:
    one = config("MLA", lr="auto")
    assert suggest_rate(one) == suggest_rate(one)


def test_early_stopping_is_told_and_recorded(cli: CLI, tmp_path: Path) -> None:
    """A rate of 0: no epoch is better than the first, so that 1 + 2 of 30 epochs are trained."""
    plain = "{m1: {norm: none}, m2: {norm: none}}"
    shown = cli([
        *TRAIN, "--method", "Joint", "--model.encoders", plain, "--training.lr", "0", "--training.epochs", "30",
        "--training.patience", "2", "--logger", "none", "--out", str(tmp_path / "run"),
    ])  # fmt: skip
    assert "ended early: after 3 of 30 epochs, by training.patience 2" in shown
    chosen = json.loads((tmp_path / "run" / "metrics.json").read_text())["selection"]
    assert (chosen["epoch"], chosen["trained"], chosen["planned"]) == (0, 3, 30)


def test_early_stopping_is_off_except_in_fit(cli: CLI) -> None:
    def patience(command: list[str]) -> object:
        return yaml.safe_load(cli([*command, "--print_config"]))["training"]["patience"]

    assert patience(["train"]) is None
    assert patience(["compare"]) is None
    assert patience(["fit", "x.csv", "--target", "y"]) == 8
    assert patience(["fit", "x.csv", "--target", "y", "--training.patience", "null"]) is None
