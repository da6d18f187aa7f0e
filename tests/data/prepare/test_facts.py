"""Every dataset says what a user needs, and its page is up to date."""

from __future__ import annotations

import dataclasses
import importlib.util
import inspect
import os
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import docstring_parser
import pytest

from equimodal.data import prepare
from equimodal.data.prepare._facts_file import read_facts
from equimodal.errors import DataError, MissingExtraError, UnknownNameError, missing_extra
from tests.data.prepare.toy import Toy, write_toy

yaml = pytest.importorskip("yaml")
ROOT = Path(__file__).resolve().parents[3]
FOLDER = Path(prepare.__file__).parent / "datasets" / "facts"
NAMES = sorted(path.stem for path in FOLDER.glob("*.yaml") if path.stem != "shared")
MINE = """\
title: Mine
summary: Numbers.
where: [here]
licence: CC0
citation:
  - shared: both
  - somebody
layout: |-
  RAW/
    0.txt
protocols:
  one ... three: as said there
  last: {shared: one}
published:
  accuracy:
    - {method: A, value: "65.50", source: paper, note: "on two seeds"}
    - {method: B, value: "7", source: paper}
  MAE:
    - {method: A, value: "0.10", source: other}
"""
SHARED = """\
sources: {paper: "A et al. 2024, table 1", other: B et al. 2025}
texts:
  one: what several share
  both: [first, second]
"""


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


def test_every_dataset_has_a_file_and_every_file_a_dataset() -> None:
    assert sorted(prepare.available()) == NAMES
    assert {path.name for path in FOLDER.iterdir()} == {f"{name}.yaml" for name in (*NAMES, "shared")}


@pytest.mark.parametrize("name", NAMES)
def test_a_file_says_what_the_class_says(name: str) -> None:
    """Read by PyYAML alone, and compared field by field."""
    written, shared = (yaml.safe_load((FOLDER / f"{n}.yaml").read_text(encoding="utf-8")) for n in (name, "shared"))
    facts = prepare.get(name).facts

    def texts(value: Any) -> list[str]:
        if isinstance(value, dict):
            return texts(shared["texts"][value["shared"]])
        return [text for entry in value for text in texts(entry)] if isinstance(value, list) else [value]

    fields = {field.name for field in dataclasses.fields(facts)}
    assert set(written) <= fields
    for field in fields - {"protocols", "published"}:
        value = getattr(facts, field)
        assert texts(written.get(field, [])) == ([value] if value and isinstance(value, str) else list(value))
    assert [(key, *texts(value)) for key, value in written["protocols"].items()] == list(facts.protocols)
    rows = [(metric, row) for metric, entries in written.get("published", {}).items() for row in entries]
    assert len(rows) == len(facts.published)
    for (metric, row), published in zip(rows, facts.published, strict=True):
        source = shared["sources"][row.pop("source")]
        assert dataclasses.asdict(published) == {"metric": metric, "source": source, "note": "", **row}


def test_nothing_is_shared_in_vain() -> None:
    """Every source is that of some number, and every shared text stands in two files."""
    shared = yaml.safe_load((FOLDER / "shared.yaml").read_text(encoding="utf-8"))
    written = {name: (FOLDER / f"{name}.yaml").read_text(encoding="utf-8") for name in NAMES}
    for key in shared["sources"]:
        assert any(re.search(rf"source: {key}[,}}]", text) for text in written.values()), key
    for key in shared["texts"]:
        assert sum(bool(re.search(rf"shared: {key}\b(?!-)", text)) for text in written.values()) > 1, key


def write(folder: Path, text: str = MINE, shared: str = SHARED) -> Path:
    (folder / "mine.yaml").write_text(text, encoding="utf-8")
    (folder / "shared.yaml").write_text(shared, encoding="utf-8")
    return folder


