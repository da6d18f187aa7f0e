"""``equimodal compare``."""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from equimodal.cli._errors import Interrupted, UsageError
from equimodal.cli._main import Context
from equimodal.cli._parser import CommandParser, comma_list, peek, read_config, whole_numbers
from equimodal.cli._progress import Progress
from equimodal.cli._shared import add_metrics, add_parts, add_trust, check_options, featured, recipe
from equimodal.errors import unknown_name
from equimodal.methods import get
from equimodal.studies import (
    DataConfig,
    Entry,
    Executor,
    ModelConfig,
    RayExecutor,
    StudyConfig,
    StudyError,
    TrainingConfig,
    compare,
)
from equimodal.studies.comparisons import EXECUTORS, with_evaluations
from equimodal.studies.runs import write_text
from equimodal.studies.setup import build_data

_PROG = "equimodal compare: error:"
_ABOUT = """Methods x seeds on one dataset with equal budgets, the controls included. Calling it again with the same
folder continues: a finished cell is not run again. Example: equimodal compare --methods {methods} --seeds 0,1,2
--workers 2 --out study. Entries with options come from YAML: entries: {{LABEL: {{method: NAME, options: {{OPTION:
VALUE}}, uses: {{OPTION: LABEL}}}}}}; what an entry uses is trained first."""


def run(argv: Sequence[str], context: Context) -> int:
    """Compare, or continue an unfinished comparison."""
    said = peek(argv, ("data.name", "data.target", "out"))
    stored = _stored(said.get("out"))
    name = said.get("data.name") or stored.get("data", {}).get("name") or "avdigits"
    parser = _parser()
    target = said.get("data.target") or stored.get("data", {}).get("target")
    parser.defaults(recipe(name, target))
    parser.defaults(stored)
    values = parser.parse(argv)
    config = study_config(values)
    if values["list"]:
        print("\n".join(config.order(build_data(config.data))))
        return 0
    if values["out"] is None:
        raise UsageError(f"{_PROG} --out is missing. Name the folder for the comparison: --out DIR")
    where = _executor(values)
    cells = _cells(values, config)
    if values["part"] is not None and not cells:
        return _nothing_to_run(values["part"], config)
    cost = "" if values["cost"] else " --cost false"
    resume = f"equimodal compare --out {shlex.quote(str(values['out']))} --workers {values['workers']}{cost}"
    resume += f" {where.arguments}" if isinstance(where, Executor) else ""
    if cells is not None:
        resume += f" --cells {shlex.quote(','.join(cells))}" if values["part"] is None else f" --part {values['part']}"
    return run_and_report(
        config, Path(values["out"]), values["workers"], context, resume, cost=values["cost"], executor=where,
        cells=cells,
    )  # fmt: skip


def _executor(values: Mapping[str, Any]) -> Executor | str:
    """Where the cells run."""
    if values["executor"] not in EXECUTORS:
        raise unknown_name("executor", values["executor"], EXECUTORS)
    of_cluster = {name: values[name] for name in ("cpus", "gpus", "address") if values[name] is not None}
    if values["executor"] == "ray":
        if values["workers"] != 1:
            raise UsageError(
                f"{_PROG} --workers: expected none with --executor ray, whose cluster decides how many cells run at a "
                f"time. Found {values['workers']}. Leave it out, and give --cpus."
            )
        return RayExecutor(**of_cluster)
    if of_cluster:
        name = next(iter(of_cluster))
        raise UsageError(f"{_PROG} --{name}: expected --executor ray beside it. Found {values['executor']}.")
    return str(values["executor"])


def _cells(values: Mapping[str, Any], config: StudyConfig) -> list[str] | None:
    """The cells of this call; ``None`` for all, with no other process beside it."""
    if values["part"] is None:
        named: list[str] | None = values["cells"]
        if named is not None and not named:
            raise UsageError(f"{_PROG} --cells: expected names, as LABEL/seed0. Found none. --list prints them.")
        return named
    found = re.fullmatch(r"(\d+)/(\d+)", str(values["part"]))
    if values["cells"] is not None or found is None or not 1 <= int(found[1]) <= int(found[2]):
        said = values["part"] if values["cells"] is None else f"{values['part']} beside --cells"
        raise UsageError(f"{_PROG} --part: expected I/N, the part I of N, from 1/N to N/N. Found {said}.")
    return config.order(build_data(config.data))[int(found[1]) - 1 :: int(found[2])]


def _nothing_to_run(part: str, config: StudyConfig) -> int:
    """Say that there are fewer cells than parts."""
    count, parts = len(config.order(build_data(config.data))), part.partition("/")[2]
    named = f"part 1/{parts} has it" if count == 1 else f"the parts 1/{parts} to {count}/{parts} have one each"
    print(f"part {part} has no cell: the comparison has {count}, and {named}. Nothing was run.")
    return 0


