"""``equimodal report``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from equimodal.cli._main import Context
from equimodal.cli._parser import CommandParser
from equimodal.studies import load_study

_ABOUT = """Write the report of a comparison again, from its study.json: the answer in words, the leaderboard, curves,
and a section for every run, in one HTML file. Example: equimodal report equimodal-demo"""


def run(argv: Sequence[str], _: Context) -> int:
    """Write the page; its path is printed last."""
    from equimodal.report import render_report, verdict
    from equimodal.studies.comparisons import with_evaluations

    parser = CommandParser("report", _ABOUT, "STUDY", config=False)
    parser.add("study", str, text="Folder of a comparison (of equimodal compare or demo).")
    parser.add("--out", str | None, None, "File to write; default report.html in that folder.")
    values = parser.parse(argv)
    folder = Path(values["study"])
    study = with_evaluations(load_study(folder), folder)
    print(f"{verdict(study, folder)}\n")
    print(render_report(study, Path(values["out"] or folder / "report.html"), folder))
    return 0
