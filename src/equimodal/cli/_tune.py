"""``equimodal tune``."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from equimodal.cli._errors import Interrupted, UsageError
from equimodal.cli._main import Context
from equimodal.cli._parser import CommandParser, comma_list, peek, read_config
from equimodal.cli._progress import Progress
from equimodal.cli._shared import add_parts, recipe
from equimodal.cli._signature import options_of
from equimodal.studies import DataConfig, ModelConfig, TrainingConfig, TuneConfig, tune

_ABOUT = """Search for the best composition of method, fusion, learning rate, options and sharpness on a dataset, with a
budget in joint epochs; controls first. Says whether it beats the best control, and reads the test split once, at the
end. Calling it again with the same folder continues. Example: equimodal tune --data avdigits --budget 60 --out study"""
_LISTS = ("methods", "fusions")


def run(argv: Sequence[str], context: Context) -> int:
    """Tune, or continue an unfinished tuning."""
    said = peek(argv, ("data.name", "data.target", "out"))
    stored = _stored(said.get("out"))
    name = said.get("data.name") or stored.get("data", {}).get("name") or "avdigits"
    target = said.get("data.target") or stored.get("data", {}).get("target")
    parser = _parser()
    parser.defaults(recipe(name, target))
    parser.defaults(stored)
    values = parser.parse(argv)
    out, workers = values.pop("out"), values.pop("workers")
    if out is None:
        raise UsageError("equimodal tune: error: --out is missing. Name the folder for the tuning: --out DIR")
    parts = {"data": DataConfig, "model": ModelConfig, "training": TrainingConfig}
    config = TuneConfig(**{k: parts[k](**v) if k in parts else v for k, v in values.items()})
    return _tune(config, Path(out), workers, context)


def _tune(config: TuneConfig, folder: Path, workers: int, context: Context) -> int:
    from equimodal.report import render_tuning, tuning_table

    try:
        with Progress(context.quiet, unit="joint epochs") as progress:
            record = tune(config, folder, workers=workers, progress=progress)
    except KeyboardInterrupt:
        raise Interrupted(
            f"trials are kept up to their last whole epoch. Continue with: "
            f"equimodal tune --out {shlex.quote(str(folder))} --workers "
            f"{workers}"
        ) from None
    print(tuning_table(record))
    for command in record["commands"]:
        print(f"next: {command}")
    page = render_tuning(record, folder / "report.html")
    print(f"report: {page}" if sys.stdout.isatty() else page)
    return 0


def _parser() -> CommandParser:
    parser = CommandParser("tune", _ABOUT)
    for name, option in options_of(TuneConfig).items():
        if name not in ("data", "model", "training"):
            hint: Any = comma_list if name in _LISTS else option.hint
            parser.add(f"--{name}", hint, option.default, option.text)
    parser.add("--workers", int, 1, "Processes, each with one thread; with 1 a seed gives the same result again.")
    parser.add("--out", str | None, None, "Folder of the tuning; one that is unfinished is continued.")
    add_parts(parser)
    return parser


def _stored(out: str | None) -> dict[str, Any]:
    known = Path(out) / "tune.yaml" if out else None
    return read_config(known) if known is not None and known.is_file() else {}
