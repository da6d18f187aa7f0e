"""The fusion on the command line."""

from __future__ import annotations

import json
from pathlib import Path

import yaml

from tests.cli.helpers import CLI, TINY


def test_train_with_a_fusion(cli: CLI) -> None:
    arguments = ["train", "--method", "Joint", *TINY, "--fusion", "lowrank", "--model.fusion_options.rank", "2"]
    shown = yaml.safe_load(cli([*arguments, "--print_config"]))["model"]
    assert (shown["fusion"], shown["fusion_options"]) == ("lowrank", {"rank": 2})
    cli([*arguments, "--out", "a"])
    stored = yaml.safe_load(Path("a/config.yaml").read_text())["model"]
    assert (stored["fusion"], stored["fusion_options"]) == ("LowRank", {"rank": 2})
    first = Path("a/metrics.json").read_bytes()
    cli(["train", "--resume", "--out", "a"])  # its fusion is the default
    assert Path("a/metrics.json").read_bytes() == first
    assert "other values of model" in cli.error(["train", "--resume", "--out", "a", "--fusion", "Sum",
                                                 "--model.fusion_options", "{}", "--quiet"], 1)  # fmt: skip
    assert cli(["predict", "a", "--out", "p.csv"]) == "p.csv\n"
    assert "score" in cli(["evaluate", "a", "--subsets"])


def test_compare_with_a_fusion(cli: CLI) -> None:
    arguments = ["compare", "--methods", "Joint", *TINY, "--training.epochs", "1", "--seeds", "0", "--controls",
                 "false", "--cost", "false", "--out", "s"]  # fmt: skip
    cli([*arguments, "--fusion", "Gated", "--quiet"])
    assert json.loads(Path("s/study.json").read_text())["budget"]["model"]["fusion"] == "Gated"
    assert "other model" in cli.error([*arguments, "--fusion", "Sum", "--quiet"], 1)
    cli(["compare", "--out", "s", "--cost", "false", "--quiet"])  # everything else comes from the folder


def test_wrong_fusions_are_refused_before_anything_runs(cli: CLI) -> None:
    for command in ("train", "compare"):
        start = [command, *TINY, "--out", "a", "--quiet"]
        assert "Did you mean 'LowRank'" in cli.error([*start, "--fusion", "LowRnk"], 2)
        assert "Did you mean 'rank'" in cli.error([*start, "--fusion", "LowRank", "--model.fusion_options.rnk", "2"], 2)
        assert not Path("a").exists()
    said = cli.error(["train", *TINY, "--out", "a", "--quiet", "--fusion", "CrossAttention"], 1)
    assert "every encoder here gives one vector per sample (m1: mlp, m2: mlp)" in said
    assert not Path("a").exists()


def test_help_names_the_fusions(cli: CLI) -> None:
    text = " ".join(cli(["train", "--help"]).split())
    for name in ("--model.fusion ", "--model.fusion_options ", "CrossAttention", "short: --fusion"):
        assert name in text
