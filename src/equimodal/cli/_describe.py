"""``equimodal describe METHOD``."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

from equimodal.cli._main import Context
from equimodal.cli._parser import CommandParser
from equimodal.cli._shared import cli_options
from equimodal.cli._signature import plain_text, type_name
from equimodal.methods import Method, get
from equimodal.report import required_controls
from equimodal.tasks import Classification, MultiLabel, Regression, Segmentation


def run(argv: Sequence[str], _: Context) -> int:
    """Print everything the registry knows about a method."""
    about = f"Everything about a method. Example: equimodal describe {required_controls()['reference']}"
    parser = CommandParser("describe", about, "METHOD", config=False)
    parser.add("method", str, text="Name of a method; equimodal list shows them.")
    print(describe(parser.parse(argv)["method"]))
    return 0


def describe(name: str) -> str:
    """The text for one method."""
    method = get(name)
    info = method.info
    options, python_only = cli_options(name)
    lines = [f"{method.__name__}: {info.title}{' (a control)' if info.control else ''}", ""]
    facts = {
        "paper": info.paper, "computes": info.equations, "family": info.family, "tasks": ", ".join(info.tasks),
        "modalities": info.modalities, "fusion": info.fusion, "absent modalities": info.missing, "cost": info.cost,
        "consulted": info.consulted, "order of the encoders": info.order,
    }  # fmt: skip
    for title, text in facts.items():
        lines += [] if not text else _wrapped(f"{title}: {text}", "")
    for title, entries in (
        ("differs from the paper", info.deviations),
        ("differs in the released code", info.released),
    ):
        lines.append(f"{title}:")
        for entry in entries:
            lines += _wrapped(f"- {entry}", "  ")
    lines += ["", "options (--options.NAME VALUE, or options: in YAML):"]
    for option in options.values():
        source = info.defaults.get(option.name.split(".")[0] if option.name not in info.defaults else option.name)
        default = "null" if option.default is None else option.default
        lines += _wrapped(f"{option.name} ({type_name(option.hint)}, default {default}): {option.text}", "  ")
        if source:
            lines += _wrapped(f"source of the default: {source}", "      ")
    for tasks, advice in _advice(method).items():
        lines += _wrapped(f"recommended for {tasks} (--recommended): {advice or 'the defaults'}", "  ")
    if python_only:
        lines += _wrapped(f"from Python only: {', '.join(python_only)}", "  ")
    return "\n".join(plain_text(line) if line and line[0] != " " else line for line in lines)


def _advice(method: type[Method]) -> dict[str, str]:
    """Names of tasks -> the options that are recommended for them."""
    usual = (Classification(2), MultiLabel(2), Regression(), Segmentation(2))
    found: dict[str, list[str]] = {}
    for task in usual:
        if task.name in method.info.tasks:
            options = {n: "null" if v is None else v for n, v in method.recommended(task).items()}
            found.setdefault(", ".join(f"{n} {v}" for n, v in options.items()), []).append(task.name)
    return {", ".join(names): advice for advice, names in found.items()}


def _wrapped(text: str, indent: str) -> list[str]:
    return textwrap.wrap(text, 110, initial_indent=indent, subsequent_indent=indent + "    ", break_long_words=False)
