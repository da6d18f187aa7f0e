"""``equimodal report``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from equimodal.cli._errors import UsageError
from equimodal.cli._main import Context
from equimodal.cli._parser import CommandParser
from equimodal.errors import DataError
from equimodal.report import draw_ranking, format_tables, rank_studies, ranking_text, render_report, verdict
from equimodal.report.formats import FORMATS, TABLES
from equimodal.report.ranking import FIGURES, Budgets
from equimodal.studies import load_study, write_pack
from equimodal.studies.comparisons import study_of_run, with_evaluations
from equimodal.studies.runs import ELSEWHERE, content_of, write_text

_ABOUT = """The report of a finished comparison as a page, as tables for papers and programs, or as a folder for
reviewers; of one finished run, its page; of several comparisons, one per dataset, their ranking. Examples:
equimodal report study --format latex; equimodal report study --pack reviewers; equimodal report digits speech
--figure ranks.pdf"""
_PROG = "equimodal report: error:"
_FORMATS = ("html", *FORMATS)
_OF_ONE, _OF_SEVERAL = ("table", "pack", "entry"), ("figure", "against", "margin", "budgets", "common")


def run(argv: Sequence[str], _: Context) -> int:
    """Write the report of one comparison, or the ranking of several."""
    values = _parser().parse(argv)
    folders = [Path(folder) for folder in values["study"]]
    given = {argument.partition("=")[0].lstrip("-").replace("-", "_") for argument in argv if argument.startswith("--")}
    for option, known in (("format", _FORMATS), ("table", TABLES)):
        if values[option] is not None and values[option] not in known:
            raise UsageError(f"{_PROG} --{option}: expected one of {', '.join(known)}. Found {values[option]!r}.")
    for option in _OF_SEVERAL if len(folders) == 1 else _OF_ONE:
        if option in given:
            count = "several comparisons" if len(folders) == 1 else "one comparison"
            raise UsageError(
                f"{_PROG} --{option}: expected {count}. Found {len(folders)}. Leave it out, or name others."
            )
    if len(folders) == 1 and (folders[0] / "config.yaml").is_file():
        return _of_run(folders[0], values)
    for folder in folders:
        if not (folder / "study.json").is_file():
            found, step = content_of(folder)
            raise DataError(f"`{folder}`: expected the folder of a finished run or comparison. Found {found}. {step}.")
    return _one(folders[0], values) if len(folders) == 1 else _several(folders, values)


def _one(folder: Path, values: dict[str, Any]) -> int:
    if values["pack"] is not None:
        if values["format"] is not None or values["table"] is not None or values["out"] is not None:
            raise UsageError(f"{_PROG} --pack: expected no --format, --table or --out beside it, since a pack holds "
                             "all tables. Leave them out.")  # fmt: skip
        print(write_pack(load_study(folder), folder, Path(values["pack"]), values["entry"]))
        return 0
    if values["entry"] is not None:
        raise UsageError(f"{_PROG} --entry: expected --pack beside it, whose answers are about it. Add --pack FOLDER.")
    format_: Any = values["format"] or "html"
    if values["table"] is not None and format_ in ("html", "json"):
        raise UsageError(f"{_PROG} --table: expected --format markdown, latex or csv beside it. Found {format_}, which "
                         "has all tables. Leave --table out.")  # fmt: skip
    study = load_study(folder)
    if format_ == "html":
        whole = with_evaluations(study, folder)
        print(f"{verdict(whole, folder)}\n")
        print(render_report(whole, Path(values["out"] or folder / "report.html"), folder))
        return 0
    return _written(format_tables(study, format_, values["table"]), values["out"])


def _of_run(folder: Path, values: dict[str, Any]) -> int:
    """The page of one run by itself."""
    if values["format"] not in (None, "html") or any(values[option] is not None for option in _OF_ONE):
        raise UsageError(f"{_PROG} `{folder}`: expected a comparison, which has tables and a pack. Found one run, "
                         "which has a page. Leave --format, --table, --pack and --entry out.")  # fmt: skip
    study = study_of_run(folder)
    print(f"{verdict(study, folder)}\n")
    print(render_report(study, Path(values["out"] or folder / "report.html"), folder))
    return 0


def _several(folders: Sequence[Path], values: dict[str, Any]) -> int:
    format_: Any = values["format"] or "markdown"
    if format_ == "html":
        raise UsageError(
            f"{_PROG} --format: expected markdown, latex, csv or json for several comparisons. Found html."
        )
    figure = values["figure"]
    if figure is not None and Path(figure).suffix.lower() not in FIGURES:
        raise UsageError(f"{_PROG} --figure: expected a file {', '.join(FIGURES)}. Found {figure!r}.")
    studies: dict[str, Any] = {}
    for folder in folders:
        study = load_study(folder)
        name = str((study.get("dataset") or {}).get("name") or folder.name)
        studies[f"{name} ({folder})" if name in studies else name] = study
    ranking = rank_studies(
        studies, against=values["against"], margin=values["margin"], budgets=values["budgets"], common=values["common"]
    )
    code = _written(ranking_text(ranking, format_), values["out"])
    if figure is not None:
        print(draw_ranking(ranking, figure))
    return code


def _written(text: str, out: str | None) -> int:
    if out is None:
        print(text, end="")
    else:
        print(write_text(Path(out), text, ELSEWHERE))
    return 0


def _parser() -> CommandParser:
    parser = CommandParser("report", _ABOUT, "STUDY [STUDY ...]", config=False)
    parser.add("study", str, text="Folder of a comparison, or of a run; several are ranked.", many=True)
    text = "Default: html (STUDY/report.html) for one comparison, markdown for several."
    parser.add("--format", str | None, None, f"{', '.join(_FORMATS)}. {text}")
    text = f"One of the tables: {', '.join(TABLES)}; default all, as CSV the leaderboard."
    parser.add("--table", str | None, None, text)
    parser.add("--out", str | None, None, "File to write; default the standard output, for html STUDY/report.html.")
    parser.add("--pack", str | None, None, "Write a folder for reviewers: tables, figures, configuration, answers.")
    parser.add("--entry", str | None, None, "Which entry the answers of the pack are about; default the best method.")
    parser.add("--figure", str | None, None, "Critical-difference diagram: a .svg, .pdf or .png file.")
    parser.add("--against", str | None, None, "Entry that all others are compared with; default the best control.")
    parser.add("--margin", float, 0.01, "Differences within it count as equivalent, in the unit of the metric.")
    parser.add("--budgets", Budgets, "equal", "own: datasets may have different epochs, batches and rates.")
    parser.flag("--common", "Leave out entries that are not in every comparison.")
    return parser
