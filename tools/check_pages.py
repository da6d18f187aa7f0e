"""Write docs/checks/ from the docstrings of the checks: python tools/check_pages.py [--check].

With `--check` nothing is written, and the exit code is 1 if a page is missing, stale or left over.
"""

from __future__ import annotations

import argparse
import dataclasses
import inspect
import re
from pathlib import Path

from generated import update

from equimodal.diagnostics.checks import Check, checks, control, get

ROOT = Path(__file__).resolve().parents[1]
DOCS = Path("docs/checks")
INTRODUCTION = Path(__file__).with_name("checks.md")  # the part of the index that is written by hand
NOTE = "<!-- Written by tools/check_pages.py. Change the docstring of the check, then run it again. -->\n"
PARTS = {"Number": "The number and its threshold", "Why": "Why it matters", "Next": "What to do"}
ROLES = ("reference", "baseline", "single", "independent")


def pages() -> dict[Path, str]:
    """Path below the repository -> text."""
    made = {DOCS / f"{code.lower()}.md": page(get(code)) for code in own()}
    made[DOCS / "index.md"] = index()
    return made


def own() -> list[str]:
    """The codes of this library's checks."""
    return [code for code in checks() if get(code).__module__.startswith("equimodal.")]


def page(check: type[Check]) -> str:
    """The page of one check."""
    summary, parts = parse(inspect.getdoc(check) or "")
    missing = [part for part in PARTS if part not in parts]
    if missing:
        raise SystemExit(f"{check.__name__}: the docstring lacks the parts {missing}.")
    lines = [NOTE, f"# {check.code}: {check.title}\n", f"*{check.severity.capitalize()}.* {summary}\n"]
    for name, title in PARTS.items():
        lines.append(f"## {title}\n\n{parts[name]}\n")
        if name == "Number":
            lines.append(thresholds(check))
    if "References" in parts:
        lines.append(f"## References\n\n{references(parts['References'])}\n")
    lines.append(
        f'## How to mute it\n\n`equimodal check RUN --ignore {check.code}`, or `check(..., ignore=("{check.code}",))`. '
        "All checks are listed [here](index.md).\n"
    )
    return "\n".join(lines)


def references(text: str) -> str:
    """One line for each, the key of a citation in front."""
    lines = []
    for entry in re.split(r"(?<=\.)\s+(?=[A-Z][\w-]+(?:,| and | et al\.))", text):
        key = re.search(r"\s*\[(\w+\d{4})\]", entry)
        lines.append(f"- {f'{key[1]}: ' if key else ''}{entry.replace(key[0], '') if key else entry}")
    return "\n".join(lines)


def thresholds(check: type[Check]) -> str:
    """A list of the fields, with their defaults and sources."""
    sources = check.sources()
    lines = [f"- `{f.name}` = {f.default:g}: {sources[f.name]}." for f in dataclasses.fields(check)]
    if not lines:
        return "The threshold is 0; it has no setting.\n"
    how = ", ".join(f"{f.name}={f.default:g}" for f in dataclasses.fields(check))
    return "\n".join([*lines, "", f'Others: `check(..., using=[get("{check.code}")({how})])`.\n'])


def parse(doc: str) -> tuple[str, dict[str, str]]:
    """The first sentence, and the parts by their title, each as one paragraph."""
    for role in ROLES:
        doc = doc.replace(f"{{{role}}}", control(role))
    found = re.split(r"^(Number|Why|Next|References):\n", doc, flags=re.MULTILINE)
    parts = {name: " ".join(text.split()) for name, text in zip(found[1::2], found[2::2], strict=True)}
    cited = {n: t if n == "References" else re.sub(r"\[(\w+\d{4})\]", r"\1", t) for n, t in parts.items()}
    return " ".join(found[0].split()), cited


def index() -> str:
    """The list of all checks, below what is written by hand."""
    rows = ["| code | severity | finding |", "|---|---|---|"]
    rows += [f"| [{c}]({c.lower()}.md) | {get(c).severity} | {get(c).title} |" for c in own()]
    text = INTRODUCTION.read_text(encoding="utf-8")
    return "\n".join(
        [NOTE, "# Checks\n", text.partition("\n## ")[0].strip(), "", *rows, "", "## " + text.partition("\n## ")[2]]
    )


def main(arguments: list[str] | None = None) -> int:
    """Write the pages, or with --check tell which are not up to date."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--check", action="store_true", help="write nothing; exit code 1 if a page is not up to date")
    only_check = parser.parse_args(arguments).check
    made = pages()
    left = [p.relative_to(ROOT) for p in sorted((ROOT / DOCS).glob("*.md")) if p.relative_to(ROOT) not in made]
    stale = update({ROOT / path: text for path, text in made.items()}, ROOT, "check_pages.py", only_check)
    for path in left:
        print(f"no such check: {path}")
        if not only_check:
            (ROOT / path).unlink()
    return 1 if only_check and (stale or left) else 0


if __name__ == "__main__":
    raise SystemExit(main())
