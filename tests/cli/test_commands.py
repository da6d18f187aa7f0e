"""Every command on tiny data, as a user calls it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from equimodal.cli import _demo
from equimodal.data import load
from equimodal.studies import DataConfig, ModelConfig, RunConfig, StudyConfig, TrainingConfig, recipe
from tests.cli.helpers import CLI, TINY


def last_line(text: str) -> str:
    return text.splitlines()[-1]


# ---- train ---------------------------------------------------------------------------------------------------------


def test_train_leaves_a_run_and_prints_its_folder_last(cli: CLI) -> None:
    text = cli(["train", "--method", "mla", *TINY, "--options.alpha", "0.25", "--seed", "3"])
    assert last_line(text) == "runs/MLA-synthetic-seed3"
    folder = Path(last_line(text))
    stored = RunConfig.from_dict(yaml.safe_load((folder / "config.yaml").read_text()))
    assert (stored.method, stored.options["alpha"], stored.seed) == ("MLA", 0.25, 3)
    assert stored.options["alpha_schedule"] == "epoch"  # the configuration is resolved
    metrics = json.loads((folder / "metrics.json").read_text())
    assert f"test accuracy: {100 * metrics['test']['score']:.1f} %" in text
    assert "2/2 epochs" in cli.err
    assert last_line(cli(["train", "--method", "mla", *TINY, "--seed", "3", "--quiet"])) == "runs/MLA-synthetic-seed3-2"
    assert cli.err == ""


def test_zero_is_a_value_and_null_is_none(cli: CLI) -> None:
    text = cli(["train", "--method", "CGGM", "--options.direction_weight", "0", "--seed", "0", "--print_config"])
    shown = yaml.safe_load(text)
    assert shown["options"]["direction_weight"] == 0
    assert shown["seed"] == 0
    shown = yaml.safe_load(cli(["train", "--method", "MLA", "--options.projector", "null", "--print_config"]))
    assert shown["options"]["projector"] is None
    found = yaml.safe_load(
        cli(
            [
                "train",
                "--method",
                "Joint",
                "--options.sharpness.mode",
                "full",
                "--options.sharpness.ratio",
                "0",
                "--print_config",
            ]
        )
    )
    assert found["options"]["sharpness"] == {"mode": "full", "radius": 0.05, "ratio": 0.0, "every": 5}


def test_the_printed_configuration_gives_the_same_run(cli: CLI) -> None:
    text = cli(["train", "--method", "CGGM", *TINY, "--options.direction_weight", "0", "--print_config"])
    Path("c.yaml").write_text(text)
    cli(["train", "--config", "c.yaml", "--out", "a"])
    cli(["train", "--config", "a/config.yaml", "--out", "b"])
    stored = [(Path(f) / "config.yaml").read_text() for f in ("a", "b")]
    assert stored[0] == stored[1]
    assert yaml.safe_load(stored[0])["options"]["direction_weight"] == 0
    metrics = [json.loads((Path(f) / "metrics.json").read_text()) for f in ("a", "b")]
    assert metrics[0]["test"] == metrics[1]["test"]


def test_arguments_override_the_file_and_the_file_overrides_the_recipe(cli: CLI) -> None:
    Path("c.yaml").write_text("method: MLA\ndata: {name: utdmhad}\ntraining: {lr: 0.5}\n")
    shown = yaml.safe_load(cli(["train", "--config", "c.yaml", "--training.batch_size", "7", "--print_config"]))
    model, training = recipe("utdmhad")
    assert shown["method"] == "MLA"
    assert shown["training"] == {**vars(training), "lr": 0.5, "batch_size": 7}
    assert shown["model"]["encoders"] == model.encoders
    shown = yaml.safe_load(cli(["train", "--data", "synthetic", "--print_config"]))
    assert shown["training"] == vars(TrainingConfig())


def test_a_folder_in_use_is_refused_and_resume_knows_its_configuration(cli: CLI) -> None:
    cli(["train", "--method", "MLA", *TINY, "--out", "a"])
    assert "--resume" in cli.error(["train", "--method", "MLA", *TINY, "--out", "a", "--quiet"], 1)
    first = Path("a/metrics.json").read_bytes()
    assert last_line(cli(["train", "--resume", "--out", "a"])) == "a"
    assert Path("a/metrics.json").read_bytes() == first
    assert "other values of seed" in cli.error(["train", "--resume", "--out", "a", "--seed", "1", "--quiet"], 1)


# a shell starts what runs in its background with SIGINT ignored, and the tests may run there
INTERRUPTIBLE = """
import runpy, signal
signal.signal(signal.SIGINT, signal.default_int_handler)
runpy.run_module("equimodal", run_name="__main__", alter_sys=True)
"""
# a thread that never ends, as one of another library may at exit
HELD_UP = "import threading; threading.Thread(target=threading.Event().wait).start()"


def start(arguments: list[str], root: Path, code: str = INTERRUPTIBLE) -> subprocess.Popen[str]:
    """A command in a process group of its own, as a terminal starts it."""
    environment = {**os.environ, "PYTHONPATH": str(root / "src")}
    return subprocess.Popen(
        [sys.executable, "-c", code, *arguments],
        env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip


def interrupt(process: subprocess.Popen[str], ready: Path) -> str:
    deadline = time.monotonic() + 120
    while not list(ready.parent.glob(ready.name)):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGINT)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 130, err
    assert "Traceback" not in err
    assert out == "" or not out.endswith("report.html\n")
    return err


@pytest.mark.slow
def test_ctrl_c_leaves_a_run_that_continues(cli: CLI, root: Path) -> None:
    arguments = ["train", "--method", "MLA", *TINY, "--training.epochs", "50", "--out", "a"]
    err = interrupt(start(arguments, root), Path("a/checkpoints/last.ckpt"))
    assert "equimodal train --resume --out a" in err
    done = len(Path("a/history.jsonl").read_text().splitlines())
    assert 0 < done < 50
    cli(["train", "--resume", "--out", "a", "--quiet"])
    epochs = [json.loads(line)["epoch"] for line in Path("a/history.jsonl").read_text().splitlines()]
    assert epochs == list(range(50))


@pytest.mark.slow
def test_ctrl_c_ends_a_process_that_something_else_holds_up(root: Path) -> None:
    arguments = ["train", "--method", "MLA", *TINY, "--training.epochs", "50", "--out", "a"]
    process = start(arguments, root, HELD_UP + INTERRUPTIBLE)
    assert "equimodal train --resume --out a" in interrupt(process, Path("a/checkpoints/last.ckpt"))


@pytest.mark.slow
def test_ctrl_c_leaves_a_comparison_that_continues(cli: CLI, root: Path) -> None:
    arguments = [
        "compare", "--methods", "MLA,Joint", *TINY, "--training.epochs", "40", "--seeds", "0", "--controls", "false",
        "--cost", "false", "--workers", "2", "--out", "s",
    ]  # fmt: skip
    err = interrupt(start(arguments, root), Path("s/cells/MLA/seed0/history.jsonl"))
    assert "equimodal compare --out s --workers 2" in err
    text = cli(["compare", "--out", "s", "--cost", "false", "--quiet"])
    assert last_line(text) == "s/report.html"
    assert sorted(p.parent.parent.name for p in Path("s").glob("cells/*/*/metrics.json")) == ["Joint", "MLA"]


# ---- compare and demo ----------------------------------------------------------------------------------------------


def test_compare_prints_a_table_and_writes_the_reports(cli: CLI) -> None:
    Path("c.yaml").write_text("entries:\n  no projector: {method: mla, options: {projector: null, alpha: 2e-1}}\n")
    arguments = ["compare", "--config", "c.yaml", "--methods", "Joint", *TINY, "--training.epochs", "1", "--seeds", "0"]
    text = cli([*arguments, "--controls", "false", "--cost", "false", "--out", "s"])
    assert last_line(text) == "s/report.html"
    assert "no projector" in text
    study = json.loads(Path("s/study.json").read_text())
    rows = {row["method"]: row["options"] for row in study["rows"]}
    assert list(rows) == ["Joint", "no projector"]
    assert {"projector": None, "alpha": 0.2, "alpha_schedule": "epoch"}.items() <= rows["no projector"].items()
    assert "no projector" in Path("s/table.md").read_text()
    page = Path("s/report.html").read_text()
    assert "<html" in page
    assert 'src="http' not in page
    again = cli(["compare", "--out", "s", "--cost", "false"])  # everything else comes from the folder
    assert json.loads(Path("s/study.json").read_text())["rows"] == study["rows"]
    assert last_line(again) == "s/report.html"


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        ("{method: MLA, options: {alpa: 1}}", "Did you mean 'options.alpha'"),
        ("{method: MLA, options: {alpha: high}}", "`options.alpha`"),
        ("{method: MLAA}", "Did you mean 'MLA'"),
        ("{method: MLA, option: {alpha: 1}}", "Did you mean 'options'"),
        ("MLA", "expected {method: NAME"),
    ],
)
def test_wrong_entries_are_refused_before_anything_runs(cli: CLI, entry: str, said: str) -> None:
    Path("c.yaml").write_text(f"entries: {{mine: {entry}}}\n")
    assert said in cli.error(["compare", "--config", "c.yaml", *TINY, "--out", "s"], 2)
    assert not Path("s").exists()


def test_cells_that_fail_are_told_after_the_table(cli: CLI) -> None:
    Path("c.yaml").write_text("entries:\n  bad: {method: MLA, options: {alpha: -1}}\n  good: {method: Joint}\n")
    arguments = [
        "compare",
        "--config",
        "c.yaml",
        *TINY,
        "--training.epochs",
        "1",
        "--seeds",
        "0",
        "--controls",
        "false",
    ]
    text = cli([*arguments, "--cost", "false", "--out", "s", "--quiet"], 1)
    assert "good" in text
    told = [line for line in cli.err.splitlines() if not line.startswith("warning: `inference`")]  # small data
    assert len(told) == 1
    assert told[0].startswith("error: 1 of 2 cells failed")
    assert Path("s/report.html").exists()


def small_demo(monkeypatch: pytest.MonkeyPatch) -> list[StudyConfig]:
    """The demo on tiny data, in this process."""
    seen: list[StudyConfig] = []
    original: Any = vars(_demo)["run_and_report"]

    def run(config: StudyConfig, folder: Path, workers: int, *rest: Any, **options: Any) -> int:
        seen.append(config)
        small = dict(zip(TINY[2:12:2], map(int, TINY[3:12:2]), strict=True))
        config.data = DataConfig("synthetic", options={k.removeprefix("--data.options."): v for k, v in small.items()})
        config.model = ModelConfig(feature_size=6, size="small")
        code: int = original(config, folder, 1, *rest, cost=False, **options)
        return code

    monkeypatch.setattr(_demo, "run_and_report", run)
    return seen


def test_the_demo_is_a_complete_comparison_and_ends_with_a_verdict_and_what_to_try(
    cli: CLI, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = small_demo(monkeypatch)
    arguments = ["demo", "--training.epochs", "1", "--seeds", "0"]
    text = cli(arguments)
    assert last_line(text) == "equimodal-demo/report.html"
    for name in ("Joint", "MultiLoss", "Unimodal[m1]", "Ensemble", "ExpertPool", "MLA", "CGGM", "MIE"):
        assert name in text
    assert "lacks the control" not in text  # no warning about itself
    verdict = text[text.index("Verdict: ") :]
    assert "Against the best control, " in verdict
    assert "Against the best single modality: " in verdict
    assert "equimodal fit TABLE.csv --target COLUMN" in verdict
    assert "equimodal compare --data DATA.npz --methods " in verdict
    assert Path("equimodal-demo/report.html").stat().st_size > 5000
    assert (seen[0].seeds, seen[0].training.selection) == ([0], recipe("avdigits")[1].selection)
    assert last_line(cli(arguments)) == "equimodal-demo-2/report.html"  # twice in a row


def test_an_unfinished_demo_is_continued(cli: CLI, monkeypatch: pytest.MonkeyPatch) -> None:
    config = StudyConfig({}, [0], DataConfig("avdigits"), ModelConfig(), TrainingConfig(epochs=1))
    assert _demo._folder(config) == Path("equimodal-demo")
    Path("equimodal-demo").mkdir()
    assert _demo._folder(config) == Path("equimodal-demo")
    (Path("equimodal-demo") / "other").touch()
    assert _demo._folder(config) == Path("equimodal-demo-2")
    parts = {"data": vars(config.data), "model": vars(config.model), "training": vars(config.training)}
    Path("equimodal-demo/study.yaml").write_text(yaml.safe_dump(parts))
    assert _demo._folder(config) == Path("equimodal-demo")
    config.training.epochs = 2  # another demo
    assert _demo._folder(config) == Path("equimodal-demo-2")
    config.training.epochs = 1
    Path("equimodal-demo/report.html").touch()
    assert _demo._folder(config) == Path("equimodal-demo-2")


# ---- evaluate and predict ------------------------------------------------------------------------------------------


def test_evaluate_and_predict_a_finished_run(cli: CLI) -> None:
    cli(["train", "--method", "MLA", *TINY, "--out", "a"])
    metrics = json.loads(Path("a/metrics.json").read_text())
    text = cli(["evaluate", "a", "--subsets", "--out", "e.json"])
    found = json.loads(Path("e.json").read_text())
    assert found["score"] == metrics["test"]["score"]
    assert [" + ".join(s["subset"]) for s in found["subsets"]] == ["m1", "m2", "m1 + m2"]
    assert found["subsets"][-1]["score"] == pytest.approx(found["score"], abs=1e-6)
    assert "test split: 24 samples" in text
    assert "given m1 + m2:" in text
    assert "validation split" in cli(["evaluate", "a", "--split", "validation"])
    assert cli(["predict", "a", "--out", "p.npz"]) == "p.npz\n"
    with np.load("p.npz") as table:
        assert (table["prediction"] == table["target"]).mean() == pytest.approx(metrics["test"]["score"])
        both = table["probabilities"]
    cli(["predict", "a", "--modalities", "m2", "--split", "validation,test", "--out", "p.csv"])
    assert len(Path("p.csv").read_text().splitlines()) == 49
    cli(["predict", "a", "--modalities", "m2", "--out", "q.npz"])
    with np.load("q.npz") as table:
        assert not np.allclose(table["probabilities"], both)
    assert "unknown" in cli.error(["predict", "a", "--modalities", "m9"], 2).lower()


# ---- data ----------------------------------------------------------------------------------------------------------


def test_arrays_become_a_bundle_that_trains(cli: CLI) -> None:
    rng = np.random.default_rng(0)
    target = np.arange(60) % 3
    np.save("image.npy", rng.standard_normal((60, 5)) + target[:, None])
    np.savez("more.npz", audio=rng.standard_normal((60, 6)), who=np.arange(60))
    np.save("target.npy", target)
    np.save("split.npy", np.repeat(["train", "validation", "test"], [36, 12, 12]))
    arguments = [
        "data", "bundle", "mine.npz", "--inputs.image", "image.npy", "--inputs.audio", "more.npz:audio", "--target",
        "target.npy", "--split", "split.npy", "--groups.who", "more.npz:who", "--units.image", "ink", "--classes",
        "cat,dog,cow", "--provenance.licence", "CC0",
    ]  # fmt: skip
    assert cli(arguments) == "mine.npz\n"
    data = load("mine.npz")
    assert data.classes == ("cat", "dog", "cow")
    assert data.modalities["image"].units == "ink"
    assert data.protocol.groups
    text = cli(["data", "describe", "mine.npz"])
    assert "train 36, validation 12, test 12" in text
    assert "licence: CC0" in text
    rest = TINY[TINY.index("--model.feature_size") :]
    cli(["train", "--method", "Joint", "--data", "mine.npz", *rest, "--training.epochs", "1", "--out", "a"])
    assert Path("a/metrics.json").exists()


def test_a_bundle_of_bad_files_is_refused(cli: CLI) -> None:
    np.save("x.npy", np.zeros((4, 2)))
    np.save("bad.npy", np.array([{}], dtype=object), allow_pickle=True)
    Path("text.npy").write_text("no array")
    np.savez("two.npz", a=np.zeros(4), b=np.zeros(4))
    rest = ["--target", "x.npy", "--split", "x.npy"]
    for file, said in (
        ("none.npy", "No such file"),
        ("bad.npy", "Python objects"),
        ("text.npy", "text.npy"),
        ("two.npz", "FILE.npz:NAME"),
        ("two.npz:c", "'c'"),
    ):
        error = cli.error(["data", "bundle", "m.npz", "--inputs.a", file, *rest], 1)
        assert file in error
        assert said in error
    assert not Path("m.npz").exists()
