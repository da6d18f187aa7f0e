"""The package as a whole: what importing it needs, what is declared, what no file may hold."""

from __future__ import annotations

import importlib
import os
import re
import statistics
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import equimodal
from equimodal.methods import available, get

PACKAGES = (
    "", ".data", ".data.prepare", ".data.augment", ".encoders", ".functional", ".fusion", ".methods", ".report",
    ".diagnostics", ".tasks", ".unimodal", ".cli", ".inference", ".testing",
)  # fmt: skip
# everything outside torch, numpy and the standard library that the extras bring
OPTIONAL = (
    "accelerate", "av", "cv2", "h5py", "jsonargparse", "kornia", "lightning", "matplotlib", "monai", "nibabel",
    "onnx", "onnxruntime", "onnxscript", "optuna", "peft", "PIL", "pytorch_lightning", "rich", "safetensors", "scipy",
    "skimage", "sklearn", "soundfile", "soxr", "tensorboard", "torchmetrics", "transformers", "yaml",
)  # fmt: skip


def in_a_fresh_process(code: str) -> None:
    environment = {**os.environ, "PYTHONPATH": str(Path(equimodal.__file__).parents[1])}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def project() -> dict[str, Any]:
    return tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text(encoding="utf-8"))


def test_imports_need_torch_and_numpy_only() -> None:
    imports = "; ".join(f"import equimodal{package}" for package in PACKAGES)
    in_a_fresh_process(f"import sys\nfor name in {OPTIONAL!r}: sys.modules[name] = None\n{imports}")


def test_import_leaves_torch_as_it_was() -> None:
    code = (
        "import random, numpy, torch\n"
        "def state(): return (torch.get_rng_state().tolist(), torch.get_default_dtype(), torch.get_num_threads(),\n"
        "                     random.getstate(), numpy.random.get_state()[1].tolist())\n"
        "before = state()\nimport equimodal.methods, equimodal.data\nassert state() == before"
    )
    in_a_fresh_process(code)


def public_names() -> dict[str, list[str]]:
    text = (Path(__file__).parent / "public_names.txt").read_text(encoding="utf-8").replace("\n    ", " ")
    lines = [line.partition(": ") for line in text.splitlines() if not line.startswith("#")]
    return {module: names.split(", ") for module, _, names in lines}


def test_the_public_names_are_those_of_every_package() -> None:
    assert set(public_names()) >= {f"equimodal{package}" for package in PACKAGES} - {"equimodal.cli"}
    assert sum(len(names) for names in public_names().values()) > 250


@pytest.mark.parametrize("module", public_names())
def test_public_names_stay_where_they_are(module: str) -> None:
    """The names that the reference listed before files were moved, and two import paths that were kept for theirs."""
    if module == "equimodal.lightning":
        pytest.importorskip("lightning")
    home = importlib.import_module(module)
    assert not [name for name in public_names()[module] if not hasattr(home, name)]


def test_version_is_the_declared_one(project: dict[str, Any], root: Path) -> None:
    assert equimodal.__version__ == project["project"]["version"]
    assert f"version: {equimodal.__version__}\n" in (root / "CITATION.cff").read_text(encoding="utf-8")


def test_every_range_has_a_lower_bound_and_holds_the_tested_version(project: dict[str, Any], root: Path) -> None:
    tested = {}
    for line in (root / "constraints.txt").read_text(encoding="utf-8").splitlines():
        if line and not line.startswith("#"):
            name, _, version = line.partition("==")
            tested[canonicalize_name(name)] = version
    ranges = [*project["project"]["dependencies"]]
    for extra in project["project"]["optional-dependencies"].values():
        ranges += [r for r in extra if not r.startswith("equimodal")]
    assert len(ranges) > 15
    for text in ranges:
        requirement = Requirement(text)
        assert any(s.operator == ">=" for s in requirement.specifier), text
        assert requirement.specifier.contains(tested[canonicalize_name(requirement.name)]), text


