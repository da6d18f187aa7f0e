"""The documentation is true: examples run and print what they show, links lead somewhere, generated pages are fresh."""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import inspect
import io
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from equimodal import methods

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").rglob("*.md"))]
PACKAGES = (
    "", ".methods", ".tasks", ".functional", ".fusion", ".unimodal", ".encoders", ".data", ".data.prepare",
    ".data.augment", ".diagnostics", ".studies", ".report", ".inference", ".testing",
)  # fmt: skip
METHOD_PAGES = {ROOT / "docs" / "methods" / f"{name.lower()}.md" for name in methods.available()}
GENERATED = {ROOT / "docs" / "reference.md", *METHOD_PAGES}
# in pieces, so that this file does not hold what it looks for
FOREIGN = ("/" + "work/", "/tmp/" + "scratch", "/" + "root/")
TEXT = {".py", ".md", ".toml", ".yaml", ".yml", ".txt", ".cff", ".json", ".html", ".j2", ".css", ".js", ".sh", ""}


@dataclass(frozen=True)
class Block:
    """A fenced block: language, the words after it, first line of its text, the text."""

    language: str
    words: tuple[str, ...]
    line: int
    text: str
    follows: bool  # nothing but empty lines since the block before


def blocks(page: Path) -> list[Block]:
    found: list[Block] = []
    lines = page.read_text(encoding="utf-8").splitlines()
    opened: tuple[str, int] | None = None
    follows = False
    for number, line in enumerate(lines):
        if opened is None and line.startswith("```"):
            opened = (line[3:].strip(), number + 1)
        elif opened is not None and line.startswith("```"):
            language, *words = opened[0].split() or [""]
            text = "\n".join(lines[opened[1] : number]) + "\n"
            found.append(Block(language, tuple(words), opened[1], text, follows))
            opened, follows = None, True
        elif opened is None and line.strip():
            follows = False
    assert opened is None, f"{page}: the block opened in line {opened and opened[1]} is not closed"
    return found


def title(page: Path) -> str:
    return str(page.relative_to(ROOT))


SLOW = {"docs/gallery/lightning.md", "docs/gallery/tuning.md"}


def with_python(pages: list[Path]) -> list[Any]:
    found = [p for p in pages if p.exists() and any(b.language == "python" for b in blocks(p))]
    return [pytest.param(p, marks=pytest.mark.slow if title(p) in SLOW else (), id=title(p)) for p in found]


# Third-party warnings of the Trainer; ours stay errors.
QUIET = [
    "ignore:.*does not have many workers.*",
    "ignore:.*number of training batches.*smaller than the logging interval.*",
    "ignore:.*`isinstance\\(treespec, LeafSpec\\)` is deprecated.*",
]


@pytest.mark.filterwarnings(*QUIET)
@pytest.mark.parametrize("page", with_python(PAGES))
def test_examples_run(page: Path, tmp_path: Path) -> None:
    """The blocks of a page are one session; a `text` block right after one is what it prints.

    A block marked `needs=PACKAGE,...` is left out where one of them is not installed.
    """
    session: dict[str, Any] = {"__name__": "__main__"}
    printed = ""
    for block in blocks(page):
        if block.language == "python":
            needed = [w.removeprefix("needs=").split(",") for w in block.words if w.startswith("needs=")]
            if any(importlib.util.find_spec(name) is None for names in needed for name in names):
                printed = ""  # an optional package is not installed here
                continue
            for word in block.words:
                if word.startswith("file="):
                    (tmp_path / word.removeprefix("file=")).write_text(block.text, encoding="utf-8")
            code = compile("\n" * block.line + block.text, str(page), "exec")
            output = io.StringIO()
            with contextlib.redirect_stdout(output):
                exec(code, session)
            printed = output.getvalue()
        elif block.language == "text" and block.follows and printed:
            assert tidy(printed) == tidy(block.text), f"{title(page)}, line {block.line}: the example prints this"
            printed = ""


def test_the_diff_of_the_readme_turns_a_plain_loop_into_a_method() -> None:
    """Both sides of it run and learn; it is the first code on the page and changes seven lines."""
    first = next(iter(blocks(ROOT / "README.md")))
    assert first.language == "diff"
    lines = first.text.splitlines()
    assert all(line[:1] in ("", " ", "+", "-") for line in lines)
    sides = {side: "\n".join(line[1:] for line in lines if line[:1] != other) for side, other in ("-+", "+-")}
    for side in sides:
        assert sum(line.startswith(side) for line in lines) <= 7
    assert "equimodal" not in sides["-"]

    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(0, 10, (320,), generator=generator)
    centres = {name: torch.randn(10, size, generator=generator) for name, size in (("audio", 20), ("video", 50))}
    inputs = {name: c[labels] + 0.5 * torch.randn(320, c.shape[1], generator=generator) for name, c in centres.items()}
    dataset = [({name: x[i] for name, x in inputs.items()}, label) for i, label in enumerate(labels)]
    scores = {}
    for side, code in sides.items():
        session: dict[str, Any] = {"dataset": dataset, "validation": dataset[:100]}
        exec(compile(code, "README.md", "exec"), session)
        encoders, head = session["encoders"], session["head"]
        with torch.no_grad():
            plain = head(torch.cat([encoders[name](inputs[name]) for name in encoders], dim=1))
            output = session["method"].predict(inputs).output if side == "+" else plain
        scores[side] = float((output.argmax(1) == labels).float().mean())
    assert min(scores.values()) > 0.9, scores


def tidy(text: str) -> list[str]:
    return [line.rstrip() for line in text.strip().splitlines()]


