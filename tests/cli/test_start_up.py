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


_TRAIN = """
import sys
from equimodal.cli import command
sys.argv = ["equimodal", "train", "--data", "synthetic", "--model.size", "small", "--training.epochs", "1",
            "--training.device", "cpu", "--method", "Joint", "--quiet", "--logger", "none", "--out", sys.argv[1]]
try:
    command()
finally:
    print("modules", *sys.modules)
    from equimodal._utils.deferred import is_deferred
    print("deferred", *filter(is_deferred, list(sys.modules)))
"""
_NEVER = {
    "scipy", "sklearn", "pandas", "matplotlib", "transformers", "sympy", "tensorboard", "tensorflow", "wandb",
    "mlflow", "torchmetrics.audio", "torchmetrics.text", "torchmetrics.functional.audio", "torch._dynamo.convert_frame",
    "optuna", "torch._inductor",
}  # fmt: skip


@pytest.mark.slow
def test_a_training_imports_only_what_it_uses(tmp_path: Path) -> None:
    pytest.importorskip("lightning")
    found = python("-c", _TRAIN, str(tmp_path / "run"))
    assert found.returncode == 0, found.stderr
    lines = {line.partition(" ")[0]: set(line.split()[1:]) for line in found.stdout.splitlines()}
    assert lines["modules"] & _NEVER == set()
    assert lines["modules"] >= {"lightning.pytorch", "torchmetrics.classification"}
    assert lines["deferred"] >= {"torch._dynamo", "torchmetrics", "torchmetrics.functional"}


_USED = """
from equimodal._utils.deferred import defer_imports, is_deferred
defer_imports()
import torch
import lightning.pytorch as pl
import lightning.fabric.wrappers as wrappers
p = torch.nn.Parameter(torch.ones(2))
optimizer = torch.optim.SGD([p], lr=0.5)
p.sum().backward()
optimizer.step()
optimizer.zero_grad()
print(p.tolist(), is_deferred("torch._dynamo"), is_deferred("torchmetrics"))
plain, compiled = torch.nn.Linear(2, 2), torch.compile(torch.nn.Linear(2, 2), backend="eager")
print(is_deferred("torch._dynamo"), *(isinstance(m, wrappers.OptimizedModule) for m in (plain, compiled)))
import torch._dynamo.config
double = torch.compile(lambda x: 2 * x, backend="eager")
print(double(torch.ones(2)).tolist())
optimizer.add_param_group({"params": [torch.nn.Parameter(torch.ones(1))]})
optimizer.step()
import sys
from torchmetrics import Metric
before = sys.modules["torchmetrics.metric"]
import torchmetrics.text
from torchmetrics import Accuracy
from torchmetrics.functional import accuracy
print(*map(is_deferred, ("torchmetrics", "torchmetrics.functional")), isinstance(Accuracy(task="binary"), Metric))
import torchmetrics
print(torchmetrics.metric is before, torchmetrics.text is sys.modules["torchmetrics.text"], torchmetrics.__version__[0])
print(torchmetrics.text.__spec__.name, type(torchmetrics).__name__)
"""


@pytest.mark.slow
def test_what_is_deferred_is_there_when_it_is_used() -> None:
    pytest.importorskip("lightning")
    found = python("-c", _USED)
    assert found.returncode == 0, found.stderr
    assert found.stdout.splitlines() == [
        "[0.5, 0.5] True True",
        "False False True",
        "[2.0, 2.0]",
        "False False True",
        "True True 1",
        "torchmetrics.text module",
    ]


_OTHERWISE = """
from equimodal._utils import deferred
package = deferred._FIRST["torchmetrics"]  # as of a version that is made otherwise
package["Metric"] = deferred.partial(deferred._taken, "torchmetrics", ("aggregation", "elsewhere"), "Metric")
deferred.defer_imports()
import torchmetrics.utilities
from torchmetrics import Metric
print(deferred.is_deferred("torchmetrics"), Metric.__module__)
"""


@pytest.mark.slow
def test_a_package_that_is_made_otherwise_is_loaded_as_a_whole() -> None:
    pytest.importorskip("torchmetrics")
    found = python("-c", _OTHERWISE)
    assert found.stdout.split() == ["False", "torchmetrics.metric"], found.stderr
