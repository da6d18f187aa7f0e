"""Write the pages of the documentation site to build/pages, from which `make docs-site` builds it.

README.md becomes the start page, docs/ the rest, and every public name gets a place in the pages of `api/`. The pages
are plain Markdown for any builder that reads mkdocs.yml: links between files of the repository lead to pages of the
site, headings have the anchors that GitHub gives them, and formulas are MathML, which needs no script. `--check`
writes nothing; its exit code is 1 if a link leads nowhere.
"""

from __future__ import annotations

import argparse
import importlib
import re
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from posixpath import relpath

ROOT = Path(__file__).resolve().parents[1]
PAGES = ROOT / "build" / "pages"
# pages of the repository outside docs/ -> their place in the site
OUTSIDE = {
    "README.md": "index.md",
    "docs/index.md": "overview.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "SECURITY.md": "security.md",
}
FENCE = re.compile(r"^(```+)(.*?)^\1[ ]*$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"(\]\()([^)\s]+)(\))")


def sources() -> dict[str, str]:
    """Every Markdown file of the documentation -> its place in the site; both with forward slashes."""
    found = dict(OUTSIDE)
    for path in sorted((ROOT / "docs").rglob("*.md")):
        name = path.relative_to(ROOT).as_posix()
        found.setdefault(name, name.removeprefix("docs/"))
    return found


# ---- one page -------------------------------------------------------------------------------------------------------


def page(name: str, problems: list[str], files: dict[str, Path]) -> str:
    """A Markdown file of the repository as the site has it; other files that it links to are added to ``files``."""
    places = sources()
    here = places[name]

    def link(match: re.Match[str]) -> str:
        target, _, anchor = match[2].partition("#")
        if re.match(r"[a-z]+:", match[2]) or not target:
            return match[0]
        path = (ROOT / name).parent.joinpath(target).resolve()
        if not path.is_file() or not path.is_relative_to(ROOT):
            problems.append(f"{name}: {match[2]}")
            return match[0]
        wanted = path.relative_to(ROOT).as_posix()
        place = places.get(wanted)
        if place is None:
            place = wanted.removeprefix("docs/") if wanted.startswith("docs/") else f"files/{wanted}"
            files[place] = path
        return match[1] + relpath(place, str(Path(here).parent)) + (f"#{anchor}" if anchor else "") + match[3]

    text = (ROOT / name).read_text(encoding="utf-8")
    text = re.sub(r"<!--.*?-->\n?", "", text, flags=re.DOTALL)
    text = outside_code(text, lambda prose: LINK.sub(link, formulas(prose)), bare_fence)
    return anchored(text)


def outside_code(text: str, change: Callable[[str], str], fence: Callable[[str], str] = str) -> str:
    """``change`` applied to prose only: fenced blocks go to ``fence``, code spans stay as they are."""
    parts, end = [], 0
    for block in FENCE.finditer(text):
        parts += [_outside_spans(text[end : block.start()], change), fence(block[0])]
        end = block.end()
    return "".join([*parts, _outside_spans(text[end:], change)])


def _outside_spans(text: str, change: Callable[[str], str]) -> str:
    kept: list[str] = []

    def keep(match: re.Match[str]) -> str:
        kept.append(match[0])
        return f"\0{len(kept) - 1}\0"

    changed = change(re.sub(r"(`+)(?!`).+?(?<!`)\1(?!`)", keep, text))
    return re.sub(r"\0(\d+)\0", lambda m: kept[int(m[1])], changed)


def bare_fence(block: str) -> str:
    """Only the language of a block's first line: the words after it are for the tests."""
    first, rest = block.split("\n", 1)
    return f"{first.split()[0]}\n{rest}" if first.strip("`") else block


def anchored(text: str) -> str:
    """Headings with the anchors that GitHub gives them."""
    seen: dict[str, int] = {}

    def heading(match: re.Match[str]) -> str:
        plain = re.sub(r"\]\([^)]*\)", "", match[2]).strip().lower()
        slug = re.sub(r"[^\w\- ]", "", plain).replace(" ", "-")
        seen[slug] = seen.get(slug, -1) + 1
        return f"{match[1]} {match[2].rstrip()} {{ #{slug}{f'-{seen[slug]}' if seen[slug] else ''} }}"

    parts = re.split(r"(^```.*?^```)", text, flags=re.MULTILINE | re.DOTALL)
    parts[::2] = [re.sub(r"^(#{1,6}) (.+)$", heading, part, flags=re.MULTILINE) for part in parts[::2]]
    return "".join(parts)


