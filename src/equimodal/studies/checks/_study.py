"""Checks of a comparison: every entry over its seeds, against the controls, from records alone."""

from __future__ import annotations

import dataclasses
import shlex
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from equimodal.diagnostics import Outcomes
from equimodal.diagnostics.checks import Finding, Records, Report, Subject, Unchecked, in_order, run_checks
from equimodal.errors import DataError, EquimodalError
from equimodal.methods import get
from equimodal.studies.checks._run import check_run, loaders, records_of
from equimodal.studies.comparisons import load_study
from equimodal.studies.runs import (
    OUTCOMES,
    content_of,
    is_finished,
    load_run,
    read_metrics,
    read_outcomes,
    stored_config,
    verify,
)
from equimodal.studies.setup import cell_folder

Cells = dict[int, Path]
_NAMED = 5


def check_folder(
    folder: Path | str, *, ignore: Iterable[str] = (), fast: bool = False, records_only: bool = False
) -> Report:
    """:func:`check_study` of a comparison's folder, :func:`check_run` of a run's.

    Raises:
        DataError: it is neither; the message says what it is.
        UnknownNameError: ``ignore`` holds a code that is none.
    """
    path = Path(folder)
    if (path / "study.yaml").exists() or (path / "study.json").exists():
        return check_study(path, ignore=ignore, records_only=records_only)
    if (path / "config.yaml").exists():
        return check_run(path, ignore=ignore, fast=fast, records_only=records_only)
    found, step = content_of(path)
    raise DataError(f"`{path}`: expected the folder of a run or of a comparison. Found {found}. {step}.")


def check_study(folder: Path | str, *, ignore: Iterable[str] = (), records_only: bool = False) -> Report:
    """Checks of every entry of a comparison, over its seeds and against its controls.

    Everything but the splits is read from records: what needs a model is checked cell by cell, :func:`check_run`. The
    data are loaded, unless ``records_only``, to look for shared groups and duplicates.

    Args:
        folder: of the comparison; it may be unfinished, if one cell is there.
        ignore: codes of checks that are left out.
        records_only: read nothing but records.

    Raises:
        DataError: no comparison there, no finished cell, or a file that was changed.
        UnknownNameError: ``ignore`` holds a code that is none.
    """
    folder = Path(folder)
    entries, unfinished = _entries(folder)
    data, why = (None, "") if records_only else _data(next(iter(entries.values())))
    place = shlex.quote(str(folder))
    hint = f"a comparison is checked by its records; the model of a cell: equimodal check {place}/cells/ENTRY/seedN"
    metrics = {label: _metrics(cells) for label, cells in entries.items()}
    outcomes = {label: {s: read_outcomes(c / OUTCOMES) for s, c in cells.items()} for label, cells in entries.items()}
    kinds = {label: get(found[min(found)]["method"]).info for label, found in metrics.items()}
    independent = next((label for label, info in kinds.items() if info.role == "independent"), None)
    reports: dict[str, Report] = {}
    names: tuple[str, ...] = ()
    for label, cells in entries.items():
        seeds = list(cells)
        rivals: dict[str, list[Mapping[str, Outcomes]]] = {
            other: [outcomes[other][s] for s in seeds]
            for other, info in kinds.items()
            if info.control and other != label and _has(outcomes[other], seeds)
        }
        alone = independent is not None and independent != label and _has(outcomes[independent], seeds)
        records = records_of(
            [cells[s] for s in seeds],
            [metrics[label][s] for s in seeds],
            alone=[outcomes[str(independent)][s] for s in seeds] if alone else (),
            rivals=rivals,
            control=kinds[label].control,
        )
        names = records.modalities
        subject = Subject(label, None, records=records, absence=hint)
        reports[label] = run_checks(subject, ignore=ignore)
    joined = _joined(_named(folder, len(reports), unfinished), reports)
    return joined if data is None and not why else _with_data(joined, data, why, names, ignore)


def findings_of(folder: Path | str) -> list[Finding]:
    """The findings of a comparison from its records alone, for reports; ``where`` begins with the entry.

    Args:
        folder: of the comparison.

    Raises:
        DataError: no comparison there, no finished cell, or a file that was changed.
    """
    return list(check_study(folder, records_only=True).findings)


def _named(folder: Path, entries: int, unfinished: list[str]) -> str:
    """What was checked, and which cells were not there to be checked."""
    some = ", ".join(unfinished[:_NAMED]) + (" ..." if len(unfinished) > _NAMED else "")
    left = f", without {len(unfinished)} unfinished cell(s) ({some})" if unfinished else ""
    return f"{folder}, {entries} entries{left}"


