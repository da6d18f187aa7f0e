"""``equimodal report``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from equimodal.cli._main import Context
from equimodal.cli._parser import CommandParser
from equimodal.errors import DataError
from equimodal.studies import load_study

_ABOUT = """Write the report of a comparison again, from its study.json: the answer in words, the leaderboard, curves,
and a section for every run, in one HTML file. A finished run has one too. Example: equimodal report equimodal-demo"""


def run(argv: Sequence[str], _: Context) -> int:
    """Write the page; its path is printed last."""
    from equimodal.report import render_report, verdict
    from equimodal.studies.comparisons import study_of_run, with_evaluations

    parser = CommandParser("report", _ABOUT, "STUDY", config=False)
    parser.add("study", str, text="Folder of a comparison (equimodal compare, demo), or of a run (train, fit).")
    parser.add("--out", str | None, None, "File to write; default report.html in that folder.")
    values = parser.parse(argv)
    folder = Path(values["study"])
    if (folder / "config.yaml").is_file():
        study = study_of_run(folder)
    elif not (folder / "study.json").is_file():
        raise DataError(
            f"`{folder}`: expected the folder of a comparison (study.json) or of a finished run (config.yaml). Found "
            "neither. Check the path; a comparison that was interrupted goes on with equimodal compare --out FOLDER."
        )
    else:
        study = with_evaluations(load_study(folder), folder)
    print(f"{verdict(study, folder)}\n")
    print(render_report(study, Path(values["out"] or folder / "report.html"), folder))
    return 0
