"""``equimodal demo``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from equimodal.cli._compare import run_and_report
from equimodal.cli._main import Context
from equimodal.cli._parser import CommandParser, whole_numbers
from equimodal.cli._shared import add_parts, featured, recipe
from equimodal.studies import DataConfig, Entry, ModelConfig, StudyConfig, TrainingConfig
from equimodal.studies.runs import plain, read_yaml
from equimodal.studies.setup import build_data

_ABOUT = """Train {methods} and all controls on the embedded dataset avdigits (handwritten and spoken digits),
print one table, a verdict and the commands for your own data, and write an HTML report. Interrupted, it continues when
it is called again."""
_ADVICE = """On your own data, a table of numbers, texts and paths of pictures:
  equimodal fit TABLE.csv --target COLUMN
arrays (equimodal data bundle --help says how they become DATA.npz):
  equimodal compare --data DATA.npz --methods {methods} --out study"""


def run(argv: Sequence[str], context: Context) -> int:
    """Train, print, report."""
    methods = featured()
    parser = CommandParser("demo", _ABOUT.format(methods=", ".join(methods)))
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
    )
    folder = Path(values["out"]) if values["out"] else _folder(config)
    if not context.quiet:
        runs = len(config.cells(build_data(config.data)))
        print(
            f"{', '.join(methods)} and the controls on avdigits, {runs} runs of {config.training.epochs} epochs, "
            f"in {folder}",
            flush=True,
        )
    resume = " ".join(["equimodal demo", *argv])
    advice = _ADVICE.format(methods=",".join(methods))
    return run_and_report(config, folder, values["workers"], context, resume, advice=advice)


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
