"""Who imports whom: the contracts of pyproject.toml hold, and each of them breaks where it should."""

from __future__ import annotations

import ast
import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Mapping
from pathlib import Path

import pytest

import equimodal

PACKAGE = Path(equimodal.__file__).parent
FLOORS, METHODS, STUDIES, PREPARE = "Floors: ", "Floors of methods/", "Floors of studies/", "Floors of data/prepare/"
DOORS, SIBLINGS, MODULES = "Doors: ", "No circle between the children", "No circle of modules"
CONTRACTS = {FLOORS, METHODS, STUDIES, PREPARE, DOORS, SIBLINGS, MODULES}  # how their names begin
NEW = "new file"

# name -> what is added to which file, and the contracts that break
PLANTED: dict[str, tuple[Mapping[str, str], set[str]]] = {
    "nothing": ({}, set()),
    "a lower floor imports an upper one": (  # which imports methods, and so closes circles too
        {"features.py": "import equimodal.report"},
        {FLOORS, METHODS, SIBLINGS, MODULES},
    ),
    "two rooms of one floor know each other": ({"data/_rows.py": "from equimodal.methods import get"}, {FLOORS}),
    "an import inside a function": (
        {"engine/_finite.py": "def f():\n    import equimodal.report"},
        {FLOORS, METHODS, SIBLINGS, MODULES},
    ),
    "a new room without a floor": ({"attic/__init__.py": NEW}, {FLOORS}),
    "the library uses a public path of an upper floor": (
        {"methods/_mla.py": "from equimodal.sharpness import Sharpness"},
        {FLOORS},
    ),
    "a part knows a method": (
        {"methods/parts/_mixup.py": "import equimodal.methods._mla"},
        {METHODS, SIBLINGS, MODULES},
    ),
    "the base knows a new method": (
        {"methods/_new.py": NEW, "methods/_base.py": "import equimodal.methods._new"},
        {METHODS},
    ),
    "a method knows the registry": ({"methods/_mla.py": "import equimodal.methods._registry"}, {METHODS}),
    "the setup of a run knows its outputs": (
        {"studies/setup/_build.py": "import equimodal.studies.outputs"},
        {STUDIES, SIBLINGS, MODULES},
    ),
    "the engine of preparations knows a dataset": (
        {"data/prepare/_store.py": "import equimodal.data.prepare.datasets"},
        {PREPARE},
    ),
    "past a door": ({"cli/_list.py": "from equimodal.methods._mla import MLA"}, {DOORS}),
    "past the door of a package in the same room": (
        {"studies/outputs/_export.py": "from equimodal.studies.runs._run import run"},
        {DOORS},
    ),
    "past the door of a package that is new": (
        {
            "diagnostics/new/__init__.py": NEW,
            "diagnostics/new/_file.py": NEW,
            "diagnostics/_sweep.py": "import equimodal.diagnostics.new._file",
        },
        {DOORS},
    ),
    "two files that import each other": (
        {
            "functional/_balance.py": "import equimodal.functional._opinions",
            "functional/_opinions.py": "import equimodal.functional._balance",
        },
        {SIBLINGS, MODULES},
    ),
    "two packages that import each other": (
        {
            "functional/a/__init__.py": NEW,
            "functional/a/_lower.py": NEW,
            "functional/a/upper.py": "import equimodal.functional.b",
            "functional/b/__init__.py": NEW,
            "functional/b/upper.py": "import equimodal.functional.a",
        },
        {SIBLINGS},
    ),
    "a file that imports its own package": (
        {"functional/_balance.py": "from equimodal.functional import entropy"},
        {MODULES},
    ),
    "a circle for types only": (
        {
            "tasks/_regression.py": "from typing import TYPE_CHECKING\n"
            "if TYPE_CHECKING:\n    import equimodal.tasks._regression_metrics",
            "tasks/_regression_metrics.py": "import equimodal.tasks._regression",
        },
        {SIBLINGS, MODULES},
    ),
}


@pytest.fixture(scope="module")
def checkout(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of what the contracts are about, and of the contracts."""
    copy = tmp_path_factory.mktemp("checkout")
    for path in PACKAGE.rglob("*.py"):
        target = copy / "src" / "equimodal" / path.relative_to(PACKAGE)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target)
    (copy / "tools").mkdir()
    shutil.copyfile(root / "tools" / "import_contracts.py", copy / "tools" / "import_contracts.py")
    shutil.copyfile(root / "pyproject.toml", copy / "pyproject.toml")
    return copy


def contract_names(folder: Path) -> list[str]:
    project = tomllib.loads((folder / "pyproject.toml").read_text(encoding="utf-8"))
    return [contract["name"] for contract in project["tool"]["importlinter"]["contracts"]]


def broken_contracts(checkout: Path) -> set[str]:
    """Names of the contracts that `make lint` finds broken."""
    code = "from importlinter.cli import lint_imports_command as main; main(['--no-cache', '--no-logo'])"
    environment = {**os.environ, "PYTHONPATH": str(checkout / "src"), "COLUMNS": "400"}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=checkout, env=environment, capture_output=True, text=True, check=False
    )
    names = re.findall(r"^(.*) (KEPT|BROKEN)", done.stdout, flags=re.MULTILINE)
    assert [name for name, _ in names] == contract_names(checkout), done.stdout + done.stderr
    broken = {name for name, state in names if state == "BROKEN"}
    assert done.returncode == (1 if broken else 0)
    return broken


@pytest.mark.parametrize("planted", PLANTED)
def test_contracts_of_imports(checkout: Path, planted: str) -> None:
    pytest.importorskip("importlinter")
    additions, expected = PLANTED[planted]
    before = {}
    for name, text in additions.items():
        path = checkout / "src" / "equimodal" / name
        before[path] = path.read_text(encoding="utf-8") if path.exists() else None
        path.parent.mkdir(exist_ok=True)
        path.write_text((before[path] or "") + ("\n" if text == NEW else f"\n{text}\n"), encoding="utf-8")
    try:
        broken = broken_contracts(checkout)
    finally:
        for path, content in before.items():
            if content is not None:
                path.write_text(content, encoding="utf-8")
            elif path.name == "__init__.py":
                shutil.rmtree(path.parent)
            else:
                path.unlink(missing_ok=True)
    assert {start for start in CONTRACTS for name in broken if name.startswith(start)} == expected


def test_each_contract_is_broken_by_something_planted(root: Path) -> None:
    assert set().union(*(expected for _, expected in PLANTED.values())) == CONTRACTS
    contracts = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["importlinter"][
        "contracts"
    ]
    assert sorted(start for start in CONTRACTS for c in contracts if c["name"].startswith(start)) == sorted(CONTRACTS)
    assert len(contracts) == len(CONTRACTS)


def test_no_file_takes_a_private_name_of_another() -> None:
    """The contracts are about modules; this is about the names in them."""
    modules = {".".join(("equimodal", *p.relative_to(PACKAGE).with_suffix("").parts)) for p in PACKAGE.rglob("*.py")}
    taken = []
    for path in sorted(PACKAGE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("equimodal"):
                private = [a.name for a in node.names if re.match("_(?!_)", a.name)]
                taken += [f"{path.name}:{node.lineno}: {n}" for n in private if f"{node.module}.{n}" not in modules]
    assert not taken


def test_lint_checks_the_contracts(root: Path) -> None:
    recipe = re.search(r"^lint:.*\n((?:\t.*\n)+)", (root / "Makefile").read_text(encoding="utf-8"), flags=re.MULTILINE)
    assert recipe is not None
    assert "lint-imports" in recipe[1]
