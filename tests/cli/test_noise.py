"""Kinds of noise of images and words on the command line."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from equimodal.data import write_bundle
from tests.cli.helpers import CLI


@pytest.fixture
def folder(cli: CLI, tmp_path: Path) -> Path:
    """A run on small images of three channels and texts of up to eight words."""
    rng = np.random.default_rng(0)
    target = np.arange(60) % 2
    image = rng.random((60, 3, 8, 8)) + target[:, None, None, None]
    text = rng.integers(1, 20, (60, 8)) * (np.arange(8) < rng.integers(2, 9, (60, 1)))
    bundle = write_bundle(
        tmp_path / "posts.npz", inputs={"image": image, "text": text}, target=target, kinds={"text": "tokens"},
        split=np.repeat(["train", "validation", "test"], 20),
    )  # fmt: skip
    cli([
        "train", "--method", "Joint", "--data", str(bundle), "--model.feature_size", "4", "--model.size", "small",
        "--model.encoders.text.vocabulary", "20", "--training.epochs", "1", "--training.device", "cpu", "--out",
        str(tmp_path / "a"), "--quiet",
    ])  # fmt: skip
    return tmp_path / "a"


def test_images_and_words(cli: CLI, folder: Path) -> None:
    for noise, kinds in (
        ("image=flip,text=replace_words", ["flip", "replace_words", "flip+replace_words"]),
        ("text=swap_steps", ["swap_steps"]),
        ("all", ["gaussian", "drop_steps", "gaussian+drop_steps"]),
    ):
        text = cli(["evaluate", str(folder), "--noise", noise, "--levels", "0.5,1", "--draws", "2", "--out", "n.json"])
        assert [c["kind"] for c in json.loads(Path("n.json").read_text())["noise"]] == kinds
        assert kinds[0] in text


def test_kinds_that_do_not_fit(cli: CLI, folder: Path) -> None:
    for noise, said in (
        ("text=contrast", "contrast needs images"),
        ("image=replace_words", "replace_words needs a sequence (B, T, F), Tokens or token ids"),
        ("image=repeat_steps", "repeat_steps needs a sequence"),
    ):
        assert said in cli.error(["evaluate", str(folder), "--noise", noise, "--draws", "1"], 1)
    help_text = " ".join(cli(["evaluate", "--help"]).split())
    assert "white_balance" in help_text
