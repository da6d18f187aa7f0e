"""Write the lists of the methods that stand in other files, from the registry.

The names of `src/equimodal/methods/__init__.py`, which type checkers read, and the table of docs/methods/index.md. With
`--check` nothing is written, and the exit code is 1 if a list is not up to date.
"""

from __future__ import annotations

import argparse
import inspect
import re
import sys
from pathlib import Path

from equimodal.methods import Method, available, built_in, get
from equimodal.testing import Case

ROOT = Path(__file__).resolve().parents[1]
TABLE = ("<!-- methods: begin -->\n", "<!-- methods: end -->\n")
IMPORTS = ("    # imports of the methods, written by `make pages`\n", "    # end of the imports\n")
NAMES = ("# names of the methods, written by `make pages`\n", "# end of the names\n")


def lists() -> list[tuple[Path, tuple[str, str], str]]:
    """File, markers, and what stands between them."""
    door = ROOT / "src/equimodal/methods/__init__.py"
    return [
        (door, IMPORTS, imports()),
        (door, NAMES, names()),
        (ROOT / "docs/methods/index.md", TABLE, index_table()),
    ]


def imports() -> str:
    """A line for each method, by the alphabet of the modules."""
    by_module = sorted((source.module, name) for name, source in built_in().items())
    return "".join(f"    from equimodal.methods.{module} import {name} as {name}\n" for module, name in by_module)


def names() -> str:
    """The part of `__all__` with the methods, in the order that ruff wants: names in capitals come first."""
    ordered = sorted(built_in(), key=lambda name: (not name.isupper(), name))
    return "__all__ += [\n" + "".join(f'    "{name}",\n' for name in ordered) + "]\n"


def index_table() -> str:
    """Name, paper, idea, cost and inference rule."""
    lines = ["| method | paper | what it does | cost of a step | default inference rule |", "|---|---|---|---|---|"]
    for name in available(outside=False):
        info = get(name).info
        rule = f"`{default_rule(name)}`" if Case(get(name)).accepts("inference") else "none"
        cells = (f"[{name}]({name.lower()}.md)", paper(get(name)), info.idea or info.title, cost(info.cost), rule)
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def default_rule(name: str) -> str:
    """Of the signature; of a method that decides by the task, that of a classification."""
    default = inspect.signature(get(name).__init__).parameters["inference"].default
    return default if isinstance(default, str) else str(Case(get(name)).make(2).inference.rule)


def paper(method: type[Method]) -> str:
    """Authors and venue, as far as `info.paper` names them; `control` for a control."""
    text = method.info.paper
    authors = re.search(r"[A-Z][\w-]+(?: et al\.| and [A-Z][\w-]+)", text)
    venue = re.search(r"\b[A-Z][\w&-]*(?: [A-Z][\w&-]*)* (?:19|20)\d\d\b", text) or re.search(r"arXiv \d+\.\d+", text)
    parts = ["control"] if method.info.control else []
    cited = ", ".join(match.group() for match in (authors, venue) if match)
    return "; ".join([*parts, *([cited] if cited else [])]) or text


def cost(text: str) -> str:
    """The first part of `info.cost`, up to a colon, semicolon or bracket."""
    return re.split(r"[;:(]", text)[0].strip()


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--check", action="store_true", help="write nothing; exit code 1 if a list is not up to date")
    check = parser.parse_args(arguments).check
    stale = False
    for path, (begin, end), text in lists():
        content = path.read_text(encoding="utf-8")
        before, _, rest = content.partition(begin)
        _, found, after = rest.partition(end)
        if not found:
            markers = f"{begin.strip()!r} and {end.strip()!r}"
            print(f"{path.relative_to(ROOT)}: expected the lines {markers}. Found no such pair.", file=sys.stderr)
            return 2
        made = f"{before}{begin}{text}{end}{after}"
        if made != content:
            stale = True
            print(f"{'stale' if check else 'written'}: {path.relative_to(ROOT)}")
            if not check:
                path.write_text(made, encoding="utf-8")
    if check and stale:
        print("Run: make pages", file=sys.stderr)
    return 1 if check and stale else 0


if __name__ == "__main__":
    raise SystemExit(main())
