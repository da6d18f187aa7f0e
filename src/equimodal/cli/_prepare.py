"""``equimodal data prepare``, ``data check`` and ``data preset``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from equimodal.cli._errors import Interrupted, UsageError
from equimodal.cli._main import Context
from equimodal.cli._parser import CommandParser
from equimodal.cli._progress import Progress
from equimodal.cli._signature import options_of
from equimodal.data import prepare as preparation

_ENGINE = ("source", "out", "workers", "max_missing", "incomplete")


def prepare(argv: Sequence[str], context: Context) -> int:
    """Prepare a dataset; without its name, list what can be prepared."""
    names = preparation.available()
    if not argv or argv[0] in ("-h", "--help"):
        print("usage: equimodal data prepare NAME --source RAW --out DIR [options]\n")
        width = max(map(len, names))
        for name in names:
            print(f"  {name:<{width}}  {preparation.get(name).facts.summary}")
        print(
            "\nequimodal data prepare NAME --help shows the parameters of a dataset and what its source folder holds."
        )
        return 0 if argv else 2
    name = argv[0]
    if name.startswith("-"):
        raise UsageError(f"equimodal data prepare: error: the name of the dataset comes first: {', '.join(names)}")
    kind = preparation.get(name)
    parser = CommandParser(f"data prepare {name}", _about(name), "--source RAW --out DIR")
    parser.add("--source", str | None, None, "Folder of the raw download.")
    parser.add("--out", str | None, None, "Folder of the bundle; it must not exist. Until it is done: OUT.partial.")
    parser.add("--workers", int | None, None, "Processes that decode; 0: in this one. Default: one per processor.")
    limit = f"Largest share of samples that may be missing or unreadable. Default: {kind.max_missing}."
    parser.add("--max_missing", float | None, None, limit)
    text = f"drop: leave out a sample of which a modality is missing; keep: mark it absent. Default: {kind.incomplete}."
    parser.add("--incomplete", str | None, None, text)
    parser.add_all("", options_of(kind.Parameters), "parameters (default: those of the papers)")
    values = parser.parse([_underscores(argument) for argument in argv[1:]])
    for needed in ("source", "out"):
        if not values[needed]:
            raise UsageError(f"equimodal data prepare: error: --{needed} is missing. See: {parser.see}")
    own = {key: values.pop(key) for key in _ENGINE}
    try:
        with Progress(context.quiet, unit="samples") as progress:
            report = preparation.prepare(name, progress=progress, **_rest(own), **values)
    except KeyboardInterrupt:
        raise Interrupted("what was decoded is kept. Run the same command again to continue.") from None
    if report.resumed and not context.quiet:
        print(f"{report.resumed} samples were there from an earlier call")
    print(report)
    print(report.path)
    return 0


def check(argv: Sequence[str], _: Context) -> int:
    """Compare a bundle with its manifest, and with the raw files."""
    about = "Compare a bundle with its manifest and the raw files, load it under every protocol. Exit code 1: changed."
    parser = CommandParser("data check", about, "DIR", config=False)
    parser.add("path", str, text="A prepared bundle.")
    parser.add("--source", str | None, None, "Folder of the raw download, whose files are hashed again.")
    values = parser.parse(argv)
    report = preparation.check(values["path"], values["source"])
    print(report)
    return 0 if report.ok else 1


def preset(argv: Sequence[str], _: Context) -> int:
    """Print a preset, or the names of all."""
    about = "Print a preset: the options of a paper, for `equimodal train --config`. Without NAME: the names of all."
    parser = CommandParser("data preset", about, "[NAME]", config=False)
    if not argv:
        print("\n".join(preparation.presets()))
        return 0
    parser.add("name", str, text="One of: " + ", ".join(preparation.presets()))
    print(preparation.preset(parser.parse(argv)["name"]), end="")
    return 0


def _about(name: str) -> str:
    kind = preparation.get(name)
    layout = " | ".join(line.strip() for line in kind.facts.layout.splitlines())
    return f"{kind.facts.title}: {kind.facts.summary} Source folder: {layout}. Page: docs/datasets/{name}.md"


def _rest(values: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in values.items() if value is not None}


def _underscores(argument: str) -> str:
    """``--max-missing`` and ``--max_missing`` are the same."""
    name, equals, value = argument.partition("=")
    return (name.replace("-", "_").replace("__", "--", 1) if name.startswith("--") else name) + equals + value
