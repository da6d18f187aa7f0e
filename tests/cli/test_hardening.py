"""Command lines that used to end in a traceback, in silence, or with half a result."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from equimodal.data import write_bundle
from equimodal.studies import DataConfig, ModelConfig, RunConfig, TrainingConfig, run
from tests.cli.helpers import CLI, TINY
from tests.studies.helpers import as_of_the_first_version


def write(path: Path, regression: bool = False) -> None:
    rng = np.random.default_rng(0)
    labels = np.arange(60) % 3
    inputs = {m: rng.standard_normal((60, 5)).astype("float32") for m in ("smell", "touch")}
    target = rng.standard_normal(60).astype("float32") if regression else labels
    split = np.repeat(["train", "validation", "test"], [30, 15, 15])
    write_bundle(path, inputs=inputs, target=target, split=split, task="regression" if regression else "classification")


def settings(data: str) -> RunConfig:
    return RunConfig("MLA", {}, DataConfig(data), ModelConfig(feature_size=6, size="small"),
                     TrainingConfig(epochs=1, batch_size=16, device="cpu"))  # fmt: skip


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two bundles and a run of each, and one (near) that was started in it by a relative path."""
    folder = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for name in ("small", "numbers"):
            write(Path(f"{name}.npz"), regression=name == "numbers")
            run(settings(str(folder / f"{name}.npz")), f"runs/{name}", loggers=False)
        run(settings("small.npz"), "runs/near", loggers=False)
    return folder


# ---- train and compare ---------------------------------------------------------------------------------------------


def test_resume_of_a_folder_without_a_run_is_refused(cli: CLI) -> None:
    assert "--resume: no run in `typo` (no such folder). Check the path" in cli.error(
        ["train", "--resume", "--out", "typo", "--quiet"], 2
    )
    Path("empty").mkdir()
    assert "no run in `empty` (no config.yaml)" in cli.error(["train", "--out=empty", "--resume"], 2)
    assert not Path("typo").exists()
    cli(["train", "--resume", "--out", "new", "--method", "Joint", *TINY])  # a job's first start
    assert Path("new/metrics.json").exists()


def test_a_cell_of_a_comparison_can_be_resumed_as_a_run(cli: CLI) -> None:
    cli(["compare", "--methods", "MLA", *TINY, "--seeds", "0", "--controls", "false", "--cost", "false", "--out", "s"])
    Path("s/cells/MLA/seed0/metrics.json").unlink()
    cli(["train", "--resume", "--out", "s/cells/MLA/seed0", "--quiet"])
    assert Path("s/cells/MLA/seed0/metrics.json").exists()
    cli(["train", "--config", "s/cells/MLA/seed0/config.yaml", "--out", "again", "--quiet"])
    found = [json.loads((Path(f) / "metrics.json").read_text())["test"] for f in ("s/cells/MLA/seed0", "again")]
    assert found[0] == found[1]


def test_an_entry_that_breaks_is_told_after_the_table(cli: CLI) -> None:
    Path("c.yaml").write_text(
        f"entries:\n  boom: {{method: MLA, options: {{seed: {10**23}}}}}\n  ok: {{method: Joint}}"
    )
    text = cli(["compare", "--config", "c.yaml", *TINY, "--training.epochs", "1", "--seeds", "0", "--controls", "false",
                "--cost", "false", "--out", "s"], 1)  # fmt: skip
    assert "ok" in text
    assert "error: 1 of 2 cells failed" in cli.err
    assert "Traceback" not in cli.err


def test_bad_folders_are_told_in_one_line(cli: CLI) -> None:
    Path("afile").write_text("")
    for out in ("afile", "afile/sub", "/proc/none/such"):
        for command in ("train", "compare"):
            error = cli.error([command, *TINY, "--out", out, "--quiet"], 1)
            assert error.startswith(f"error: `{out}`: expected a folder that can be made and written to")


def test_help_names_types_and_options(cli: CLI) -> None:
    for command in ("compare", "demo", "evaluate", "predict", "export"):
        text = " ".join(cli([command, "--help"]).split())
        assert "<function" not in text
    assert "type: comma list" in text
    assert "two passes every 'every' steps" in " ".join(cli(["train", "--method", "Joint", "--help"]).split())


