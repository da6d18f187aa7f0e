"""``equimodal demo``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from equimodal.cli._compare import run_and_report
from equimodal.cli._main import Context
from equimodal.cli._parser import CommandParser, whole_numbers
from equimodal.cli._shared import add_parts, featured, recipe
from equimodal.report import required_controls
from equimodal.studies import DataConfig, Entry, ModelConfig, StudyConfig, TrainingConfig
from equimodal.studies.runs import plain, read_yaml

_ABOUT = """Train {methods} on the embedded dataset avdigits (handwritten and spoken digits),
print one table and write an HTML report. Interrupted, it continues when it is called again."""


def run(argv: Sequence[str], context: Context) -> int:
    """Train, print, report."""
    controls = required_controls()
    methods = [controls["reference"], controls["independent"], *featured()]
    parser = CommandParser("demo", _ABOUT.format(methods=f"{', '.join(methods[:-1])} and {methods[-1]}"))
    parser.add("--out", str | None, None, "Folder; default: equimodal-demo, or the next number if that is finished.")
    parser.add("--seeds", whole_numbers, [0, 1], "One run per method and seed.")
    parser.add("--workers", int, 2, "Processes, each with one thread.")
    add_parts(parser, data=False)
    parser.defaults(recipe("avdigits"))
    values = parser.parse(argv)
    config = StudyConfig(
        {name: Entry(name) for name in methods},
        values["seeds"],
        DataConfig("avdigits"),
        ModelConfig(**values["model"]),
        TrainingConfig(**values["training"]),
        controls=False,
    )
    folder = Path(values["out"]) if values["out"] else _folder(config)
    if not context.quiet:
        runs = len(methods) * len(config.seeds)
        print(
            f"{', '.join(methods)} on avdigits, {runs} runs of {config.training.epochs} epochs, in {folder}",
            flush=True,
        )
    return run_and_report(config, folder, values["workers"], context, " ".join(["equimodal demo", *argv]))


def _folder(config: StudyConfig) -> Path:
    """The first of equimodal-demo, equimodal-demo-2 ... that is new, or holds this demo unfinished."""
    number = 1
    while True:
        folder = Path("equimodal-demo" if number == 1 else f"equimodal-demo-{number}")
        if not folder.exists() or (not (folder / "report.html").exists() and _same(config, folder)):
            return folder
        number += 1


def _same(config: StudyConfig, folder: Path) -> bool:
    known = folder / "study.yaml"
    if not known.exists():
        return not any(folder.iterdir())
    stored = read_yaml(known)
    parts = {"data": config.data, "model": config.model, "training": config.training}
    return all(stored.get(name) == plain(vars(part)) for name, part in parts.items())
