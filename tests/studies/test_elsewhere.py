"""A comparison that is continued from another directory finds its data; companions are checked before training."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from equimodal.data import write_bundle
from equimodal.errors import EquimodalError
from equimodal.studies import Entry, compare
from tests.cli.helpers import CLI
from tests.studies.test_compare import counted
from tests.studies.uses import SINGLE, study


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str]) -> CLI:
    return CLI(capsys)


def bundle(path: Path, seed: int) -> None:
    rng = np.random.default_rng(seed)
    target = np.arange(60) % 2
    inputs = {m: rng.normal(size=(60, 3)) + target[:, None] for m in ("a", "b")}
    write_bundle(path, inputs=inputs, target=target, split=np.repeat([0, 1, 2], 20))


@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_comparison_is_continued_from_anywhere(
    workers: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cli: CLI
) -> None:
    home, elsewhere = tmp_path / "home", tmp_path / "elsewhere"
    home.mkdir()
    elsewhere.mkdir()
    bundle(home / "data.npz", 0)
    monkeypatch.chdir(home)
    common = ["--controls", "false", "--cost", "false", "--quiet", "--workers", workers]
    small = ["--training.epochs", "1", "--training.device", "cpu", "--model.feature_size", "4", "--model.size", "small"]
    cli(["compare", "--methods", "Joint", "--seeds", "0", "--data", "data.npz", "--out", "s", *small, *common])
    monkeypatch.chdir(elsewhere)
    out = str(home / "s")
    cli(["compare", "--out", out, "--methods", "Joint", "--seeds", "0,1,2", *common])
    assert (home / "s/cells/Joint/seed2/metrics.json").exists()
    assert not list(elsewhere.iterdir())
    cli(["compare", "--out", out, *common[2:]])  # nothing is left to do
    bundle(elsewhere / "data.npz", 1)  # other data under the same name are not taken for them
    line = cli.error(["compare", "--out", out, "--methods", "Joint", "--seeds", "0,1,2,3", *common], 1)
    assert "expected the study that it holds. Found other fingerprint" in line
    (elsewhere / "data.npz").unlink()
    (home / "data.npz").unlink()
    line = cli.error(["compare", "--out", out, "--methods", "Joint", "--seeds", "0,1,2,3", *common], 1)
    assert "`data.npz`: expected the data" in line
    assert str(home) in line


def test_companions_are_checked_before_they_are_trained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    started = counted(monkeypatch)
    wrong = "Entry 'student': `teachers`: expected one per modality \\['m1', 'm2'\\]"
    for teachers in ({"m1": "first", "m3": "second"}, {"m1": "first"}, {"m1": "first", "m2": "second", "x": "first"}):
        entries = {"student": Entry("UMT", {}, {"teachers": teachers}), **SINGLE}
        with pytest.raises(EquimodalError, match=wrong):
            compare(study(entries, epochs=1), tmp_path / "s", cost=False)
    assert started == []
