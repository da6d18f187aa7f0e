"""Write the pages that follow from the code: a page per method from the registry, docs/reference.md from `__all__`.

`python tools/method_pages.py` writes what has changed. With `--check` it writes nothing, and its exit code is 1 if a
page is missing, stale or left over.
"""

from __future__ import annotations

import argparse
import importlib
import inspect
import re
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import ModuleType

from docstring_parser.common import DocstringMeta
from docstring_parser.google import GoogleParser, Section, SectionType
from generated import update
from method_results import measured, published

from equimodal.errors import EquimodalError
from equimodal.methods import Method, Within, available, get
from equimodal.methods._options import BASE, Option, options_of

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = (
    "equimodal",
    "equimodal.methods",
    "equimodal.tasks",
    "equimodal.functional",
    "equimodal.fusion",
    "equimodal.unimodal",
    "equimodal.encoders",
    "equimodal.data",
    "equimodal.data.prepare",
    "equimodal.data.augment",
    "equimodal.diagnostics",
    "equimodal.studies",
    "equimodal.report",
    "equimodal.lightning",
    "equimodal.errors",
    "equimodal.engine",
    "equimodal.inference",
    "equimodal.testing",
)
NOTE = "<!-- Written by tools/method_pages.py. Change the docstring, then run it again. -->\n"
SECTIONS = (
    *(Section(title, title.lower(), SectionType.MULTIPLE) for title in ("Args", "Raises", "Warns")),
    *(Section(title, title.lower(), SectionType.SINGULAR) for title in ("Returns", "Example", "References", "Shapes")),
)
HAND_WRITTEN = {"index.md"}
PICTURE = """\
![Validation accuracy of {name} over the epochs on avdigits, and of each modality, with Joint and Ensemble in \
grey](../images/methods/{file}.svg)

*Validation accuracy on MNIST digits paired with recorded ones: the prediction, and each modality alone. In grey the
controls. One seed, six epochs, the same encoders and budget for every method, defaults, nothing tuned: it shows how the
method behaves, not how good it is. Made by `scripts/method_pictures.py`; scores with intervals:
[benchmarks](../benchmarks.md).*
"""


def pages() -> dict[Path, str]:
    """Path below the repository -> text of every generated page."""
    made = {
        Path("docs/methods") / f"{name.lower()}.md": method_page(name, get(name)) for name in available(outside=False)
    }
    made[Path("docs/reference.md")] = reference_page()
    return made


# ---- one method -----------------------------------------------------------------------------------------------------


def method_page(name: str, method: type[Method]) -> str:
    info = method.info
    body, sections = parse(inspect.getdoc(method) or "")
    lines = [NOTE, f"# {name}: {info.title}\n"]
    lines.append(f"`from equimodal.methods import {name}`" + (" (a control)\n" if info.control else "\n"))
    facts = {
        "Paper": info.paper,
        "Computed": info.equations,
        "Family": info.family,
        "Tasks": ", ".join(info.tasks),
        "Modalities": info.modalities,
        "Fusion and head": info.fusion,
        "Absent modalities": info.missing,
        "Cost of a step": info.cost,
    } | ({"Order of the encoders": info.order} if info.order else {})
    lines.append("| | |\n|---|---|\n" + "\n".join(f"| {k} | {cell(v)} |" for k, v in facts.items()) + "\n")
    lines.append(markdown(body) + "\n")
    if (ROOT / f"docs/images/methods/{name.lower()}.svg").exists():
        lines.append(PICTURE.format(name=name, file=name.lower()))
    lines.append("## Arguments\n")
    lines.append("`model` and `task` come first; all others are keyword-only.\n")
    lines.append(arguments(method, sections.get("Args", "")) + "\n")
    for title, key in (("Errors", "Raises"), ("Warnings", "Warns")):
        if key in sections:
            lines.append(f"## {title}\n")
            entries = [f"- `{kind}`: {markdown(text)}" for kind, text in named(sections[key]).items()]
            lines.append("\n".join(entries) + "\n")
    lines += [*measured(name), *published(name)]
    lines.append("## What differs\n")
    lines.append("From the paper:\n\n" + bullets(info.deviations))
    lines.append("Authors' released code, against the paper:\n\n" + bullets(info.released))
    lines.append(f"Consulted, for facts only: {info.consulted}.\n")
    if "Example" in sections:
        lines.append("## Example\n")
        lines.append(f"```pycon\n{sections['Example'][0].description}\n```\n")
    return "\n".join(lines)


def arguments(method: type[Method], text: Iterable[DocstringMeta]) -> str:
    """An entry for each option: its default, what the docstring says, its choices or range, the default's source."""
    described, options = named(text), options_of(method.__init__)
    lines, general = [], []
    for name, parameter in inspect.signature(method.__init__).parameters.items():
        if name in ("self", "model", "task"):
            continue
        default = "" if parameter.default is inspect.Parameter.empty else f" = `{parameter.default!r}`"
        option = options.get(name, Option())
        source = option.source or method.info.defaults.get(name)
        where = f" *Default: {source}.*" if source else ""
        if name in BASE and name not in described:
            general.append(f"`{name}`{default}" + (f" ({source})" if source else ""))
            continue
        if name not in described:
            raise SystemExit(f"{method.__name__}: the docstring does not say what `{name}` is.")
        allowed = f" One of {', '.join(f'`{c!r}`' for c in option.choices)}." if option.choices else ""
        allowed += f" {bounds(option.range)}." if option.range is not None and bounds(option.range) else ""
        lines.append(f"- **`{name}`**{default}: {markdown(described[name])}{allowed}{where}")
    if general:
        lines.append(f"- As for every method ([common arguments](index.md#common-to-all)): {', '.join(general)}.")
    return "\n".join(lines)