# ---- finished runs -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("option", [["--figure", "f.png"], ["--reference", "x"], ["--levels=0.5,1"], ["--draws", "5"]])
def test_options_of_curves_need_curves(cli: CLI, home: Path, option: list[str]) -> None:
    error = cli.error(["evaluate", str(home / "runs/small"), *option], 2)
    assert f"{option[0].partition('=')[0]}: expected " in error
    assert "--noise beside it" in error
    assert not Path("f.png").exists()


def test_levels_need_noise(cli: CLI, home: Path) -> None:
    arguments = ["evaluate", str(home / "runs/small"), "--missing-rates", "0.5", "--levels", "0.5"]
    assert "--levels: expected --noise beside it" in cli.error(arguments, 2)


@pytest.mark.parametrize(
    "bad",
    [["--missing-rates", "1.5"], ["--noise", "foo"], ["--noise", "all", "--draws", "0"], ["--subsets", "--subset-limit",
     "0"], ["--noise", "smell=drop_entries", "--levels", "2"], ["--noise", "smell=drop_steps"]],
)  # fmt: skip
def test_what_is_refused_prints_no_part_of_a_result(cli: CLI, home: Path, bad: list[str]) -> None:
    code = 2 if bad[1] == "foo" else 1
    assert cli(["evaluate", str(home / "runs/small"), *bad], code) == ""


def test_evaluate_prints_errors_as_train_does(cli: CLI, home: Path) -> None:
    test = json.loads((home / "runs/numbers/metrics.json").read_text())["test"]
    assert test["score"] < 0
    text = cli(["evaluate", str(home / "runs/numbers"), "--subsets"])
    assert f"  MAE: {-test['score']:.3f}, by rule" in text
    for modality, score in test["unimodal"].items():
        assert f"own output of {modality}: {-score:.3f}" in text
    assert ": -" not in text


def test_evaluate_that_cannot_write_speaks_of_no_resuming(cli: CLI, home: Path) -> None:
    cli(["evaluate", str(home / "runs/small"), "--out", "/proc/none.json"], 1)
    assert "Free space or choose another file." in cli.err
    assert "resume" not in cli.err
    cli(["predict", str(home / "runs/small"), "--out", "/proc/none.csv"], 1)
    assert "resume" not in cli.err


@pytest.mark.parametrize("names", ["", ","])
def test_predict_needs_a_modality(cli: CLI, home: Path, names: str) -> None:
    error = cli.error(["predict", str(home / "runs/small"), "--modalities", names], 1)
    assert "`modalities`: expected at least one name. Found none." in error


# ---- the data of a run, from elsewhere -----------------------------------------------------------------------------


def test_the_data_of_a_run_are_found_from_another_directory(
    cli: CLI, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(home / "runs")
    cli(["evaluate", "near"])
    cli(["predict", "near", "--out", str(tmp_path / "p.csv")])
    cli(["train", "--resume", "--out", "near"])
    # moved with its data: found above the run
    as_of_the_first_version(shutil.copytree(home, tmp_path / "copy"))
    known = tmp_path / "copy/runs/near/environment.json"
    known.write_text(json.dumps({**json.loads(known.read_text()), "directory": "/none"}))
    monkeypatch.chdir(tmp_path / "copy/runs")
    cli(["evaluate", "near"])
    (tmp_path / "copy/small.npz").unlink()
    error = cli.error(["evaluate", "near"], 1)
    assert "`small.npz`: expected the data of the run `near` (config.yaml: data.name). Found nothing" in error


def test_a_run_that_was_moved_alone_finds_its_data(
    cli: CLI, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(home / "runs/near", tmp_path / "alone")
    monkeypatch.chdir(tmp_path)
    cli(["evaluate", "alone"])
    write(Path("small.npz"), regression=True)  # another file of that name is not taken for it
    assert "the data have changed" in cli.error(["evaluate", "alone"], 1)