def study_config(values: Mapping[str, Any]) -> StudyConfig:
    """The comparison that the arguments describe."""
    given = dict(values["entries"] or {})
    names = values["methods"] or ([] if given else featured())
    task = build_data(DataConfig(**values["data"])).task if values["recommended"] else None
    entries: dict[str, Entry] = {}
    for name in names:
        method = get(name)
        advice = {} if task is None else method.recommended(task)
        entries[f"{method.__name__}, recommended" if advice else method.__name__] = Entry(method.__name__, advice)
    for label, entry in given.items():
        own = _entry(label, entry)
        advice = {} if task is None else get(own.method).recommended(task)
        entries[label] = replace(own, options={**advice, **own.options})
    return StudyConfig(
        entries,
        values["seeds"],
        DataConfig(**values["data"]),
        ModelConfig(**values["model"]),
        TrainingConfig(**values["training"]),
        values["controls"],
        values["metrics"],
    )


def run_and_report(
    config: StudyConfig,
    folder: Path,
    workers: int,
    context: Context,
    resume: str,
    *,
    cost: bool = True,
    advice: str = "",
    executor: Executor | str = "local",
    cells: Sequence[str] | None = None,
) -> int:
    """Run what is not finished, print table, verdict and ``advice``, write the reports; their path is printed last.

    Of a part of the cells it says how far the comparison is.
    """
    from equimodal.report import markdown_table, render_report, text_table, verdict

    failed: StudyError | None = None
    try:
        with Progress(context.quiet) as progress:
            study = compare(config, folder, workers=workers, progress=progress, cost=cost, executor=executor,
                            cells=cells)  # fmt: skip
    except KeyboardInterrupt:
        raise Interrupted(f"finished cells are kept. Continue with: {resume}") from None
    except StudyError as error:
        failed, study = error, error.study
    if cells is not None:
        missing = sum(reason.startswith(("failed:", "not finished:")) for reason in study["incomplete"])
        there = len(study["runs"])
        print(f"{there} of {there + missing} cells finished. Their report: equimodal report {shlex.quote(str(folder))}")
        if failed is not None:
            raise failed
        return 0
    if study["rows"]:
        study = with_evaluations(study, folder)
        print(f"{text_table(study)}\n\n{verdict(study, folder)}\n")
        write_text(folder / "table.md", f"{markdown_table(study)}\n{verdict(study, folder)}\n")
        render_report(study, folder / "report.html")
    if failed is not None:
        raise failed
    if advice:
        print(f"{advice}\n")
    print(f"report: {folder / 'report.html'}" if sys.stdout.isatty() else folder / "report.html")
    return 0


def _parser() -> CommandParser:
    methods = ",".join(featured())
    parser = CommandParser("compare", _ABOUT.format(methods=methods))
    parser.add("--methods", comma_list, None, f"Names, as {methods} (the default where there are no entries).")
    parser.add("--entries", dict[str, Any] | None, None, "Label -> {method, options, uses}; best given in a YAML file.")
    parser.add("--seeds", whole_numbers, [0, 1, 2, 3, 4], "One run per entry and seed, as 0,1,2.")
    parser.add("--controls", bool, True, "Add the controls, without which a comparison proves nothing.")
    text = "Give each method and entry the options that it recommends for the task; those of an entry count."
    parser.flag("--recommended", text)
    parser.add("--cost", bool, True, "Measure the cost of each entry in joint steps first.")
    parser.add("--workers", int, 1, "Processes, each with one thread.")
    parser.add("--executor", str, "local", "Where the cells run: local, or ray, on a cluster.")
    parser.add("--cpus", float | None, None, "With ray: CPUs of a cell, and its threads (1).")
    parser.add("--gpus", float | None, None, "With ray: GPUs of a cell (0); a fraction where cells share one.")
    parser.add("--address", str | None, None, "With ray: address of the cluster; local starts one on this machine.")
    parser.flag("--list", "Print the names of the cells, those that others use first, and run none.")
    text = "Names of cells, as LABEL/seed0: run these and what they use, while other processes run others."
    parser.add("--cells", comma_list, None, text)
    parser.add("--part", str | None, None, "I/N: run the part I of N parts, while other processes run the others.")
    parser.add("--out", str | None, None, "Folder of the comparison; one that is unfinished is continued.")
    add_trust(parser)
    add_metrics(parser)
    add_parts(parser)
    return parser


def _stored(out: str | None) -> dict[str, Any]:
    known = Path(out) / "study.yaml" if out else None
    return read_config(known, StudyConfig) if known is not None and known.is_file() else {}


def _entry(label: str, entry: Any) -> Entry:
    if not isinstance(entry, Mapping) or "method" not in entry:
        raise UsageError(f"{_PROG} entry {label!r}: expected {{method: NAME, options: {{...}}}}.")
    for key in entry:
        if key not in ("method", "options", "uses"):
            raise unknown_name(f"field of entry {label!r}", str(key), ("method", "options", "uses"))
    name = get(str(entry["method"])).__name__
    return Entry(name, check_options(label, name, entry.get("options") or {}), entry.get("uses") or {})
