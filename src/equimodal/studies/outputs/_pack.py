"""A folder for reviewers: tables, figures, configuration, environment, seeds, costs, hashes, and nine answers."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from equimodal._utils.outside import read_bytes
from equimodal._utils.plain_yaml import text_of
from equimodal._utils.printing import printable
from equimodal.errors import StorageError
from equimodal.report import answers_text, figures_of
from equimodal.report.formats import (
    COLUMNS,
    TABLES,
    csv_text,
    json_text,
    latex_text,
    shown_tables,
    tables_of,
)
from equimodal.studies.runs import (
    is_finished,
    read_json,
    read_metrics,
    read_yaml,
    stored_config,
    text_of_json,
    verify,
    write_bytes,
)
from equimodal.studies.setup import cell_folder

_HINT = "Free space or choose another folder, then make the pack again: nothing of the comparison was changed."
SUMS = "SHA256SUMS"


def write_pack(study: Mapping[str, Any], folder: Path | str, out: Path | str, entry: str | None = None) -> Path:
    """Write the pack of a comparison; the same comparison gives the same bytes.

    Args:
        study: the record of the comparison, as :func:`load_study` gives it.
        folder: of the comparison, whose runs are compared with their hashes.
        out: a folder that is new or empty, or holds an older pack, which is replaced file by file.
        entry: which entry the answers are about; default the best that is no control.

    Returns:
        ``out``.

    Raises:
        DataError: a record is malformed, or a file of a run was changed since.
        UnknownNameError: there is no such entry.
        StorageError: the folder holds anything else, or could not be written.
        MissingExtraError: matplotlib is not installed.
    """
    folder, out = Path(folder), Path(out)
    _refuse_other_content(out)
    files = _files(study, folder, entry)
    sums = "".join(f"{hashlib.sha256(content).hexdigest()}  {name}\n" for name, content in sorted(files.items()))
    for name, content in sorted(files.items()):
        write_bytes(out / name, content, _HINT)
    for path in sorted(_known(out) - set(files)):  # of an older pack
        (out / path).unlink()
    write_bytes(out / SUMS, sums.encode(), _HINT)  # last: with it the pack is whole
    return out


def _files(study: Mapping[str, Any], folder: Path, entry: str | None) -> dict[str, bytes]:
    tables = tables_of(study)
    config = read_yaml(folder / "study.yaml") if (folder / "study.yaml").is_file() else {}
    data = config.get("data")
    name = str(data.get("name") or "DATA") if isinstance(data, Mapping) else "DATA"
    files = {f"figures/{name}": content for name, content in figures_of(study).items()}
    for shown in shown_tables(tables):
        files[f"tables/{shown.name}.tex"] = latex_text([shown], tables.incomplete).encode()
    for table in TABLES:
        files[f"tables/{table}.csv"] = csv_text(tables.table(table), COLUMNS[table]).encode()
    files["tables/tables.json"] = json_text(tables).encode()
    files["tables/all.tex"] = _document([shown.name for shown in shown_tables(tables)])
    files["answers.md"] = answers_text(study, _name(folder), entry, name).encode()
    if config:
        kept = {key: value for key, value in config.items() if key != "directory"}  # where it was started
        files["configuration/study.yaml"] = text_of(kept, "Writing a configuration").encode()
    files |= _of_runs(study, folder, config)
    files["environment/report.json"] = text_of_json(study.get("environment") or {}).encode()
    files["README.md"] = _readme(tables.title, tables.incomplete, sorted(files)).encode()
    return files


def _of_runs(study: Mapping[str, Any], folder: Path, config: Mapping[str, Any]) -> dict[str, bytes]:
    """Configuration, environment and hashes of every run, and one line about each."""
    files: dict[str, bytes] = {}
    hashes: dict[str, Any] = {"study.json": _sum(folder / "study.json")}
    lines = []
    for row in study["rows"]:
        for seed in _seeds(row, config):
            cell = cell_folder(folder, str(row["method"]), seed)
            if not is_finished(cell):
                continue
            verify(cell)
            place = (
                cell.relative_to(folder / "cells").as_posix() if cell.is_relative_to(folder / "cells") else cell.name
            )
            files[f"configuration/{place}.yaml"] = read_bytes(cell / "config.yaml")
            files[f"environment/{place}.json"] = _environment(cell / "environment.json")
            metrics = read_metrics(cell, stored_config(cell))
            seal = read_json(cell / "content.json") if (cell / "content.json").is_file() else {}
            hashes[place] = seal.get("sha256", {}) if isinstance(seal, Mapping) else {}
            lines.append({
                "entry": row["method"], "method": row.get("class"), "seed": seed, "folder": place,
                "cost": row.get("cost"), "seconds": metrics.get("seconds"),
                "parameters": metrics.get("parameters"), "epoch": metrics["selection"]["epoch"],
                "rule": metrics.get("rule"), "test_score": metrics["test"]["score"],
            })  # fmt: skip
    columns = ("entry", "method", "seed", "folder", "cost", "seconds", "parameters", "epoch", "rule", "test_score")
    files["runs.csv"] = csv_text(lines, columns).encode()
    files["hashes.json"] = text_of_json({"sha256": hashes}).encode()
    return files


def _environment(path: Path) -> bytes:
    """The record of the machine without the folder in which the run was started: reviews are often blind."""
    found = read_json(path) if path.is_file() else {}
    kept = {k: v for k, v in found.items() if k != "directory"} if isinstance(found, Mapping) else {}
    return text_of_json(kept).encode()


def _seeds(row: Mapping[str, Any], config: Mapping[str, Any]) -> list[int]:
    planned = config.get("seeds")
    return [int(seed) for seed in planned] if isinstance(planned, list) else list(range(int(row.get("seeds") or 0)))


def _sum(path: Path) -> str | None:
    return hashlib.sha256(read_bytes(path)).hexdigest() if path.is_file() else None


def _name(folder: Path) -> str:
    """The folder as it was named; of ``.`` its own name, so that the pack does not tell where it lay."""
    return folder.name or folder.resolve().name


def _document(names: list[str]) -> bytes:
    lines = [
        r"\documentclass{article}", r"\usepackage[T1]{fontenc}", r"\usepackage{booktabs}",
        r"\usepackage[landscape,margin=1cm]{geometry}", r"\begin{document}", *(rf"\input{{{n}}}" for n in names),
        r"\end{document}",
    ]  # fmt: skip
    return ("\n".join(lines) + "\n").encode()


def _readme(title: str, incomplete: tuple[str, ...], names: list[str]) -> str:
    """What is where."""
    about = {
        "answers.md": "nine questions of reviewers, each with its number or the command that would measure it",
        "tables/": "leaderboard, inference rules and modalities: LaTeX (all.tex compiles by itself), CSV, JSON",
        "figures/": "leaderboard with intervals, validation curves, gaps of the modalities",
        "configuration/": "the comparison, and every run: equimodal train --config FILE --out FOLDER repeats it",
        "environment/": "versions, processor and accelerator of every run, and of the report",
        "runs.csv": "seed, cost, seconds, parameters, selected epoch, rule and score of every run",
        "hashes.json": "SHA-256 of the files of every run, as the runs wrote them",
        SUMS: "SHA-256 of the files of this folder: sha256sum --check SHA256SUMS",
    }
    there = {place: text for place, text in about.items()
             if place == SUMS or any(name.startswith(place) for name in names)}  # fmt: skip
    lines = [f"# {printable(title)}", "", *(f"- `{place}`: {text}" for place, text in there.items())]
    if incomplete:
        lines += ["", "Incomplete:", "", *(f"- {printable(reason)}" for reason in incomplete)]
    return "\n".join(lines) + "\n"


def _known(out: Path) -> set[str]:
    """Names in the sums of an older pack that are still there."""
    if not (out / SUMS).is_file():
        return set()
    lines = read_bytes(out / SUMS).decode(errors="replace").splitlines()
    names = {line.partition("  ")[2] for line in lines}
    here = {path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file() and not path.is_symlink()}
    return names & here


def _refuse_other_content(out: Path) -> None:
    if out.is_dir() and any(out.iterdir()) and not (out / SUMS).is_file():
        raise StorageError(
            f"`{out}`: expected a new or empty folder, or an older pack. Found other files. Choose another folder."
        )
