"""``equimodal reproduce``."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from equimodal.cli._errors import Interrupted, UsageError
from equimodal.cli._main import Context
from equimodal.cli._parser import CommandParser, comma_list, whole_numbers
from equimodal.cli._progress import Progress
from equimodal.errors import EquimodalError, MissingExtraError, unknown_name
from equimodal.studies import published_table, published_tables
from equimodal.studies.reproduction import (
    Column,
    Plan,
    PublishedTable,
    joint_step_seconds,
    plan_of,
    reproduce,
    source_of,
)

_ABOUT = """Re-make a published table from raw data that you have, under several split protocols side by side. --dry_run
prints the cells, their cost in joint steps and hours, and what cannot be run. Calling it again with the same folder
continues. Example: equimodal reproduce {name} --data CREMA-D --dry_run"""


def run(argv: Sequence[str], context: Context) -> int:
    """Plan or run; without a name, list the tables."""
    names = published_tables()
    if not argv or argv[0] in ("-h", "--help"):
        print("usage: equimodal reproduce TABLE --data DIR [options]\n")
        for name in names:
            table = published_table(name)
            print(f"  {name}  {table.title}: {len(table.rows)} rows, {'; '.join(table.columns)}")
        print("\nTABLE may also be the path of a YAML file. equimodal reproduce TABLE --help shows the options.")
        return 0 if argv else 2
    if argv[0].startswith("-"):
        raise UsageError(f"equimodal reproduce: error: the name of the table comes first: {', '.join(names)}")
    table = published_table(argv[0])
    values = _parser(argv[0]).parse([_underscores(argument) for argument in argv[1:]])
    if values["data"] is None:
        raise UsageError("equimodal reproduce: error: --data is missing. Name the raw download or a bundle: --data DIR")
    name = _one_of("column", values["column"] or next(iter(table.columns)), list(table.columns))
    column = table.columns[name]
    rows = [_one_of("row", row, list(table.rows)) for row in values["rows"] or table.rows]
    protocols = [_one_of("protocol", p, list(column.protocols)) for p in values["protocols"] or column.protocols]
    seeds = values["seeds"] or list(column.seeds)
    parameters = dict(values["prepare"])
    source = source_of(column, Path(values["data"]), parameters)
    plan = plan_of(table, column, source, rows, protocols, seeds)
    if values["dry_run"]:
        _print(table, name, plan, column, _seconds(values["step_seconds"], column, source, parameters))
        return 0
    if values["out"] is None:
        raise UsageError("equimodal reproduce: error: --out is missing. Name the folder for the runs: --out DIR")
    out = Path(values["out"])
    try:
        with Progress(context.quiet) as progress:
            text = reproduce(
                table, name, source, out, rows=rows, protocols=protocols, seeds=seeds, parameters=parameters,
                workers=values["workers"], progress=progress,
            )  # fmt: skip
    except KeyboardInterrupt:
        raise Interrupted(
            f"finished cells are kept. Continue with the same command and --out {shlex.quote(str(out))}"
        ) from None
    print(text)
    print(out / "table.md")
    return 0


def _seconds(given: float | None, column: Column, source: Any, parameters: dict[str, Any]) -> tuple[float | None, str]:
    """Of a joint step, and where the number is from."""
    if given is not None:
        return given, "as given"
    try:
        return joint_step_seconds(column, source, parameters), "measured here, on a few samples"
    except MissingExtraError:
        raise
    except EquimodalError as error:
        return None, f"not measured: {error} Give --step_seconds"


def _print(table: PublishedTable, name: str, plan: Plan, column: Column, measured: tuple[float | None, str]) -> None:
    seconds, how = measured
    print(f"{table.title}: {table.paper}\ncolumn: {name}; {column.training.epochs} epochs, batch "
          f"{column.training.batch_size}\n")  # fmt: skip
    head = ("row", "protocol", "published", "runs", "joint steps", "hours")
    lines = [head]
    for cell in plan.cells:
        number = table.rows[cell.row].numbers.get(name)
        hours = "-" if seconds is None else f"{cell.joint_steps * seconds / 3600:.2f}"
        mark = "" if cell.stated else " (*)"
        lines.append((
            cell.row, cell.protocol, "-" if number is None else f"{number[0]:.1f} ± {number[1]:.1f}", str(cell.runs),
            f"{cell.joint_steps:.0f}{mark}", hours,
        ))  # fmt: skip
    widths = [max(len(line[i]) for line in lines) for i in range(len(head))]
    for line in lines:
        print("  ".join(c.ljust(w) if i < 2 else c.rjust(w) for i, (c, w) in enumerate(zip(line, widths))).rstrip())
    hours = "hours unknown" if seconds is None else f"{plan.joint_steps * seconds / 3600:.2f} hours in one process"
    print(f"\nall: {len(plan.cells)} cells, {plan.joint_steps:.0f} joint steps, {hours}")
    print(f"a joint step: {'-' if seconds is None else f'{seconds:.3f} s'} ({how})")
    if not all(cell.stated for cell in plan.cells):
        print("(*) the method does not state its cost: counted as one joint step")
    for refused, reason in plan.refused.items():
        print(f"refused: {refused}: {reason}")
    if table.note:
        print(table.note)


def _parser(table: str) -> CommandParser:
    parser = CommandParser(f"reproduce {table}", _ABOUT.format(name=table), "--data DIR")
    parser.add("--data", str | None, None, "Folder of the raw download, or of a bundle that is prepared already.")
    parser.flag("--dry_run", "Print cells, joint steps and hours, and what cannot be run; train nothing.")
    parser.add("--out", str | None, None, "Folder of the bundle and the runs; one that is unfinished is continued.")
    parser.add("--column", str | None, None, "Which column; default the first.")
    parser.add("--rows", comma_list, None, "Which rows, by name, separated by commas; default all.")
    parser.add("--protocols", comma_list, None, "Which split protocols; default all of the column.")
    parser.add("--seeds", whole_numbers, None, "One run per row, protocol and seed, as 0,1,2.")
    text = "Parameters of the preparation, as {lists: DIR} or --prepare.lists DIR."
    parser.add("--prepare", dict[str, Any], {}, text)
    parser.add("--step_seconds", float | None, None, "What a joint step takes on your machine; default: measured here.")
    parser.add("--workers", int, 1, "Processes, each with one thread.")
    return parser


def _one_of(kind: str, name: str, known: list[str]) -> str:
    if name not in known:
        raise unknown_name(f"{kind} of the table", name, known)
    return name


def _underscores(argument: str) -> str:
    name, sign, value = argument.partition("=")
    return name.replace("-", "_").replace("__", "--", 1) + sign + value if argument.startswith("--") else argument