def bounds(within: Within) -> str:
    """The range of a number in words."""
    signs = {"above": ">", "at_least": ">=", "below": "<", "at_most": "<="}
    limits = [f"{sign} {getattr(within, key):g}" for key, sign in signs.items() if getattr(within, key) is not None]
    kind = "A whole number" if within.whole else "A number"
    return f"{kind} {' and '.join(limits)}" if limits else "A whole number" if within.whole else ""


def bullets(entries: tuple[str, ...]) -> str:
    return "\n".join(f"- {entry}" for entry in entries) + "\n"


def cell(text: str) -> str:
    return text.replace("|", "\\|")


# ---- docstrings -----------------------------------------------------------------------------------------------------


def parse(doc: str) -> tuple[str, dict[str, list[DocstringMeta]]]:
    """Prose of a Google-style docstring, also after its sections, and what the sections have, by title."""
    titles = "|".join(section.title for section in SECTIONS)
    prose = re.sub(rf"^(?:{titles}):\n(?:[ ].*\n?|\n)*", "", doc, flags=re.MULTILINE).strip()
    keys = {section.key: section.title for section in SECTIONS}
    sections: dict[str, list[DocstringMeta]] = {}
    for part in GoogleParser(list(SECTIONS)).parse(doc).meta:
        sections.setdefault(keys[part.args[0]], []).append(part)
    return prose, sections


def named(section: Iterable[DocstringMeta]) -> dict[str, str]:
    """The entries `name: text` of a section."""
    return {part.args[1]: " ".join((part.description or "").split()) for part in section}


def markdown(text: str) -> str:
    """reStructuredText as our docstrings use it, as Markdown with GitHub's mathematics."""
    text = re.sub(r"\.\. math::\s*\n?((?:.+\n?)+)", _display, text)
    text = re.sub(r":math:`([^`]+)`", r"$\1$", text)
    text = re.sub(r":\w+:`~?([^`]+)`", lambda m: f"`{m[1].removeprefix('equimodal.')}`", text)
    text = re.sub(r"\[(\w+\d{4})\]_?", r"\1", text)
    return text.replace("``", "`")


def _display(match: re.Match[str]) -> str:
    return "$$" + " ".join(line.strip() for line in match[1].strip().splitlines()) + "$$\n"


# ---- the reference ---------------------------------------------------------------------------------------------------


def reference_page() -> str:
    lines = [NOTE, "# Reference\n"]
    lines.append(
        "Every public name with its first sentence. `help(name)` shows the rest: formula, shapes, defaults, errors\n"
        "and a short example. Methods have [pages of their own](methods/index.md).\n"
    )
    for package in PACKAGES:
        module = importlib.import_module(package)
        lines.append(f"## {package}\n")
        lines.append(f"{summary(module)}\n")
        lines += [entry(module, name) for name in public(module)]
        lines.append("")
    return "\n".join(lines)


def public(module: ModuleType) -> list[str]:
    names = getattr(module, "__all__", None)
    if names is None:
        names = [n for n, v in vars(module).items() if not n.startswith("_") and _is_own(v, module)]
    return [n for n in names if not n.startswith("_")]


def _is_own(value: object, module: ModuleType) -> bool:
    return (inspect.isclass(value) or inspect.isfunction(value)) and value.__module__ == module.__name__


def entry(module: ModuleType, name: str) -> str:
    value = getattr(module, name)
    if isinstance(value, Mapping) and any(" at 0x" in repr(entry) for entry in value.values()):
        return f"- **`{name}`**: for {', '.join(f'`{key}`' for key in value)}"
    if not (inspect.isclass(value) or inspect.isfunction(value)):
        text = re.sub(r"\bequimodal\.[\w.]*\b_\w+\.", "", repr(value))  # the private file of a public name
        return f"- **`{name}`**: `{text}`".replace("typing.", "")
    return f"- **`{name}{signature(value)}`**: {summary(value)}"


def signature(value: object) -> str:
    if inspect.isclass(value) and (issubclass(value, Exception) or getattr(value, "_is_protocol", False)):
        return ""
    if inspect.isclass(value) and issubclass(value, Method):
        return "(model, task, ...)"
    try:
        parameters = inspect.signature(value).parameters.values()  # type: ignore[arg-type]
    except (ValueError, TypeError):
        return ""
    shown = []
    for p in parameters:
        prefix = "*" if p.kind is p.VAR_POSITIONAL else "**" if p.kind is p.VAR_KEYWORD else ""
        optional = p.default is not inspect.Parameter.empty
        shown.append(f"{prefix}{p.name}" + ("=..." if optional else ""))
    return f"({', '.join(shown)})"


def summary(value: object) -> str:
    doc = inspect.getdoc(value)
    if not doc:
        raise SystemExit(f"{value!r} has no docstring.")
    return markdown(" ".join(doc.split("\n\n")[0].split()))


# ---- the command -----------------------------------------------------------------------------------------------------


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--check", action="store_true", help="write nothing; exit code 1 if a page is not up to date")
    check = parser.parse_args(arguments).check
    try:
        made = pages()
    except (EquimodalError, ImportError) as error:
        print(f"{error}", file=sys.stderr)
        return 2
    known = {p.name for p in made} | HAND_WRITTEN
    left = [p.relative_to(ROOT) for p in sorted((ROOT / "docs/methods").glob("*.md")) if p.name not in known]
    stale = update({ROOT / path: text for path, text in made.items()}, ROOT, "method_pages.py", check)
    for page in left:
        print(f"no such method: {page}")
    return 1 if check and (stale or left) else 0


if __name__ == "__main__":
    raise SystemExit(main())
