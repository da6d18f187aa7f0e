"""``equimodal evaluate`` with subsets, missing modalities and noise; ``equimodal train`` with missing modalities."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from equimodal.cli._robustness import levels_list, noise_list
from equimodal.studies import DataConfig, ModelConfig, RunConfig, TrainingConfig, run
from tests.cli.helpers import CLI, TINY

DATA: dict[str, Any] = {"modalities": 3, "train": 96, "validation": 24, "test": 60, "classes": 3, "features": 7}


def config(method: str, seed: int = 0) -> RunConfig:
    return RunConfig(
        method, {}, DataConfig("synthetic", options=dict(DATA), missing="train:all=0.3", missing_seed=2),
        ModelConfig(feature_size=6, size="small"),
        TrainingConfig(epochs=4, batch_size=16, lr=0.01, device="cpu"), seed, probe=False,
    )  # fmt: skip


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two finished runs on the same data."""
    folder = tmp_path_factory.mktemp("runs")
    for method in ("MLA", "Joint"):
        run(config(method), folder / method, loggers=False)
    return folder


# ---- train ---------------------------------------------------------------------------------------------------------


def test_train_with_missing_modalities(cli: CLI) -> None:
    cli(["train", "--method", "MLA", *TINY, "--missing", "train:m1=0.5,m2=0.1;test:all=0.3", "--missing-seed", "4",
         "--out", "a"])  # fmt: skip
    stored = yaml.safe_load(Path("a/config.yaml").read_text())["data"]
    assert (stored["missing"], stored["missing_seed"]) == ("train:m1=0.5,m2=0.1;test:all=0.3", 4)
    present = json.loads(Path("a/environment.json").read_text())["data"]["present"]
    assert present["train"]["m1"] < 0.7 < present["train"]["m2"] < 1
    assert present["validation"] == {"m1": 1.0, "m2": 1.0}
    cli(["train", "--config", "a/config.yaml", "--out", "b"])
    metrics = [json.loads((Path(f) / "metrics.json").read_text())["test"] for f in ("a", "b")]
    assert metrics[0] == metrics[1]
    error = cli.error(["train", "--resume", "--out", "a", "--missing", "m1=0.5"], 1)
    assert "other values of data" in error


def test_train_with_a_mask_file(cli: CLI) -> None:
    Path("mask.csv").write_text("row,m1\n" + "".join(f"{i},{i % 2}\n" for i in range(40)))
    cli(["train", "--method", "Joint", *TINY, "--missing-file", "mask.csv", "--out", "a"])
    present = json.loads(Path("a/environment.json").read_text())["data"]["present"]
    assert present["train"] == {"m1": round(1 - 20 / 72, 6), "m2": 1.0}
    Path("mask.csv").write_text("row,m1\n3,0\n")
    assert "the data have changed" in cli.error(["evaluate", "a"], 1)
    Path("mask.csv").write_text("row,m1\n3,7\n")
    error = cli.error(["train", "--method", "Joint", *TINY, "--missing-file", "mask.csv", "--out", "c"], 1)
    assert "mask.csv: line 2: m1: expected 0 (absent) or 1 (present). Found '7'" in error
    assert not Path("c").exists()


def test_methods_that_need_complete_samples_say_so_before_training(cli: CLI) -> None:
    error = cli.error(["train", "--method", "MIE", *TINY, "--options.mixup_alpha", "1", "--missing", "all=0.2",
                       "--out", "a"], 1)  # fmt: skip
    assert "error: `mixup_alpha`: mixing two samples needs every modality in both" in error
    assert not Path("a").exists()


# ---- evaluate ------------------------------------------------------------------------------------------------------


def test_everything_at_once(cli: CLI, runs: Path) -> None:
    text = cli([
        "evaluate", str(runs / "MLA"), "--subsets", "--missing-rates", "0.3,0.6,0.9", "--noise", "m1,m2=drop_entries",
        "--levels", "0.5,1", "--draws", "2", "--reference", str(runs / "Joint"), "--figure", "curves.svg", "--out",
        "all.json",
    ])  # fmt: skip
    record = json.loads(Path("all.json").read_text())
    assert text.splitlines()[-2:] == ["curves.svg", "all.json"]
    assert [s["subset"] for s in record["subsets"]][-1] == ["m1", "m2", "m3"]
    assert len(record["subsets"]) == 7
    assert record["subsets"][-1]["score"] == pytest.approx(record["score"], abs=1e-6)
    assert record["subsets"][-1]["metric"] == pytest.approx(record["metrics"]["accuracy"], abs=1e-6)
    curves = {c["name"]: c for c in record["missing"]}
    assert list(curves) == ["m1", "m2", "m3", "all"]
    assert curves["all"]["levels"] == [0.0, 0.3, 0.6, 0.9]
    assert curves["all"]["absent"][3] == pytest.approx(0.9 - 0.9**3 / 3, abs=0.06)
    assert curves["all"]["score"]["mean"][0] == pytest.approx(record["score"], abs=1e-6)
    area = np.trapezoid(curves["m1"]["score"]["mean"], curves["m1"]["levels"])
    assert curves["m1"]["relative_robustness"] == pytest.approx(area)
    assert isinstance(curves["m1"]["effective_robustness"], float)
    assert [(c["name"], c["kind"]) for c in record["noise"]] == [
        ("m1", "gaussian"), ("m2", "drop_entries"), ("all", "gaussian+drop_entries"),
    ]  # fmt: skip
    assert all(len(d) == 2 for c in record["noise"] for d in c["score"]["draws"])
    assert "Missing at random by rate, mean of 2 draws, %:" in text
    assert "Noise by level (gaussian, drop_entries), mean of 2 draws, %:" in text
    assert f"{100 * record['score']:.1f}" in text
    assert Path("curves.svg").read_text().startswith("<?xml")


