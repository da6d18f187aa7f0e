"""What the commands that need no tensors import: nothing that takes long, so that they answer at once."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from equimodal import cli as package

ROOT = Path(package.__file__).parents[2]
SLOW = {
    "torch",
    "numpy",
    "lightning",
    "pytorch_lightning",
    "torchmetrics",
    "matplotlib",
    "rich",
    "scipy",
    "pandas",
    "optuna",
}
PARSER = {"jsonargparse", "docstring_parser"}


def python(*arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run([sys.executable, *arguments], env=environment, capture_output=True, text=True, check=False)


def imported(arguments: list[str], code: int) -> set[str]:
    """Top-level packages that ``python -m equimodal ARGUMENTS`` has imported, as the interpreter reports them."""
    found = python("-X", "importtime", "-m", "equimodal", *arguments)
    assert found.returncode == code, found.stderr
    names = re.findall(r"^import time:.*\|\s*([\w.]+)$", found.stderr, flags=re.MULTILINE)
    assert "equimodal.cli._main" in names
    return {name.partition(".")[0] for name in names}


@pytest.mark.parametrize(
    ("arguments", "code"),
    [([], 2), (["--help"], 0), (["--version"], 0), (["list"], 0), (["trian"], 2)],
    ids=lambda v: " ".join(v) or "nothing" if isinstance(v, list) else "",
)
def test_commands_without_tensors_import_neither_torch_nor_a_parser(arguments: list[str], code: int) -> None:
    assert not imported(arguments, code) & (SLOW | PARSER)


@pytest.mark.parametrize(("option", "code"), [("--help", 0), ("--al", 2)])
def test_options_of_list_need_the_parser_only(option: str, code: int) -> None:
    names = imported(["list", option], code)
    assert not names & SLOW
    assert names >= PARSER - {"docstring_parser"}


def test_what_needs_tensors_is_seen_to_import_them() -> None:
    """The measurement can fail: a command that does import torch is reported."""
    assert imported(["describe", "MLA"], 0) >= {"torch", "numpy"}


def test_list_without_the_extra_says_what_to_install() -> None:
    found = python(
        "-c", "import sys; sys.modules['yaml'] = None; from equimodal.cli import main; sys.exit(main(['list']))"
    )
    assert found.returncode == 1
    assert 'pip install "equimodal[cli]"' in found.stderr
    assert found.stderr.count("\n") == 1
