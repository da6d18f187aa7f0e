"""The documentation site: every page is in the navigation and two clicks away, and it builds without a warning."""

from __future__ import annotations

import html.parser
import importlib.util
import re
import subprocess
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[1]
MATHML = pytest.mark.skipif(importlib.util.find_spec("latex2mathml") is None, reason="needs the docs extra")


def tool(name: str, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(ROOT / "tools"))
    spec = importlib.util.spec_from_file_location(name, ROOT / "tools" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def pages(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    return tool("site_pages", monkeypatch)


@pytest.fixture
def lists(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    pytest.importorskip("yaml")
    pytest.importorskip("docstring_parser")
    return tool("site_lists", monkeypatch)


# ---- without building -----------------------------------------------------------------------------------------------


def test_the_start_page_is_one_page() -> None:
    lines = (ROOT / "README.md").read_text(encoding="utf-8").splitlines()
    assert len(lines) <= 120
    assert sum("```" in line for line in lines) % 2 == 0


def test_every_page_is_in_the_navigation_once(lists: ModuleType, pages: ModuleType) -> None:
    places = [place for _, _, place in lists.navigation((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))]
    assert len(places) == len(set(places))
    assert {place for place in places if not place.startswith("api/")} == set(pages.sources().values()), "make pages"


def test_the_lists_are_up_to_date(lists: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    assert lists.main(["--check"]) == 0, capsys.readouterr()


def test_a_new_page_is_listed_by_itself(lists: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    text = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    known = lists.sources()
    monkeypatch.setattr(
        lists, "sources", lambda: {**known, "docs/x.md": "x.md", "docs/methods/new.md": "methods/new.md"}
    )
    monkeypatch.setattr(lists, "head", lambda place: (f"Title, of {place}", "A sentence"))
    made = lists.filled(text)
    assert '      - "Title, of x.md": x.md\n' in made
    assert ("Methods", "Title, of methods/new.md", "methods/new.md") in lists.navigation(made)
    with pytest.raises(SystemExit, match="# api: begin"):
        lists.filled(text.replace("# api: begin", "# api"))


def test_the_results_of_the_start_page_are_those_of_the_benchmarks(lists: ModuleType) -> None:
    readme = lists.results("<!-- results: begin -->\nold\n<!-- results: end -->\n")
    benchmarks = (ROOT / "docs" / "benchmarks.md").read_text(encoding="utf-8")
    rows = [line for line in readme.splitlines() if line.startswith("| ")][2:]
    assert len(rows) >= 4
    for row in rows:
        assert row.rsplit("|", 1)[0] in benchmarks
    assert "old" not in readme


def test_llms_txt_names_pages_that_exist(pages: ModuleType) -> None:
    text = (ROOT / "docs" / "llms.txt").read_text(encoding="utf-8")
    assert text.startswith("# equimodal\n\n> ")
    targets = re.findall(r"^- \[[^\]]+\]\(([^)]+)\)", text, flags=re.MULTILINE)
    assert {(ROOT / "docs" / t).resolve() for t in targets} == {(ROOT / name).resolve() for name in pages.sources()}


def test_what_a_reader_looks_for_is_two_clicks_away() -> None:
    """By the links in the text alone, without the navigation."""
    reached = {(ROOT / "README.md").resolve()}
    for _ in range(2):
        reached |= {target for page in list(reached) for target in links(page)}
    wanted = {
        ROOT / "docs" / f"{name}.md" for name in ("report", "own-model", "your-data", "data", "which-method", "audit")
    }
    wanted |= {p for folder in ("methods", "datasets", "gallery") for p in (ROOT / "docs" / folder).glob("*.md")}
    assert not sorted(p.name for p in wanted - reached)


def links(page: Path) -> set[Path]:
    if page.suffix != ".md":
        return set()
    found = re.findall(r"\]\(([^)\s#]+)", page.read_text(encoding="utf-8"))
    return {(page.parent / link).resolve() for link in found if ":" not in link}


def test_pictures_of_methods_are_small_and_described() -> None:
    for path in (ROOT / "docs" / "images" / "methods").glob("*.svg"):
        text = path.read_text(encoding="utf-8")
        assert path.stat().st_size < 15_000
        assert "<title" in text
        assert "<desc" in text
        assert "<script" not in text


# ---- a page as the site has it --------------------------------------------------------------------------------------


def test_code_stays_as_it_is(pages: ModuleType) -> None:
    text = "a `b $c` d\n\n```python needs=x\n$e$\n```\nf ``g ` h`` i\n"
    seen: list[str] = []

    def change(prose: str) -> str:
        seen.append(prose)
        return prose.upper()

    made = pages.outside_code(text, change, pages.bare_fence)
    assert made == "A `b $c` D\n\n```python\n$e$\n```\nF ``g ` h`` I\n"
    assert "$" not in "".join(seen)


def test_headings_have_the_anchors_of_github(pages: ModuleType) -> None:
    text = "# One\n## `a.b` & c, d\n```sh\n# no heading\n```\n## One\n"
    assert pages.anchored(text).splitlines() == [
        "# One { #one }", "## `a.b` & c, d { #ab--c-d }", "```sh", "# no heading", "```", "## One { #one-1 }"
    ]  # fmt: skip


@MATHML
def test_formulas_are_mathml(pages: ModuleType) -> None:
    inline = pages.formulas(r"so $w_k \ge 0$, and")
    assert inline.startswith("so <span><math ")
    assert "<msub><mi>w</mi><mi>k</mi></msub>" in inline
    block = pages.formulas("x\n$$a = \\text{b_c*}$$\ny")
    assert '<div class="formula"><math ' in block
    assert "b&#95;c&#42;" in block  # Markdown would read them


@MATHML
def test_links_lead_to_pages_of_the_site(pages: ModuleType) -> None:
    problems: list[str] = []
    files: dict[str, Path] = {}
    text = pages.page("CONTRIBUTING.md", problems, files)
    assert "](architecture.md#moments-and-their-order)" in text
    readme = pages.page("README.md", problems, files)
    assert "](contributing.md)" in readme
    assert "](files/LICENSE)" in readme
    assert files["files/LICENSE"] == ROOT / "LICENSE"
    assert not problems


@MATHML
def test_a_link_that_leads_nowhere_is_named(
    pages: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "docs").mkdir()
    for name in pages.OUTSIDE:
        (tmp_path / name).write_text("# A page\n[b](docs/none.md)\n" if name == "README.md" else "# A page\n")
    monkeypatch.setattr(pages, "ROOT", tmp_path)
    assert pages.main(["--check"]) == 1
    assert capsys.readouterr().err == "leads nowhere: README.md: docs/none.md\n"


@MATHML
def test_docstrings_are_markdown(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("griffe")
    plain = tool("site_docstrings", monkeypatch).plain
    text = "Of :class:`~equimodal.data.Bundle` and ``x``; :math:`a_1`.\n\nExample:\n    >>> x[0]['$']\n    '$'\n"
    made = plain(text)
    assert made.startswith("Of `data.Bundle` and `x`; <span><math ")
    assert "Examples:\n    >>> x[0]['$']\n    '$'\n" in made


# ---- the site -------------------------------------------------------------------------------------------------------


class Document(html.parser.HTMLParser):
    """Links of a built page, and what it loads."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.links: list[str] = []
        self.loaded: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        known = {name: value or "" for name, value in attrs}
        if tag == "a" and known.get("href"):
            self.links.append(known["href"])
        elif tag in ("script", "img") and known.get("src"):
            self.loaded.append(known["src"])
        elif tag == "link" and known.get("rel") in ("stylesheet", "icon", "preload"):
            self.loaded.append(known.get("href", ""))


def clicks(site: Path, start: Path, most: int, of: Callable[[Path], Iterable[str]]) -> set[Path]:
    reached, edge = {start}, {start}
    for _ in range(most):
        targets = {(page.parent / link.partition("#")[0]).resolve() for page in edge for link in of(page)}
        edge = {t / "index.html" if t.is_dir() else t for t in targets} - reached
        edge = {t for t in edge if t.suffix == ".html" and t.is_relative_to(site) and t.is_file()}
        reached |= edge
    return reached


@pytest.mark.slow
def test_the_site_builds_without_a_warning(pages: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for needed in ("zensical", "mkdocstrings", "latex2mathml", "lightning"):
        pytest.importorskip(needed)
    monkeypatch.setattr(pages, "PAGES", tmp_path / "build" / "pages")
    assert pages.main([]) == 0
    (tmp_path / "mkdocs.yml").write_text((ROOT / "mkdocs.yml").read_text(encoding="utf-8"), encoding="utf-8")
    for name in ("src", "tools"):
        (tmp_path / name).symlink_to(ROOT / name)
    command = [sys.executable, "-m", "zensical", "build", "--strict"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "No issues found" in done.stdout + done.stderr

    site = (tmp_path / "site").resolve()
    built = {path: Document(path.read_text(encoding="utf-8")) for path in site.rglob("*.html")}
    assert len(built) > len(pages.sources())
    for path, document in built.items():
        away = [link for link in document.loaded if re.match(r"(https?:)?//", link)]
        assert not away, f"{path.relative_to(site)} loads from elsewhere"
    for path in built:
        text = re.sub(r"<(pre|code)\b.*?</\1>", "", path.read_text(encoding="utf-8"), flags=re.DOTALL)
        assert ":math:" not in text, path.relative_to(site)
        assert "$$" not in text, path.relative_to(site)
    assert "<math" in (site / "methods" / "ogm" / "index.html").read_text(encoding="utf-8")
    assert (site / "search.json").stat().st_size > 100_000
    assert "](quickstart/)" in (site / "llms.txt").read_text(encoding="utf-8")
    near = clicks(site, site / "index.html", 2, lambda page: built[page].links)
    everything = {site / Path(p).with_suffix("") / "index.html" for p in pages.sources().values() if "index" not in p}
    assert not {str(p.relative_to(site)) for p in everything - near}