def test_a_file_of_ones_own(tmp_path: Path) -> None:
    table = "A et al. 2024, table 1"
    assert read_facts(write(tmp_path), "mine") == prepare.Facts(
        title="Mine",
        summary="Numbers.",
        where=("here",),
        licence="CC0",
        citation=("first", "second", "somebody"),
        layout="RAW/\n  0.txt",
        protocols=(("one ... three", "as said there"), ("last", "what several share")),
        published=(
            prepare.Published("A", "accuracy", "65.50", table, "on two seeds"),
            prepare.Published("B", "accuracy", "7", table),
            prepare.Published("A", "MAE", "0.10", "B et al. 2025"),
        ),
    )
    plain = "\n".join(MINE.splitlines()[:-7]).replace("  - shared: both\n", "") + "\n  one: alone\n"
    (tmp_path / "plain").mkdir()
    (tmp_path / "plain" / "mine.yaml").write_text(plain, encoding="utf-8")
    assert read_facts(tmp_path / "plain", "mine").citation == ("somebody",)  # without a shared.yaml


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("title: Mine", "titel: Mine", "field `titel`: expected one of the fields .*Did you mean 'title'"),
        ("licence: CC0\n", "", "field `licence`: expected a value, since the field is required"),
        ("licence: CC0", "licence:", "field `licence`: expected a value, since the field is required"),
        ("licence: CC0", "licence: CC0\nsize:", "field `size`: expected a value, or no such field. Found nothing"),
        ("licence: CC0", "licence: CC0\ntitle: again", "line 5: expected each field once. Found 'title'"),
        ("title: Mine", "title: 2021", "field `title`: expected a text. Found int 2021. Put it in quotes"),
        ("title: Mine", "title: true", "field `title`: expected a text. Found bool True"),
        ("title: Mine", "title: 2.5", "field `title`: expected a text. Found float"),
        ("title: Mine", "title: [Mine]", "field `title`: expected a text. Found list"),
        ("title: Mine", "title: ' '", "field `title`: expected a text with something in it"),
        ("title: Mine", "title: {shared: both}", "field `title`: expected one text. Found several"),
        ("title: Mine", "title: {shared: onee}", r"field `title.shared`: expected one of .*Did you mean 'one'"),
        ("title: Mine", "title: {shared: [one]}", r"field `title.shared`: expected one of .*Found list"),
        ("title: Mine", "title: {text: one}", r"field `title.text`: expected one of the fields \['shared'\]"),
        ("title: Mine", "title: {}", r"field `title.shared`: expected a value, since"),
        ("where: [here]", "where: here", "field `where`: expected a list. Found str 'here'"),
        ("where: [here]", "where: []", "field `where`: expected a list with at least one entry"),
        ("where: [here]", "where: [here, 3]", r"field `where\[1\]`: expected a text. Found int 3"),
        ("where: [here]", "where: [[here]]", r"field `where\[0\]`: expected a text. Found list"),
        ("  last: {shared: one}", "  last:", "field `protocols.last`: expected a text. Found nothing"),
        (
            "  last: {shared: one}",
            "  3: three",
            "field `protocols`: expected texts as keys. Found int 3. Put",
        ),
        ('value: "7"', "value: 7.10", r"`published.accuracy\[1\].value`: expected a text. Found float 7.1. Put it"),
        ('value: "7"', "value: about 7", r"`published.accuracy\[1\].value`: expected a number in quotes"),
        ("source: other", "source: othr", r"`published.MAE\[0\].source`: expected one of .*Did you mean 'other'"),
        (", source: other", "", r"`published.MAE\[0\].source`: expected a value, since the field is required"),
        ("method: B,", "methods: B,", r"`published.accuracy\[1\].methods`: .*Did you mean 'method'"),
        ("  MAE:\n", "  MAE: []\n  x:\n", "field `published.MAE`: expected a list with at least one entry"),
        ("where: [here]", "where: [here", "expected valid YAML"),
    ],
)
def test_a_broken_file_is_refused_by_name(tmp_path: Path, old: str, new: str, message: str) -> None:
    assert old in MINE
    with pytest.raises(DataError, match=rf"mine\.yaml: (?:.*{message})"):
        read_facts(write(tmp_path, MINE.replace(old, new, 1)), "mine")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[1, 2]", "expected a mapping from fields to texts. Found list"),
        ("", "expected a mapping from fields to texts. Found nothing"),
        ("sources: {paper: 1}\ntexts: {one: a}", "field `sources.paper`: expected a text. Found int 1"),
        ("sources: {paper: {shared: one}}\ntexts: {one: a}", "field `sources.paper.shared`: expected one of"),
        ("sources: {paper: x}", "field `texts`: expected a value, since the field is required"),
        ("sources: {paper: x}\ntexts: {one: []}", "field `texts.one`: expected a list with at least one entry"),
        ("sources: {}\ntexts: {one: a}", "field `sources`: expected a mapping with at least one entry"),
        ("sources: {paper: x}\ntexts: {one: a}\nnotes: {}", "field `notes`: expected one of the fields"),
    ],
)
def test_broken_shared_texts_are_refused_by_name(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(DataError, match=rf"shared\.yaml: {message}"):
        read_facts(write(tmp_path, shared=text), "mine")


def test_a_file_that_is_no_text_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_bytes(b"title: \xff\xfe")
    with pytest.raises(DataError, match=r"mine\.yaml: expected readable YAML in UTF-8"):
        read_facts(tmp_path, "mine")
    with pytest.raises(DataError, match=r"none\.yaml: expected readable YAML in UTF-8"):
        read_facts(tmp_path, "none")


def test_a_class_has_the_facts_of_its_file_or_its_base_or_its_own() -> None:
    base = prepare.get("crema-d")
    same = type("Same", (base,), {"name": "other", "__module__": Toy.__module__})
    assert same.facts is not None  # type: ignore[attr-defined]
    assert same.facts == base.facts  # type: ignore[attr-defined]
    assert base(Path(), base.Parameters()).facts is base.facts
    assert Toy.facts.title == "Toy"
    plain = type("Plain", (prepare.Preparation,), {"name": "plain", "__module__": base.__module__})
    with pytest.raises(DataError, match=r"facts/plain\.yaml: expected the facts of Plain. Found no such file"):
        plain.facts  # type: ignore[attr-defined]  # noqa: B018
    assert not hasattr(prepare.Preparation, "facts")


class Unreadable:
    def __get__(self, instance: object, owner: type[Any]) -> prepare.Facts:
        raise missing_extra("pyyaml", "cli", "Reading the facts of a dataset")


def test_facts_that_cannot_be_read_are_noticed_before_anything_is_decoded(tmp_path: Path) -> None:
    raw = write_toy(tmp_path / "raw")
    kind = type("Silent", (Toy,), {"facts": Unreadable()})
    with pytest.raises(MissingExtraError, match="Reading the facts"):
        prepare.prepare(kind, raw, tmp_path / "out", workers=0)
    assert [path.name for path in tmp_path.iterdir()] == ["raw"]


def test_facts_need_pyyaml_when_they_are_asked_for(tmp_path: Path) -> None:
    code = f"""
import sys
from pathlib import Path
sys.modules["yaml"] = None
from equimodal.data import prepare
from equimodal.errors import MissingExtraError
kinds = [prepare.get(name) for name in prepare.available()]
folder = Path({str(tmp_path)!r})
for attempt in (lambda: kinds[0].facts, lambda: prepare.prepare("mmsd", folder, folder / "out")):
    try:
        attempt()
    except MissingExtraError as error:
        assert "Reading the facts of a dataset needs the package 'pyyaml'" in str(error), error
        assert "equimodal[cli]" in str(error), error
    else:
        raise SystemExit("no error")
"""
    environment = {**os.environ, "PYTHONPATH": str(Path(prepare.__file__).parents[3])}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert not list(tmp_path.iterdir())
