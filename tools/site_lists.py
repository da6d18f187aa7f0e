"""Write what follows from the pages: the lists of mkdocs.yml, docs/llms.txt, and the results of README.md.

`python tools/site_lists.py` writes what has changed. With `--check` it writes nothing, and its exit code is 1 if a list
is not up to date.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator
from pathlib import Path

import yaml
from generated import update
from method_pages import PACKAGES
from site_pages import sources

ROOT = Path(__file__).resolve().parents[1]
README, BENCHMARKS = ROOT / "README.md", ROOT / "docs" / "benchmarks.md"
ROWS = ("Joint", "MultiLoss", "Ensemble", "ExpertPool", "MMPareto", "CGGM", "MLA", "MIE")  # of README.md: controls, the
# method to begin with, the best of the others, and the founding ones
HIDDEN = ("rank", "cost")
NAVIGATION, OVERVIEW = ROOT / "mkdocs.yml", ROOT / "docs" / "llms.txt"
FOLDERS = ("methods", "gallery", "checks", "datasets")


def navigation(text: str) -> list[tuple[str, str, str]]:
    """Section, title and place of every page in the navigation, in its order; an empty title is that of the page."""
    entries: list[tuple[str, str, str]] = []
    for section in yaml.safe_load(text)["nav"]:
        ((name, below),) = section.items()
        for entry in below if isinstance(below, list) else [section]:
            title, place = next(iter(entry.items())) if isinstance(entry, dict) else ("", entry)
            entries.append((name, title, place))
    return entries


def filled(text: str) -> str:
    """mkdocs.yml with its lists between the marks."""
    places = set(sources().values())
    lists = {folder: [p for p in sorted(places) if _in(p, folder)] for folder in FOLDERS}
    order = (ROOT / "docs/gallery/index.md").read_text(encoding="utf-8")  # the gallery has an order of its own
    lists["gallery"].sort(key=lambda place: order.find(f"]({Path(place).name})"))
    for name, found in lists.items():
        text = between(text, name, [f"{_name(place)}: {place}" for place in found])
    text = between(text, "api", [f"{package}: api/{package}.md" for package in sorted(PACKAGES)])
    text = between(text, "further", [])
    known = {place for _, _, place in navigation(text)}
    return between(text, "further", [f"{_name(place)}: {place}" for place in sorted(places - known)])


def _in(place: str, folder: str) -> bool:
    return place.startswith(f"{folder}/") and place != f"{folder}/index.md"


def _name(place: str) -> str:
    """The title of a page, for a method up to its colon; quoted for YAML."""
    title, _ = head(place)
    short = title.split(":")[0] if place.startswith(("methods/", "checks/")) else title
    return f'"{short}"' if re.search(r"[:#,\[\]{}\"']", short) else short


def between(text: str, name: str, lines: list[str]) -> str:
    """``lines`` between the marks of ``name``, each an entry of the list."""
    pattern = re.compile(rf"^([ ]*)# {name}: begin(.*)\n(?:.*\n)*?\1# {name}: end\n", re.MULTILINE)
    match = pattern.search(text)
    if match is None:
        raise SystemExit(f"mkdocs.yml: expected the lines `# {name}: begin` and `# {name}: end`.")
    space = match[1]
    inside = "".join(f"{space}- {line}\n" for line in lines)
    return (
        f"{text[: match.start()]}{space}# {name}: begin{match[2]}\n{inside}{space}# {name}: end\n{text[match.end() :]}"
    )


def head(place: str) -> tuple[str, str]:
    """Title and first sentence of a page."""
    name = next(name for name, other in sources().items() if other == place)
    text = re.sub(r"<!--.*?-->", "", (ROOT / name).read_text(encoding="utf-8"), flags=re.DOTALL)
    title = re.search(r"^# (.+)$", text, flags=re.MULTILINE)
    if title is None:
        raise SystemExit(f"{name}: expected a title (# ...).")
    plain = re.sub(r"^```.*?^```", "", text[title.end() :], flags=re.MULTILINE | re.DOTALL)
    prose = [p for p in plain.split("\n\n") if p.strip() and not re.match(r"\s*([#|`!<>*-]|\d+\.|    )", p)]
    words = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", " ".join(prose[0].split())) if prose else ""
    sentence = re.match(r".+?\.(?=\s|$)", words)
    return title[1].strip(), (sentence[0] if sentence else words).rstrip(":.")


def results(text: str) -> str:
    """README.md with the rows :data:`ROWS` of the overview of docs/benchmarks.md."""
    table = _marked(BENCHMARKS.read_text(encoding="utf-8"), "overview")[1].strip().splitlines()
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in table]
    shown = [i for i, name in enumerate(rows[0]) if name not in HIDDEN]
    found = {row[0].strip("*"): row for row in rows[2:]}
    chosen = [rows[0], ["---"] + ["---:"] * (len(rows[0]) - 1), *(found[name] for name in ROWS if name in found)]
    lines = "".join("| " + " | ".join(row[i] for i in shown) + " |\n" for row in chosen)
    before, _, after = _marked(text, "results")
    return before + lines + after


def _marked(text: str, name: str) -> tuple[str, str, str]:
    """What stands before, between and after the marks of a table."""
    match = re.search(rf"(<!-- {name}: begin -->\n)(.*?)(<!-- {name}: end -->)", text, flags=re.DOTALL)
    if match is None:
        raise SystemExit(f"expected the lines `<!-- {name}: begin -->` and `<!-- {name}: end -->`.")
    return text[: match.end(1)], match[2], text[match.start(3) :]


def llms() -> str:
    """The list of all pages for language models, in the format of llmstxt.org."""
    text = NAVIGATION.read_text(encoding="utf-8")
    summary = yaml.safe_load(text)["site_description"]
    return "\n".join(["# equimodal", "", f"> {summary}", *_entries(filled(text)), ""])


def _entries(text: str) -> Iterator[str]:
    outside = {place: name for name, place in sources().items() if not name.startswith("docs/")}
    section = ""
    for name, _, place in navigation(text):
        if place.startswith("api/"):
            continue  # docs/reference.md has the same names
        if name != section:
            section = name
            yield from ("", f"## {section}", "")
        title, sentence = head(place)
        path = f"../{outside[place]}" if place in outside else "index.md" if place == "overview.md" else place
        yield f"- [{title}]({path})" + (f": {sentence}" if sentence else "")


def main(arguments: list[str] | None = None) -> int:
    """Write, or check."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--check", action="store_true", help="write nothing; exit code 1 if a list is not up to date")
    check = parser.parse_args(arguments).check
    made = {
        NAVIGATION: filled(NAVIGATION.read_text(encoding="utf-8")),
        OVERVIEW: llms(),
        README: results(README.read_text(encoding="utf-8")),
    }
    return 1 if update(made, ROOT, "site_lists.py", check) and check else 0


if __name__ == "__main__":
    raise SystemExit(main())
