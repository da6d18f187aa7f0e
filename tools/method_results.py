"""What the page of a method says of results: our table, and what papers printed.

Ours is read from benchmarks/results/real, so it is true when the benchmark has grown; the rest from
src/equimodal/methods/published.yaml and the tables of `equimodal reproduce`.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from equimodal.methods import available, get
from equimodal.studies import published_table

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "real"
PUBLISHED = ROOT / "src" / "equimodal" / "methods" / "published.yaml"
DATASETS = ("avdigits", "ravdess", "utdmhad", "mosi", "mfeat")  # those of benchmarks/real.py
READINGS = {"paper": "by its paper's rule", "skill": "by `skill`"}
READ = {"paper": "", "transcription": " Read in a transcription, not in the paper."}


# ---- our table ------------------------------------------------------------------------------------------------------


@cache
def results() -> dict[str, Any]:
    """Dataset -> stored results, of those that there are."""
    return {
        name: json.loads(path.read_text("utf-8")) for name in DATASETS if (path := RESULTS / f"{name}.json").exists()
    }


def measured(name: str) -> list[str]:
    """The section about our own measurements, as lines."""
    lines: list[str] = ["## When it helps\n"]
    said: list[str] = []
    rows = [(d, row, study) for d, study in results().items() for row in study["rows"] if row["class"] == name]
    info = get(name).info
    if info.role == "single":
        return [
            *lines,
            "A control of every comparison. The [benchmark](../benchmarks.md#real-data) compares every method with the "
            "best single modality.\n",
        ]
    if not rows:
        return [*lines, "Not measured yet: no row of the [benchmark](../benchmarks.md#real-data) is of this method.\n"]
    verdicts: dict[str, list[str]] = {"better": [], "level": [], "worse": []}
    head = " | ".join(f"{how} | against the best control" for how in READINGS.values())
    table = [f"| dataset | row | seeds | {head} |", "|---|---|---|---|---|---|---|"]
    for dataset, row, study in rows:
        cells = []
        for reading in READINGS:
            found = row["readings"][reading]
            scores = found["scores"]
            cells.append("-" if not scores else f"{100 * statistics.fmean(scores):.1f}")
            rival, difference = hardest(found["differences"])
            cells.append(difference_text(rival, difference))
            if reading == "paper" and row["method"] == name and difference:
                verdicts[verdict(difference)].append(dataset)
        planned = len(study["budget"]["seeds"])
        seeds = f"{row['seeds']} of {planned}" if row["seeds"] < planned else str(planned)
        table.append(f"| {dataset} | {row['method']} | {seeds} | {' | '.join(cells)} |")
    for kind, words in (
        ("better", "Better than the best control by more than chance on"),
        ("worse", "Worse than it by more than chance on"),
        ("level", "No difference beyond chance on"),
    ):
        if verdicts[kind]:
            said.append(f"{words} {', '.join(verdicts[kind])}.")
    missing = [d for d in DATASETS if d not in {dataset for dataset, _, _ in rows}]
    if missing:
        said.append(f"Not measured: {', '.join(missing)}.")
    few = [d for d, row, study in rows if row["method"] == name and row["seeds"] < len(study["budget"]["seeds"])]
    if few:
        said.append(f"With fewer seeds than planned, so provisional: {', '.join(few)}.")
    return [
        *lines, f"{' '.join(said)}\n", *table, "",
        "Test accuracy in %, with the defaults unless the row says otherwise; the same encoders, epochs and batches "
        "for every method. The best control is the hardest of those that the "
        "[benchmark](../benchmarks.md#real-data) compares with, by the same rule; differences in points, paired over "
        "seeds and test samples, with their 95 % interval and p after Holm.\n",
    ]  # fmt: skip


def hardest(differences: Mapping[str, Mapping[str, float]]) -> tuple[str, Mapping[str, float]]:
    """The rival that is hardest to beat, and the difference to it; nothing where there is none."""
    if not differences:
        return "", {}
    rival = min(differences, key=lambda r: (differences[r]["mean"], r))
    return rival, differences[rival]


def verdict(difference: Mapping[str, float]) -> str:
    """Whether a difference is one: by its interval, and by its p-value after correction."""
    if difference["p_holm"] >= 0.05:
        return "level"
    return "better" if difference["low"] > 0 else "worse" if difference["high"] < 0 else "level"


def difference_text(rival: str, difference: Mapping[str, float]) -> str:
    if not difference:
        return "-"
    mean, low, high = (100 * difference[key] for key in ("mean", "low", "high"))
    return f"{mean:+.1f} [{low:+.1f}, {high:+.1f}], p {difference['p_holm']:.2g} ({rival})"


# ---- published numbers ----------------------------------------------------------------------------------------------


@cache
def tables() -> list[dict[str, Any]]:
    """The published tables, checked; those with a table of `equimodal reproduce` have its columns first."""
    made = []
    for table in yaml.load(PUBLISHED.read_text("utf-8"), Loader=yaml.BaseLoader):  # numbers stay as they were printed
        columns, rows = (
            list(table["columns"]),
            {k: [None if n == "null" else n for n in v] for k, v in table["rows"].items()},
        )
        for label, numbers in rows.items():
            if label.partition(",")[0] not in available(outside=False):
                raise SystemExit(f"{PUBLISHED.name}: {table['source']}: {label!r} is no method.")
            if len(numbers) != len(columns):
                raise SystemExit(
                    f"{PUBLISHED.name}: {table['source']}: {label!r} has {len(numbers)} of {len(columns)}."
                )
        if "reproduction" in table:
            columns, rows = joined(table["reproduction"], columns, rows)
        made.append({**table, "columns": columns, "rows": rows})
    return made


def joined(name: str, columns: Sequence[str], rows: Mapping[str, list[Any]]) -> tuple[list[str], dict[str, list[Any]]]:
    """Columns and rows with those of a table of `equimodal reproduce` before them."""
    more = published_table(name)
    found: dict[str, list[Any]] = {}
    for row in more.rows.values():
        numbers = [more_text(row.numbers.get(column)) for column in more.columns]
        frozen = ", frozen" if row.options.get("freeze") else ""
        modality = f", {row.options['modality']}" if "modality" in row.options else ""
        found[f"{row.method}{frozen}{modality}"] = numbers
    own, empty = [None] * len(columns), [None] * len(more.columns)
    labels = dict.fromkeys([*found, *rows])
    return [*more.columns, *columns], {n: [*found.get(n, empty), *rows.get(n, own)] for n in labels}


def more_text(pair: Sequence[float] | None) -> str | None:
    return None if pair is None else f"{pair[0]:.1f} ± {pair[1]:.1f}"


def published(name: str) -> list[str]:
    """The section about what papers printed, as lines."""
    lines = ["## Published numbers\n"]
    for table in tables():
        own = {label: numbers for label, numbers in table["rows"].items() if label.partition(",")[0] == name}
        if not own:
            continue
        shown = own if name == "Joint" else {**own, "Joint": table["rows"].get("Joint", [])}
        kept = [i for i in range(len(table["columns"])) if any(numbers[i] is not None for numbers in own.values())]
        lines += [
            f"{table['source']}; {table['metric']}. Protocol: {table['protocol']}.{READ[table['read']]}\n",
            f"| | {' | '.join(table['columns'][i] for i in kept)} |", "|---|" + "---|" * len(kept),
            *(f"| {label} | {' | '.join(picked(numbers, kept))} |" for label, numbers in shown.items()),
            "",
        ]  # fmt: skip
    if len(lines) == 1:
        return [*lines, "None in a table that we could read.\n"]
    return [*lines, "Numbers of different tables do not compare: splits, encoders and budgets differ.\n"]


def picked(numbers: Sequence[Any], kept: Sequence[int]) -> list[str]:
    """The numbers of some columns, a dash for none."""
    return ["-" if not numbers or numbers[i] is None else str(numbers[i]) for i in kept]
