"""``equimodal check``."""

from __future__ import annotations

import importlib
import json
import os
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from equimodal._utils.printing import printable
from equimodal.cli._errors import UsageError
from equimodal.cli._main import Context
from equimodal.cli._parser import CommandParser, comma_list
from equimodal.diagnostics import Report, check
from equimodal.diagnostics.checks import muted_codes
from equimodal.errors import EquimodalError
from equimodal.studies import check_folder

_ABOUT = """What is wrong with a trained model: numbered findings, each with its number, its reason and the next step.
Of a run's folder, a comparison's folder, or a model in memory (MODULE:FUNCTION, which returns what
equimodal.diagnostics.check takes, as a mapping). Example: equimodal check runs/one --ignore EQ005"""
_MODEL = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")
_COLOURS = {"error": "bold red", "warning": "yellow", "note": "cyan"}


def run(argv: Sequence[str], _: Context) -> int:
    """Check, print, and with ``--strict`` answer with the exit code."""
    values = _parser().parse(argv)
    ignore = muted_codes(values["ignore"])
    options: dict[str, Any] = {"ignore": ignore, "fast": values["fast"]}
    target = str(values["target"])
    if _MODEL.fullmatch(target) and not Path(target).exists():
        if values["records"]:
            raise UsageError("equimodal check: error: --records: expected a folder beside it. A model has no records.")
        report = check(**{**_arguments(target), **options})
    else:
        report = check_folder(target, **options, records_only=values["records"])
    if values["format"] == "json":
        print(json.dumps(report.record(), indent=2, sort_keys=True))
    else:
        _show(report)
    return 1 if values["strict"] and report.findings else 0


def _parser() -> CommandParser:
    parser = CommandParser("check", _ABOUT, "RUN|STUDY|MODEL", config=False)
    parser.add("target", str, text="Folder of a finished run or of a comparison, or MODULE:FUNCTION.")
    parser.add("--ignore", comma_list, [], "Leave these checks out: EQ003,EQ010.")
    parser.add("--format", Literal["text", "json"], "text", "For people, or for programs.")
    parser.flag("--fast", "Leave out what trains or takes gradients.")
    parser.flag("--records", "Read records only; load neither data nor model.")
    parser.flag("--strict", "Exit code 1 if there is a finding.")
    return parser


def _arguments(name: str) -> dict[str, Any]:
    """What the function says; its module is looked for in the current directory too.

    Raises:
        UsageError: there is no such module or function, it fails, or it returns something else.
    """
    module, _, function = name.partition(":")
    here = os.getcwd()  # noqa: PTH109 (an entry of sys.path)
    sys.path.insert(0, here)
    try:
        made = getattr(importlib.import_module(module), function)()
    except EquimodalError:
        raise
    except Exception as error:
        said = " ".join(str(error).split())
        raise UsageError(
            f"equimodal check: error: `{name}`: expected a folder, or a function that returns a model and its data. "
            f"Found {type(error).__name__}: {said}."
        ) from error
    finally:
        sys.path.remove(here)
    known = ("model", "train", "validation", "test", "task", "alone", "rivals", "optimizer", "groups", "history")
    if not isinstance(made, Mapping) or "model" not in made or set(made) - set(known):
        found = f"the keys {sorted(map(str, made))}" if isinstance(made, Mapping) else type(made).__name__
        raise UsageError(
            f"equimodal check: error: `{name}`: expected a mapping with `model`, and some of {', '.join(known[1:])}. "
            f"Found {found}."
        )
    return dict(made)


def _show(report: Report) -> None:
    stream = getattr(sys.stdout, "stream", sys.stdout)
    if not stream.isatty():
        print(report)
        return
    try:
        from rich.console import Console
        from rich.text import Text
    except ImportError:
        print(report)
        return
    sys.stdout.flush()
    console = Console(file=stream, highlight=False)
    for line in str(report).splitlines():
        shown = Text(
            printable(line) if line.strip() == line else line[: len(line) - len(line.lstrip())] + printable(line)
        )
        match = re.match(r"(error|warning|note) \[", line)
        if match:
            shown.stylize(_COLOURS[match[1]])
        elif line.lstrip().startswith("next:"):
            shown.stylize("green")
        elif line.lstrip().startswith("more:"):
            shown.stylize("dim")
        console.print(shown)