def _entries(folder: Path) -> tuple[dict[str, Cells], list[str]]:
    """Label -> seed -> folder of the finished cells; the names of the others."""
    from equimodal.studies.runs import read_yaml

    if (folder / "study.json").exists():
        load_study(folder)  # refuses one that was changed
    path = folder / "study.yaml"
    if not path.exists():
        held, step = content_of(folder)
        raise DataError(f"`{folder}`: expected the folder of a comparison. Found {held}. {step}.")
    stored = read_yaml(path)
    labels, seeds = stored.get("entries"), stored.get("seeds")
    if not isinstance(labels, Mapping) or not isinstance(seeds, list):
        raise DataError(f"`{path}`: expected `entries` and `seeds`. Found {sorted(stored)}. Restore the file.")
    found: dict[str, Cells] = {}
    unfinished: list[str] = []
    for label in labels:
        cells = {int(s): cell_folder(folder, str(label), int(s)) for s in seeds}
        finished = {s: cell for s, cell in cells.items() if is_finished(cell)}
        unfinished += [f"{label}/seed{s}" for s in cells if s not in finished]
        if finished:
            found[str(label)] = finished
    if not found:
        raise DataError(
            f"`{folder}`: expected at least one finished cell. Found none of {len(labels) * len(seeds)}. Finish them: "
            f"equimodal compare --out {shlex.quote(str(folder))}"
        )
    for cells in found.values():
        for cell in cells.values():
            verify(cell)
    return found, unfinished


def _metrics(cells: Cells) -> dict[int, dict[str, Any]]:
    return {seed: read_metrics(cell, stored_config(cell)) for seed, cell in cells.items()}


def _has(outcomes: Mapping[int, Mapping[str, Outcomes]], seeds: list[int]) -> bool:
    return all(outcomes.get(seed) for seed in seeds)


def _data(cells: Cells) -> tuple[dict[str, Any] | None, str]:
    """The data of a comparison, or why they are not there."""
    try:
        config, data, _ = load_run(next(iter(cells.values())))
    except EquimodalError as error:
        return None, f"its data could not be loaded: {' '.join(str(error).split())}"
    return loaders(data, config), ""


def _with_data(
    report: Report, data: dict[str, Any] | None, why: str, names: tuple[str, ...], ignore: Iterable[str]
) -> Report:
    """The report with what the data alone say of the checks that its records could not make."""
    subject = Subject("the data", None, data or {}, records=Records(modalities=names), absence=why)
    found = run_checks(subject, ignore=ignore)
    open_codes = {u.code for u in report.unchecked}
    more = [f for f in found.findings if f.code in open_codes]
    settled = {f.code for f in more} | (set(found.passed) & open_codes)
    return dataclasses.replace(
        report,
        findings=in_order([*report.findings, *more]),
        passed=tuple(sorted({*report.passed, *(settled - {f.code for f in more})})),
        unchecked=tuple(u for u in report.unchecked if u.code not in settled),
    )


def _joined(name: str, reports: Mapping[str, Report]) -> Report:
    """One report of all entries; what is about the data, and the same for all, is said once."""
    findings: list[Finding] = []
    unchecked: dict[tuple[str, str], list[str]] = {}
    titles: dict[str, str] = {}
    times = Counter((f.code, f.reason) for report in reports.values() for f in report.findings)
    common = {key for key, count in times.items() if count == len(reports) > 1}  # it is about the data
    for number, (label, report) in enumerate(reports.items()):
        for finding in report.findings:
            if (finding.code, finding.reason) not in common:
                where = f"{label}: {finding.where}" if finding.where else label
                findings.append(dataclasses.replace(finding, where=where))
            elif number == 0:
                findings.append(finding)
        for one in report.unchecked:
            unchecked.setdefault((one.code, one.why), []).append(label)
            titles[one.code] = one.title
    fired = {f.code for f in findings}
    ran = {code for report in reports.values() for code in (*report.passed, *report.codes)}
    left = []
    for (code, why), labels in unchecked.items():
        if len(labels) == len(reports) or (code not in ran and code not in fired):
            left.append(Unchecked(code, titles[code], why, "" if len(labels) == len(reports) else ", ".join(labels)))
    passed = tuple(code for code in sorted(ran) if code not in fired)
    ignored = next(iter(reports.values())).ignored
    return Report(name, in_order(findings), passed, tuple(left), ignored)
