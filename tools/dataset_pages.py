"""Write docs/datasets/ from the facts and parameters of every dataset: python tools/dataset_pages.py [--check]."""

from __future__ import annotations

import inspect
import re
import sys
from pathlib import Path
from typing import Any

import docstring_parser

from equimodal.cli._signature import options_of, type_name
from equimodal.data import prepare

DOCS = Path(__file__).resolve().parents[1] / "docs" / "datasets"
PREPARING = Path(__file__).with_name("preparing_datasets.md")  # the part of the index that is written by hand
NOTE = "<!-- Written by tools/dataset_pages.py from the classes in src/equimodal/data/prepare; do not edit. -->\n"


def main(argv: list[str]) -> int:
    """Write the pages, or with --check tell which are not up to date."""
    pages = {DOCS / f"{name}.md": page(name) for name in prepare.available()}
    pages[DOCS / "index.md"] = index()
    stale = [path for path, text in pages.items() if not path.exists() or path.read_text(encoding="utf-8") != text]
    stale += [path for path in DOCS.glob("*.md") if path not in pages]
    if "--check" in argv:
        for path in stale:
            print(f"not up to date: docs/datasets/{path.name}; run python tools/dataset_pages.py")
        return 1 if stale else 0
    DOCS.mkdir(exist_ok=True)
    for path in DOCS.glob("*.md"):
        if path not in pages:
            path.unlink()
    for path, text in pages.items():
        path.write_text(text, encoding="utf-8")
    return 0


def index() -> str:
    """The list of all datasets, and how preparing works."""
    rows = [("dataset", "what it is", "protocols", "missing allowed"), ("---",) * 4]
    for name in prepare.available():
        kind = prepare.get(name)
        protocols = ", ".join(f"`{p}`" for p, _ in kind.facts.protocols)
        rows.append((f"[{kind.facts.title}]({name}.md)", kind.facts.summary, protocols, f"{kind.max_missing:.0%}"))
    text = PREPARING.read_text(encoding="utf-8")
    return "\n".join([NOTE, "# Datasets of the papers\n", *(row(r) for r in rows), "", text])


def page(name: str) -> str:
    """The page of one dataset."""
    kind = prepare.get(name)
    facts = kind.facts
    lines = [NOTE, f"# {facts.title}\n", facts.summary, ""]
    lines += [f"- **Licence:** {facts.licence}"]
    lines += [f"- **Where to get it:** {where}" for where in facts.where]
    lines += [f"- **Cite:** {citation}" for citation in facts.citation]
    lines += [f"- **Size:** {facts.size}"] if facts.size else []
    lines += ["", "## Preparing it\n", "The source folder, as downloaded:\n", "```text", facts.layout, "```", ""]
    lines += [
        "```sh",
        f"equimodal data prepare {name} --source RAW --out {name}",
        f"equimodal data describe {name}",
        "```",
    ]
    lines += ["", "[What preparing does](index.md#preparing) is the same for every dataset.\n"]
    lines += ["| parameter | default | meaning | source of the default |", "|---|---|---|---|"]
    lines += [row(entry) for entry in parameters(kind)]
    lines += ["", "## Protocols\n"]
    lines += [f"- **`{protocol}`**: {text}" for protocol, text in facts.protocols]
    if facts.published:
        lines += ["", "## Published numbers\n"]
        lines += ["| method | metric | value | source | note |", "|---|---|---|---|---|"]
        lines += [row((p.method, p.metric, p.value, p.source, p.note)) for p in facts.published]
    if prepare.presets(name):
        lines += ["", "## Presets\n", "What a paper says about training, each value with its source. Use one with\n"]
        first = prepare.presets(name)[0]
        lines += ["```sh", f"equimodal data preset {first} > preset.yaml"]
        lines += [f"equimodal train --config preset.yaml --data {name}", "```"]
        for preset in prepare.presets(name):
            lines += ["", f"### {preset}\n", "```yaml", prepare.preset(preset).rstrip(), "```"]
    if facts.notes:
        lines += ["", "## What to know\n", *(f"- {note}" for note in facts.notes)]
    return "\n".join(lines) + "\n"


def parameters(kind: type[prepare.Preparation[Any]]) -> list[tuple[str, ...]]:
    """Name, default, meaning and source of every parameter."""
    parsed = docstring_parser.parse(inspect.getdoc(kind.Parameters) or "", docstring_parser.DocstringStyle.GOOGLE)
    texts = {p.arg_name: " ".join((p.description or "").split()).replace("``", "`") for p in parsed.params}
    rows = []
    for name, option in options_of(kind.Parameters).items():
        text, _, source = texts.get(name, "").partition(" Source: ")
        if not source:
            raise SystemExit(f"{kind.name}: parameter {name}: the docstring names no source")
        default = f"`{option.default}`" if option.default not in ("", None) else "none"
        hint = type_name(option.hint)
        choice = f" ({hint.replace('|', ', ')})" if "|" in hint and "null" not in hint else ""
        rows.append((f"`--{name}`", default, text + choice, source))
    return rows


def row(cells: tuple[str, ...]) -> str:
    """A line of a table."""
    return "| " + " | ".join(re.sub(r"\|", r"\\|", cell) for cell in cells) + " |"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