def test_every_lower_bound_has_a_reason(root: Path) -> None:
    text = (root / "pyproject.toml").read_text(encoding="utf-8")
    bounds = re.findall(r'^\s+"[A-Za-z-]+(?:\[\w+\])?>=([\d.]+).*?",?(.*)$', text, flags=re.MULTILINE)
    assert len(bounds) > 15
    for version, comment in bounds:
        assert re.match(r"\s*# \d", comment), f">={version}: {comment!r}"


def test_the_lowest_versions_are_those_of_the_ranges(root: Path) -> None:
    command = [sys.executable, str(root / "tools" / "lowest_versions.py"), "--check"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "torch==" in (root / "constraints-lowest.txt").read_text(encoding="utf-8")


def test_the_tests_without_extras_are_there(root: Path) -> None:
    makefile = (root / "Makefile").read_text(encoding="utf-8").replace("\\\n", " ")
    listed = re.search(r"^CORE_TESTS := (.*)$", makefile, flags=re.MULTILINE)
    assert listed is not None
    assert not [path for path in listed[1].split() if not (root / path).exists()]


def test_the_licence_and_typing_marker_are_there(root: Path) -> None:
    assert "Apache License" in (root / "LICENSE").read_text(encoding="utf-8")
    assert (Path(equimodal.__file__).parent / "py.typed").exists()


@pytest.mark.parametrize(
    ("pattern", "what"),
    [
        (r"cuda:\d|[\"']cuda[\"']|\.cuda\(\)", "a device literal"),
        (r"^\s*assert ", "an assert for user input"),
        (r"except\s*:", "a bare except"),
        (r"np\.random\.(?:seed|rand|randn|randint|shuffle)\(", "numpy's global random state"),
    ],
)
def test_no_source_file_holds(pattern: str, what: str) -> None:
    files = sorted(Path(equimodal.__file__).parent.rglob("*.py"))
    assert len(files) > 20
    found = [
        f"{f.name}:{i}"
        for f in files
        for i, line in enumerate(f.read_text().splitlines(), 1)
        if re.search(pattern, line)
    ]
    assert not found, f"{what}: {found}"


def test_who_calls_a_solver_of_linear_algebra() -> None:
    """All of them do in float64: in float32 solvers fail on some processors, and not all of them say so."""
    names = r"eigh?|eigvalsh?|svdvals|svd|qr|solve\w*|lstsq|cholesky\w*|p?inv|det|slogdet|matrix_rank|cond"
    call = re.compile(rf"\b(?:linalg|torch|np|scipy)\.(?:{names})\(")
    package = Path(equimodal.__file__).parent
    callers = {f.relative_to(package).as_posix() for f in package.rglob("*.py") if call.search(f.read_text())}
    assert callers == {
        "functional/_projection.py",
        "data/_synthetic_model.py",
        "data/prepare/readers/_volumes.py",
    }


def test_files_are_hashed_in_one_place() -> None:
    """And where the seal of a run reads, which opens nothing but regular files."""
    package = Path(equimodal.__file__).parent
    callers = {f.relative_to(package).as_posix() for f in package.rglob("*.py") if "file_digest(" in f.read_text()}
    assert callers == {"_utils/files.py", "studies/runs/_seal.py"}


def test_no_file_outgrows_its_reader() -> None:
    long = {
        f.name: n for f in Path(equimodal.__file__).parent.rglob("*.py") if (n := len(f.read_text().splitlines())) > 400
    }
    assert not long


def test_a_method_reads_like_its_paper() -> None:
    """Its formulas stand in functional/, its machinery in methods/parts/, what was released otherwise in released/."""
    files = {Path(sys.modules[get(name).__module__].__file__ or "") for name in available(outside=False)}
    lines = sorted(len(file.read_text(encoding="utf-8").splitlines()) for file in files)
    assert len(lines) >= 30
    assert statistics.median(lines) <= 110, lines
    assert lines[-1] <= 240, lines