# ---- formulas -------------------------------------------------------------------------------------------------------


def formulas(prose: str) -> str:
    """`$...$` and `$$...$$` as MathML."""
    prose = re.sub(r"\$\$(.+?)\$\$", lambda m: mathml(m[1], block=True), prose, flags=re.DOTALL)
    return re.sub(r"\$([^$\n]+?)\$", lambda m: mathml(m[1]), prose)


def mathml(formula: str, *, block: bool = False) -> str:
    """A formula in LaTeX as one line of MathML, with no character that Markdown would read."""
    from latex2mathml.converter import convert

    plain = formula.replace(r"\arg\max", r"\operatorname{argmax}").replace(r"\arg\min", r"\operatorname{argmin}")
    text = convert(" ".join(plain.split()), display="block" if block else "inline")
    text = re.sub(r">([^<]*)<", lambda m: ">" + re.sub(r"[*_|`\\\[\]]", lambda c: f"&#{ord(c[0])};", m[1]) + "<", text)
    return f'\n\n<div class="formula">{text}</div>\n\n' if block else f"<span>{text}</span>"  # inside a paragraph


# ---- the pages of names ---------------------------------------------------------------------------------------------


def names() -> dict[str, list[str]]:
    """Package -> its public names, as docs/reference.md has them."""
    sys.path.insert(0, str(ROOT / "tools"))
    from method_pages import PACKAGES, public

    return {package: public(importlib.import_module(package)) for package in PACKAGES}


def api_pages() -> Iterator[tuple[str, str]]:
    """A page per package with the docstring of every public name, for mkdocstrings; a name has one place."""
    import inspect

    where: dict[str, str] = {}  # a name in full -> the page that has it
    for package, public in sorted(names().items(), key=lambda item: -item[0].count(".")):  # `equimodal` is last
        module = importlib.import_module(package)
        summary = " ".join((inspect.getdoc(module) or "").split("\n\n")[0].split()).replace("``", "`")
        lines = [f"# {package}", "", re.sub(r":\w+:`~?([^`]+)`", r"`\1`", summary), ""]
        elsewhere = []
        for name in public:
            value = getattr(module, name)
            if not (inspect.isclass(value) or inspect.isfunction(value)):
                continue
            full = f"{value.__module__}.{value.__qualname__}"
            if where.setdefault(full, package) == package:
                lines += [f"::: {full}", ""]
            else:
                elsewhere.append(f"[`{name}`]({where[full]}.md#{full})")
        also = [f"Also here: {', '.join(elsewhere)}.", ""] if elsewhere else []
        yield f"api/{package}.md", "\n".join([*lines[:4], *also, *lines[4:]])


# ---- the command ----------------------------------------------------------------------------------------------------


def main(arguments: list[str] | None = None) -> int:
    """Write the tree anew."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--check", action="store_true", help="write nothing; exit code 1 if a link leads nowhere")
    check = parser.parse_args(arguments).check
    problems: list[str] = []
    files: dict[str, Path] = {}
    pages = {place: page(name, problems, files) for name, place in sources().items()}
    for problem in problems:
        print(f"leads nowhere: {problem}", file=sys.stderr)
    if problems or check:
        return 1 if problems else 0
    shutil.rmtree(PAGES, ignore_errors=True)
    for place, text in [*pages.items(), *api_pages()]:
        (PAGES / place).parent.mkdir(parents=True, exist_ok=True)
        (PAGES / place).write_text(text, encoding="utf-8")
    shared = {p.relative_to(ROOT / "docs").as_posix(): p for p in (ROOT / "docs").rglob("*") if p.is_file()}
    for place, path in ({k: v for k, v in shared.items() if v.suffix != ".md"} | files).items():
        (PAGES / place).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, PAGES / place)
    listed = (ROOT / "docs" / "llms.txt").read_text(encoding="utf-8")  # its links lead to files; here to pages
    (PAGES / "llms.txt").write_text(re.sub(r"(?m)^(- \[.*?\]\()([^)]+)", _address, listed), encoding="utf-8")
    return 0


def _address(entry: re.Match[str]) -> str:
    place = sources()[(ROOT / "docs" / entry[2]).resolve().relative_to(ROOT).as_posix()]
    return entry[1] + re.sub(r"(^|/)index$", r"\1", place.removesuffix(".md")).rstrip("/") + "/"


if __name__ == "__main__":
    raise SystemExit(main())
