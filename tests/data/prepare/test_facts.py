"""Every dataset says what a user needs, and its page is up to date."""

from __future__ import annotations

import dataclasses
import importlib.util
import inspect
import re
from pathlib import Path
from types import ModuleType

import docstring_parser
import pytest

from equimodal.data import prepare
from equimodal.errors import UnknownNameError

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(scope="module")
def tool() -> ModuleType:
    spec = importlib.util.spec_from_file_location("dataset_pages", ROOT / "tools" / "dataset_pages.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_pages_are_up_to_date(tool: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    assert tool.main(["--check"]) == 0, capsys.readouterr().out


def test_a_stale_page_is_noticed(
    tool: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(tool, "DOCS", tmp_path)
    assert tool.main(["--check"]) == 1
    assert tool.main([]) == 0
    assert tool.main(["--check"]) == 0
    (tmp_path / "crema-d.md").write_text("old", encoding="utf-8")
    (tmp_path / "gone.md").write_text("old", encoding="utf-8")
    capsys.readouterr()
    assert tool.main(["--check"]) == 1
    assert capsys.readouterr().out.split()[4::8] == ["docs/datasets/crema-d.md;", "docs/datasets/gone.md;"]


@pytest.mark.parametrize("name", prepare.available())
def test_facts_are_complete(name: str) -> None:
    kind = prepare.get(name)
    facts = kind.facts
    assert kind.name == name
    for field in ("title", "summary", "where", "licence", "citation", "layout", "protocols"):
        assert getattr(facts, field), f"{name}: {field}"
    assert facts.summary.endswith(".")
    for published in facts.published:
        assert published.source, f"{name}: {published}"
        assert re.search(r"\d", published.value)
    assert 0 <= kind.max_missing < 1
    assert kind.incomplete in ("drop", "keep")


@pytest.mark.parametrize("name", prepare.available())
def test_every_default_has_a_source(name: str) -> None:
    parameters = prepare.get(name).Parameters
    parsed = docstring_parser.parse(inspect.getdoc(parameters) or "", docstring_parser.DocstringStyle.GOOGLE)
    texts = {p.arg_name: " ".join((p.description or "").split()) for p in parsed.params}
    for field in dataclasses.fields(parameters):
        assert " Source: " in texts.get(field.name, ""), f"{name}: {field.name}"
        assert field.default is not dataclasses.MISSING
    assert parameters.__dataclass_params__.frozen


def test_unknown_names_get_a_suggestion() -> None:
    with pytest.raises(UnknownNameError, match="Did you mean 'nvgesture'"):
        prepare.get("nvgestures")
    with pytest.raises(UnknownNameError, match="Did you mean 'crema-d-mla'"):
        prepare.preset("crema-mla")
