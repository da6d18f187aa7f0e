"""``equimodal data prepare``, ``check`` and ``preset``, as a user calls them."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from equimodal.data import load, prepare
from equimodal.studies import RunConfig
from tests.cli.helpers import CLI
from tests.data.prepare.cremad import SMALL, write_cremad

pytest.importorskip("av")
pytest.importorskip("soxr")
OPTIONS = [part for name, value in SMALL.items() for part in (f"--{name}", str(value))]


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    write_cremad(tmp_path / "raw", 3)
    return tmp_path / "raw"


@pytest.mark.slow
def test_from_the_raw_folder_to_a_trained_model(cli: CLI, raw: Path) -> None:
    out = raw.parent / "out"
    text = cli(["data", "prepare", "crema-d", "--source", str(raw), "--out", str(out), "--workers", "0", *OPTIONS])
    assert f"{out}: 18 of 18 samples; fingerprint " in text
    assert "18/18 samples" in cli.err
    assert "crema-d: train 6, validation 6, test 6 samples" in cli(["data", "describe", str(out)])
    assert cli(["data", "check", str(out), "--source", str(raw)]).endswith("36 raw files, every protocol)\n")
    text = cli(
        ["train", "--method", "MLA", "--data", str(out), "--model.size", "small", "--model.feature_size", "8",
         "--training.epochs", "1", "--training.batch_size", "3", "--training.device", "cpu"]
    )  # fmt: skip
    assert text.startswith("MLA on crema-d (speaker-independent")


def test_what_is_missing_decides_the_exit_code(cli: CLI, raw: Path) -> None:
    (raw / "AudioWAV" / "1001_DFA_SAD_XX.wav").unlink()
    command = ["data", "prepare", "crema-d", "--source", str(raw), "--out", str(raw.parent / "out"), "--workers=0"]
    line = cli.error([*command, *OPTIONS, "--quiet"], 1)
    assert "at most 1.00% of the samples missing or unreadable. Found 1 of 18 (5.56%)" in line
    assert "AudioWAV/1001_DFA_SAD_XX.wav: no such file" in line
    assert "--max-missing 0.06" in line
    assert not (raw.parent / "out").exists()
    text = cli([*command, *OPTIONS, "--max-missing", "0.06", "--incomplete", "keep"])
    assert text.startswith("17 samples were there from an earlier call\n")
    assert "1 without one of the modalities" in text
    assert load(raw.parent / "out").num_samples == 18
    (raw / "AudioWAV" / "1002_DFA_SAD_XX.wav").write_bytes(b"RIFF")
    text = cli(["data", "check", str(raw.parent / "out"), "--source", str(raw)], 1)
    assert "AudioWAV/1002_DFA_SAD_XX.wav: changed since the bundle was made" in text


def test_spellings_with_dashes_and_underscores(cli: CLI, raw: Path) -> None:
    command = ["data", "prepare", "crema-d", "--source", str(raw), "--workers", "0", "--quiet", *OPTIONS]
    cli([*command, "--out", str(raw.parent / "a"), "--sample-rate", "3000", "--max_missing=0"])
    cli([*command, "--out", str(raw.parent / "b"), "--sample_rate=3000", "--max-missing=0"])
    assert prepare.check(raw.parent / "a").ok
    assert (raw.parent / "a" / "audio.npy").read_bytes() == (raw.parent / "b" / "audio.npy").read_bytes()


def test_help_lists_the_datasets_and_the_parameters(cli: CLI) -> None:
    text = cli(["data", "prepare", "--help"])
    assert all(name in text for name in prepare.available())
    for name in prepare.available():
        text = cli(["data", "prepare", name, "--help"])
        assert "--max_missing" in text
        assert "Source: " in text
    assert "speaker-independent" not in cli(["data", "check", "--help"])


def test_wrong_use_is_one_line(cli: CLI, raw: Path) -> None:
    assert "Did you mean 'crema-d'" in cli.error(["data", "prepare", "cremad", "--source", "x", "--out", "y"], 2)
    assert "--out is missing" in cli.error(["data", "prepare", "crema-d", "--source", str(raw)], 2)
    assert "comes first" in cli.error(["data", "prepare", "--source", str(raw), "crema-d"], 2)
    line = cli.error(["data", "prepare", "crema-d", "--source", str(raw), "--out", "o", "--sample_rat", "3"], 2)
    assert "Did you mean '--sample_rate'" in line
    line = cli.error(["data", "prepare", "crema-d", "--source", str(raw / "x"), "--out", "o"], 1)
    assert "expected the folder of the raw download" in line
    assert "expected a bundle" in cli.error(["data", "check", str(raw / "x")], 1)
    assert "expected prepare, check, preset" in cli.error(["data", "prepair"], 2)


@pytest.mark.parametrize("name", prepare.presets())
def test_presets_are_configurations_with_a_source_for_every_value(cli: CLI, name: str) -> None:
    text = cli(["data", "preset", name])
    assert name in cli(["data", "preset"])
    config = RunConfig.from_dict(yaml.safe_load(text))
    dataset = name.rpartition("-")[0]
    assert config.data.protocol in {protocol for protocol, _ in prepare.get(dataset).facts.protocols} | {None}
    for line in text.splitlines():
        value = line.split("#")[0].rstrip()
        assert not value or value.endswith(":") or "  # " in line, f"{name}: no source: {line}"


def test_presets_fit_the_command(cli: CLI, tmp_path: Path) -> None:
    for name in prepare.presets():
        path = tmp_path / f"{name}.yaml"
        path.write_text(prepare.preset(name), encoding="utf-8")
        resolved = yaml.safe_load(cli(["train", "--config", str(path), "--data", "nowhere", "--print_config"]))
        asked = yaml.safe_load(path.read_text(encoding="utf-8"))
        assert resolved["training"] == {**resolved["training"], **asked["training"]}
        assert resolved["method"] == asked["method"]
