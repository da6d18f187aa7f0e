"""Encoders and models of the user from the command line; what a run folder names is not imported."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from equimodal.errors import MethodError, ModelError
from equimodal.studies import load_run, predict_run, trusting
from equimodal.studies.runs import seal
from equimodal.studies.setup import module_of
from equimodal.studies.setup._own_code import own_object
from tests.cli.helpers import CLI, TINY

MODULE = """
from subprocess import call
import torch
from torch import nn
from equimodal import MultimodalModel
from equimodal.fusion import Concat
print("imported")

class Own(nn.Module):
    def __init__(self, width=4):
        super().__init__()
        self.layer = nn.Linear(7, width)
    def forward(self, x):
        return self.layer(x)

class Sequence(Own):
    def forward(self, x):
        return super().forward(x)[:, None]

def build(data, width=3):
    encoders = {m: Own(width) for m in data.modalities}
    return MultimodalModel(encoders, Concat(dict.fromkeys(encoders, width)), nn.Linear(width * len(encoders), 3),
                           feature_sizes=dict.fromkeys(encoders, width))

def wrong(data):
    return 3
"""
NAMES = ("users_own", "strangers_own")


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder of the user, with a module, in which commands are called."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "users_own.py").write_text(MODULE)
    yield tmp_path
    for name in NAMES:
        sys.modules.pop(name, None)


TRAIN = ["train", *TINY, "--training.epochs", "1", "--probe", "false", "--logger", "none"]


def test_an_encoder_and_a_whole_model(place: Path, cli: CLI) -> None:
    cli([*TRAIN, "--method", "Joint", "--encoder", "m1=users_own:Own(width=5)", "--out", "one"])
    stored = yaml.safe_load(Path("one/config.yaml").read_text())
    assert stored["model"]["own_encoders"] == {"m1": "users_own:Own(width=5)"}
    line = cli.error(["evaluate", "one"], 1)
    assert "users_own" in line
    assert "--trust users_own" in line
    shutil.copytree("one", "cut")
    for name in ("metrics.json", "weights.safetensors"):
        Path("cut", name).unlink()
    assert "--trust users_own" in cli.error(["train", "--resume", "--out", "cut"], 1)
    cli(["train", "--resume", "--out", "cut", "--trust", "users_own"])
    assert Path("cut/metrics.json").exists()
    cli(["evaluate", "one", "--trust", "users_own"])
    cli(["predict", "one", "--encoder", "m1=users_own:Own", "--out", "p.csv"])
    with pytest.raises(MethodError, match="trusting"):
        load_run("one")
    with trusting(["users_own"]):
        assert load_run("one")[2].model.feature_sizes["m1"] == 5
    cli([*TRAIN, "--method", "MultiLoss", "--model", "users_own:build(width=2)", "--out", "two"])
    with trusting(["users_own"]):
        assert len(predict_run("two")["prediction"]) == 24


def test_a_strangers_folder_is_not_imported(place: Path, cli: CLI, tmp_path: Path) -> None:
    """Neither a module in the folder, nor one elsewhere that its configuration names."""
    cli([*TRAIN, "--method", "Joint", "--encoder", "m1=users_own:Own", "--out", "own"])
    sys.modules.pop("users_own")
    hostile = tmp_path / "hostile"
    shutil.copytree("own", hostile)
    (hostile / "strangers_own.py").write_text(f"open({str(tmp_path / 'harm')!r}, 'w')\n{MODULE}")
    config = yaml.safe_load((hostile / "config.yaml").read_text())
    config["model"]["own_encoders"] = {"m1": "strangers_own:Own"}
    (hostile / "config.yaml").write_text(yaml.safe_dump(config))
    seal(hostile, ["config.yaml"])  # as whoever changes files on purpose would
    commands = (["evaluate", str(hostile)], ["predict", str(hostile)], ["export", str(hostile)])
    for command in commands:
        assert "strangers_own" in cli.error(command, 1)
        assert "strangers_own" in cli.error([*command, "--trust", "users_own"], 1)
    with pytest.MonkeyPatch.context() as patch:  # called from inside, and trusted by mistake
        patch.chdir(hostile)
        assert "in the folder of the run" in cli.error(["evaluate", ".", "--trust", "strangers_own"], 1)
    assert "strangers_own" not in sys.modules
    assert not (tmp_path / "harm").exists()


@pytest.mark.parametrize(
    ("path", "error", "text"),
    [
        ("users_own:call(args='x')", MethodError, "defines itself. Found one of 'subprocess'"),
        ("users_own:torch", MethodError, "defines itself"),
        ("users_own:nothing", MethodError, "no such name"),
        ("users_own:Own(width='a')", ModelError, "raised TypeError"),
        ("users_own.missing:Own", MethodError, "can be imported"),
        ("json:dumps", MethodError, "--trust json"),
    ],
)
def test_what_is_refused(place: Path, path: str, error: type[Exception], text: str) -> None:
    with trusting(["users_own"]), pytest.raises(error, match=text):
        own_object(path, "model.own_model")


@pytest.mark.parametrize(
    "path", ["module", "module:", ":Net", "a b:Net", "module:os.system", "../x:Net", "m:N(open())"]
)
def test_no_import_path(path: str) -> None:
    with pytest.raises(MethodError):
        module_of(path, "--model")


def test_wrong_command_lines(place: Path, cli: CLI) -> None:
    assert "MODALITY=MODULE:NAME" in cli.error([*TRAIN, "--encoder", "users_own:Own"], 2)
    assert "expected a value" in cli.error([*TRAIN, "--model"], 2)
    assert "import path" in cli.error([*TRAIN, "--model", "users_own"], 1)
    assert "m3" in cli.error([*TRAIN, "--encoder", "m3=users_own:Own", "--out", "x"], 2)
    assert "out_features" in cli.error([*TRAIN, "--encoder", "m1=users_own:Sequence", "--out", "x"], 1)
    assert "Found int" in cli.error([*TRAIN, "--model", "users_own:wrong", "--out", "x"], 1)
