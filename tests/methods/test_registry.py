"""The registry: every file is found, in one order, and nothing is imported or listed by hand."""

from __future__ import annotations

import ast
import importlib.util
import inspect
import os
import pkgutil
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from types import ModuleType

import pytest

import equimodal
from equimodal import methods
from equimodal.errors import UnknownNameError
from equimodal.methods import Method, available, built_in, controls, get, overview

ROOT = Path(__file__).resolve().parents[2]


def test_names() -> None:
    first = controls(outside=False)
    rest = available(outside=False)[len(first) :]
    assert set(first) >= {"Ensemble", "Joint", "ModalityDropout", "MultiLoss", "PretrainFinetune", "Unimodal"}
    assert set(rest) >= {"CGGM", "MIE", "MLA"}
    assert (first, rest) == (sorted(first, key=str.lower), sorted(rest, key=str.lower))
    assert get("mla") is get("MLA")
    for wrong, hint in (("MAL", "MLA"), ("CGM", "CGGM"), ("ensembel", "Ensemble"), ("multi_loss", "MultiLoss")):
        with pytest.raises(UnknownNameError, match=f"Did you mean.*'{hint}'"):
            get(wrong)
    with pytest.raises(UnknownNameError, match="Known: .*CGGM.*Ensemble"):
        get("zzzzz")


def test_every_class_with_an_info_is_found() -> None:
    """Against the classes themselves, all files imported; the registry reads the text only."""
    found = {}
    for module in pkgutil.iter_modules(methods.__path__):
        loaded = import_module(f"equimodal.methods.{module.name}")
        for name, value in vars(loaded).items():
            own = inspect.isclass(value) and issubclass(value, Method) and value.__module__ == loaded.__name__
            if own and "info" in vars(value):
                found[name] = value
    assert set(built_in()) == set(found)
    for entry in overview(outside=False):
        assert get(entry.name) is found[entry.name]
        assert (entry.title, entry.control) == (get(entry.name).info.title, get(entry.name).info.control)
        assert entry.package is None


def test_a_new_file_is_a_new_method(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from equimodal.methods import _registry

    for file in Path(inspect.getfile(methods)).parent.glob("_*.py"):
        (tmp_path / file.name).write_text(file.read_text(encoding="utf-8"), encoding="utf-8")
    text = 'class New(Method):\n    info: ClassVar[MethodInfo] = MethodInfo(title="A new one", control=True)\n'
    (tmp_path / "_new.py").write_text(text, encoding="utf-8")
    monkeypatch.setattr(_registry, "files", lambda _: tmp_path)
    _registry.built_in.cache_clear()
    try:
        names = controls(outside=False)
        assert "New" in names
        assert names == sorted(names)
        assert _registry.built_in()["New"].module == "_new"
    finally:
        _registry.built_in.cache_clear()


def test_every_name_of_the_door_is_there() -> None:
    assert all(getattr(methods, name) is not None for name in methods.__all__)
    assert set(dir(methods)) >= {"MLA", "Method", "get"}
    with pytest.raises(AttributeError, match="has no attribute 'MLE'"):
        methods.MLE  # type: ignore[attr-defined]  # noqa: B018
    with pytest.raises(ImportError, match="MLE"):
        exec("from equimodal.methods import MLE", {})


def test_type_checkers_and_python_see_the_same_names() -> None:
    """The imports are read by type checkers only; what a name is at run time comes from elsewhere."""
    path = inspect.getfile(methods)
    nodes = [n for n in ast.walk(ast.parse(Path(path).read_text(encoding="utf-8"))) if isinstance(n, ast.ImportFrom)]
    typed = {a.name: n.module for n in nodes for a in n.names if n.module and n.module.startswith("equimodal")}
    assert set(methods.__all__) <= set(typed)
    for name, module in typed.items():
        assert getattr(methods, name) is getattr(import_module(module), name), name


def test_one_method_does_not_import_the_others() -> None:
    code = (
        "import sys\nimport equimodal.methods as m\nassert 'torch' not in sys.modules\n"
        "m.available(outside=False)\nassert 'torch' not in sys.modules\n"
        "from equimodal.methods import Joint\n"
        "assert 'equimodal.methods._joint' in sys.modules\nassert 'equimodal.methods._mie' not in sys.modules"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(equimodal.__file__).parents[1])}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


# ---- lists that follow from the registry ----------------------------------------------------------------------------


@pytest.fixture
def tool() -> ModuleType:
    spec = importlib.util.spec_from_file_location("method_lists", ROOT / "tools" / "method_lists.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_lists_are_up_to_date(tool: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    assert tool.main(["--check"]) == 0, capsys.readouterr()


def test_a_change_makes_them_stale_and_one_command_writes_them(
    tool: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for path, _, _ in tool.lists():
        (tmp_path / path.relative_to(ROOT)).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path.relative_to(ROOT)).write_text(path.read_text(encoding="utf-8"), encoding="utf-8")
    monkeypatch.setattr(tool, "ROOT", tmp_path)
    assert tool.main(["--check"]) == 0
    monkeypatch.setattr(tool, "built_in", lambda: {**built_in(), "NewOne": built_in()["MLA"]})
    object.__setattr__(get("Joint").info, "idea", "one loss")
    try:
        assert tool.main(["--check"]) == 1
        assert capsys.readouterr().out.count("stale") == 3
        assert tool.main([]) == 0
        assert tool.main(["--check"]) == 0
    finally:
        object.__setattr__(get("Joint").info, "idea", "one loss on the fused output")
    door = (tmp_path / "src/equimodal/methods/__init__.py").read_text(encoding="utf-8")
    assert "    from equimodal.methods._mla import NewOne as NewOne\n" in door
    assert '    "NewOne",\n' in door
    assert "| control | one loss | 1 joint step" in (tmp_path / "docs/methods/index.md").read_text(encoding="utf-8")
    (tmp_path / "docs/methods/index.md").write_text("nothing", encoding="utf-8")
    assert tool.main([]) == 2
    assert "index.md: expected the lines '<!-- methods: begin -->'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "short"),
    [
        ("Zhang et al., A Title of 2023, CVPR 2024, arXiv 2311.10707", "Zhang et al., CVPR 2024"),
        ("Wang and Li, Short, IEEE TPAMI 2016", "Wang and Li, IEEE TPAMI 2016"),
        ("Anybody, Something, arXiv 2503.06456", "arXiv 2503.06456"),
        ("unpublished", "unpublished"),
    ],
)
def test_papers_in_tables(tool: ModuleType, text: str, short: str) -> None:
    class Cited:
        class info:  # noqa: N801
            paper, control = text, False

    assert tool.paper(Cited) == short