def test_against_itself_nothing_is_more_robust(cli: CLI, runs: Path) -> None:
    cli(["evaluate", str(runs / "MLA"), "--missing-rates", "0.5", "--reference", str(runs / "MLA"), "--out", "a.json"])
    record = json.loads(Path("a.json").read_text())
    assert [c["effective_robustness"] for c in record["missing"]] == [0.0] * 4


def test_numbers_do_not_depend_on_what_else_is_asked(cli: CLI, runs: Path) -> None:
    for name, more in (("a", []), ("b", ["--noise", "m2", "--subsets"]), ("c", ["--seed", "1"])):
        cli(["evaluate", str(runs / "Joint"), "--missing-rates", "0.5,0.8", *more, "--out", f"{name}.json"])
    found = [json.loads(Path(f"{n}.json").read_text())["missing"] for n in "abc"]
    assert found[0] == found[1]
    assert found[0] != found[2]


def test_modalities_can_be_taken_away_for_the_evaluation_alone(cli: CLI, runs: Path) -> None:
    cli(["evaluate", str(runs / "Joint"), "--subsets", "--out", "whole.json"])
    text = cli(["evaluate", str(runs / "Joint"), "--missing", "m1=1,m2=1", "--out", "less.json"])
    assert "  m1: absent in 60 of 60 samples" in text
    whole, less = (json.loads(Path(f"{n}.json").read_text()) for n in ("whole", "less"))
    alone = next(s for s in whole["subsets"] if s["subset"] == ["m3"])
    assert less["score"] == pytest.approx(alone["score"], abs=1e-6)
    rows = range(120, 180)  # the test samples of the dataset
    Path("mask.csv").write_text("row,m1,m2\n" + "".join(f"{r},0,0\n" for r in rows))
    cli(["evaluate", str(runs / "Joint"), "--missing-file", "mask.csv", "--out", "file.json"])
    assert json.loads(Path("file.json").read_text())["score"] == less["score"]


def test_many_subsets_are_sampled_with_a_note(cli: CLI, runs: Path) -> None:
    text = cli(["evaluate", str(runs / "Joint"), "--subsets", "--subset-limit", "6"])
    assert "given m1 + m2 + m3" in text
    assert "left out" not in text  # with three modalities the six that are always there and all are everything


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--missing-rates", "a,b"], 2, "--missing-rates: expected numbers, such as 0.1,0.2,0.5 or 0.1,...,0.9"),
        (["--missing-rates", "0.5,0.2"], 1, "`rates`: expected rising numbers above 0, up to 1"),
        (["--noise", "m1=drop_step"], 2, "Unknown kind of --noise 'drop_step'. Did you mean 'drop_steps'"),
        (["--noise", "m1=drop_steps"], 1, "drop_steps needs a sequence"),
        (["--noise", "m7"], 2, "Unknown modality 'm7'"),
        (["--missing-rates", "0.5", "--figure", "a.txt"], 2, "--figure: expected a file .png, .svg, .pdf"),
        (["--missing-rates", "0.5", "--draws", "0"], 1, "`draws`: expected a whole number >= 1"),
        (["--subsets", "--subset-limit", "0"], 1, "`limit`: expected a whole number >= 1"),
        (["--missing", "m9=0.5"], 2, "Unknown modality in the missing rates 'm9'"),
    ],
)
def test_bad_options(cli: CLI, runs: Path, arguments: list[str], code: int, message: str) -> None:
    assert message in cli.error(["evaluate", str(runs / "Joint"), *arguments], code)


def test_a_reference_on_other_data_is_refused(cli: CLI, runs: Path) -> None:
    cli(["train", "--method", "Joint", *TINY, "--out", "other"])
    error = cli.error(["evaluate", str(runs / "MLA"), "--missing-rates", "0.5", "--reference", "other"], 1)
    assert "`other`: expected a run on the same data" in error


def test_lists_of_levels() -> None:
    assert levels_list("0.1,0.2,0.5") == [0.1, 0.2, 0.5]
    assert levels_list("0.1,...,0.9") == [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9]
    assert levels_list("0.5,0.6,...,0.8,1") == [0.5, 0.6, 0.7, 0.8, 1.0]
    assert levels_list([0.1, 0.3]) == [0.1, 0.3]
    assert noise_list("audio, text=drop_steps") == {"audio": None, "text": "drop_steps"}
    for bad in ("...", "0.1,...", "x"):
        with pytest.raises(Exception, match="expected numbers, such as"):
            levels_list(bad)
