"""A command that a message advises can be called as it is printed, also where the folder's name has a space."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import pytest

from equimodal.studies.tuning._record import commands
from tests.cli.helpers import CLI

NAME = "my runs/it's one"
DATA = ["--data", "synthetic", "--data.options.train", "48"]


@pytest.mark.parametrize(
    ("arguments", "works"),
    [
        (["train", "--method", "Joint", *DATA], "equimodal.cli._train.run_study"),
        (["compare", "--methods", "MLA", *DATA], "equimodal.cli._compare.compare"),
        (["tune", "--methods", "MLA", "--budget", "6", *DATA], "equimodal.cli._tune.tune"),
    ],
)
def test_the_command_that_continues(
    arguments: list[str], works: str, cli: CLI, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(works, interrupted)
    cli([*arguments, "--out", NAME], 130)
    advised = shlex.split(cli.err.strip().splitlines()[-1].partition("Continue with: ")[2])
    assert advised[:2] == ["equimodal", arguments[0]]
    assert advised[advised.index("--out") + 1] == NAME


def test_the_commands_after_a_tuning() -> None:
    train, predict = (shlex.split(command) for command in commands(Path(NAME), "winner", True))
    assert train[3] == f"{NAME}/take.yaml"
    assert predict[2] == f"{NAME}/winner"