@pytest.mark.distributed
@pytest.mark.slow
def test_the_script_for_several_processes_runs_in_two(tmp_path: Path) -> None:
    page = ROOT / "docs" / "own-model.md"
    (script,) = [b for b in blocks(page) if "file=train.py" in b.words]
    (tmp_path / "train.py").write_text(script.text, encoding="utf-8")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "train.py"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "2 processes" in done.stdout


# ---- links and lists ------------------------------------------------------------------------------------------------


def links(page: Path) -> Iterator[str]:
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    text = re.sub(r"`[^`\n]*`", "", text)
    yield from re.findall(r"\[[^\]]*\]\(([^)\s]+)\)", text)


def anchors(page: Path) -> set[str]:
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    heads = [line.lstrip("#").strip().lower() for line in text.splitlines() if line.startswith("#")]
    return {re.sub(r"[^\w\- ]", "", head).replace(" ", "-") for head in heads}


@pytest.mark.parametrize("page", [p for p in PAGES if p.exists()], ids=title)
def test_links_resolve(page: Path) -> None:
    broken = []
    for link in links(page):
        if re.match(r"[a-z]+:", link):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        if not target.exists() or (anchor and anchor not in anchors(target)):
            broken.append(link)
    assert not broken


@pytest.mark.parametrize("tool", ["method_pages", "check_pages"])
def test_generated_pages_are_up_to_date(
    tool: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "tools"))
    path = ROOT / "tools" / f"{tool}.py"
    spec = importlib.util.spec_from_file_location(tool, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert module.main(["--check"]) == 0, capsys.readouterr().out


def test_every_method_is_listed() -> None:
    listed = {link for link in links(ROOT / "docs" / "methods" / "index.md") if "/" not in link}
    missing = [n for n in methods.available() if not any(link.endswith(f"{n.lower()}.md") for link in listed)]
    assert not missing


def test_every_page_is_reachable_from_the_index() -> None:
    index = ROOT / "docs" / "index.md"
    reached, waiting = {index}, [index]
    while waiting:
        page = waiting.pop()
        for link in links(page):
            target = (page.parent / link.partition("#")[0]).resolve()
            if target.suffix == ".md" and target.exists() and target not in reached:
                reached.add(target)
                waiting.append(target)
    assert not sorted(title(p) for p in (ROOT / "docs").rglob("*.md") if p not in reached)


# ---- public names ---------------------------------------------------------------------------------------------------


def public_names() -> list[tuple[ModuleType, str]]:
    modules = [importlib.import_module(f"equimodal{suffix}") for suffix in PACKAGES]
    return [(m, name) for m in modules for name in m.__all__ if not name.startswith("_")]


def test_every_public_name_has_an_example_or_a_place_in_the_docs() -> None:
    """A generated page does not count: it lists everything by itself."""
    written = "\n".join(p.read_text(encoding="utf-8") for p in PAGES if p.exists() and p not in GENERATED)
    words = set(re.findall(r"\w+", written))
    bare = []
    for module, name in public_names():
        value = getattr(module, name)
        documented = inspect.isclass(value) or inspect.isfunction(value)
        if documented:
            assert inspect.getdoc(value), f"{module.__name__}.{name} has no docstring"
        if name not in words and not (documented and ">>>" in (inspect.getdoc(value) or "")):
            bare.append(f"{module.__name__}.{name}")
    assert not bare


# ---- commands -------------------------------------------------------------------------------------------------------


def console_lines(page: Path) -> list[str]:
    shell = [b for b in blocks(page) if b.language in ("sh", "bash", "console")]
    return [line.removeprefix("$ ").split(" #")[0].strip() for b in shell for line in b.text.splitlines()]


def test_make_targets_of_the_readme_exist() -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), flags=re.MULTILINE))
    asked = [line.split()[1] for line in console_lines(ROOT / "README.md") if line.startswith("make ")]
    assert {"demo", "test"} <= set(asked)
    assert set(asked) <= targets


def test_commands_in_the_docs_exist(capsys: pytest.CaptureFixture[str]) -> None:
    try:
        from equimodal.cli import main
    except ImportError:
        pytest.skip("equimodal.cli is not there")
    run: Any = main
    lines = {line for p in PAGES if p.exists() for line in console_lines(p) if line.startswith("equimodal ")}
    commands = sorted({line.split()[1] for line in lines} - {"--help", "--version"})
    assert commands
    for command in commands:
        try:
            code = run([command, "--help"])
        except SystemExit as end:
            code = end.code
        assert code in (0, None), f"equimodal {command}: {capsys.readouterr().err}"


# ---- what no file may hold ------------------------------------------------------------------------------------------


def committed() -> list[Path]:
    try:
        listed = subprocess.run(
            ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"],
            cwd=ROOT, capture_output=True, text=True, check=True,
        ).stdout.split("\0")  # fmt: skip
    except (OSError, subprocess.CalledProcessError):
        folders = ("src", "tests", "docs", "tools", "benchmarks", "scripts")
        return [p for p in [*ROOT.glob("*.*"), *(q for f in folders for q in (ROOT / f).rglob("*"))] if p.is_file()]
    return [ROOT / name for name in listed if name and (ROOT / name).is_file()]


def test_no_file_names_a_path_of_one_machine() -> None:
    found = []
    for path in committed():
        if path.suffix not in TEXT:
            continue
        text = path.read_text(encoding="utf-8", errors="replace")
        found += [f"{title(path)}: {word}" for word in FOREIGN if word in text]
    assert not found
