"""The runs of a published table, protocol by protocol, and the table of what was published and what was found."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from equimodal.data import prepare
from equimodal.studies.comparisons import compare
from equimodal.studies.reproduction._plan import plan_of, require_complete
from equimodal.studies.reproduction._source import Source
from equimodal.studies.reproduction._table import PublishedTable
from equimodal.studies.runs import write_json, write_text
from equimodal.studies.setup import DataConfig, Entry, StudyConfig


def reproduce(
    table: PublishedTable,
    name: str,
    source: Source,
    folder: Path,
    *,
    rows: Sequence[str],
    protocols: Sequence[str],
    seeds: Sequence[int],
    parameters: Mapping[str, Any] | None = None,
    workers: int = 1,
    progress: Callable[[int, int, str], None] | None = None,
) -> str:
    """Prepare what is raw, run every cell that is not finished, and return the table as text; restartable.

    Args:
        table: what was published.
        name: of the column.
        source: the data.
        folder: gets the bundle, one comparison per protocol, ``table.md`` and ``found.json``.
        rows: which, by name.
        protocols: which, by name.
        seeds: one run per row and protocol each.
        parameters: of the preparation, on top of the column's.
        workers: processes.
        progress: as of :func:`~equimodal.studies.compare`.

    Raises:
        MethodError: a row or a protocol cannot be run; nothing was run.
    """
    column = table.columns[name]
    require_complete(plan_of(table, column, source, rows, protocols, seeds))
    bundle = source.path
    if not source.prepared:
        bundle = folder / "data" / column.dataset
        if not (bundle / "card.yaml").is_file():
            own = {**column.prepare, **(parameters or {})}
            prepare.prepare(column.dataset, source.path, bundle, progress=None, **own)
    found: dict[str, dict[str, list[float]]] = {}
    entries = {row: Entry(table.rows[row].method, dict(table.rows[row].options)) for row in rows}
    for protocol in protocols:
        data = DataConfig(str(bundle), protocol=protocol)
        study = StudyConfig(entries, list(seeds), data, column.model, column.training, controls=False)
        done = compare(study, folder / protocol, workers=workers, progress=progress, cost=False)
        for row in done["rows"]:
            found.setdefault(row["method"], {})[protocol] = [row["score_mean"], row["score_std"]]
    text = comparison(table, name, found, protocols)
    write_json(folder / "found.json", found)
    write_text(folder / "table.md", text + "\n")
    return text


def comparison(
    table: PublishedTable, name: str, found: Mapping[str, Mapping[str, Sequence[float]]], protocols: Sequence[str]
) -> str:
    """A Markdown table: what was published, and what was found under each protocol."""
    lines = [f"| {name} ({table.columns[name].metric}) | published | " + " | ".join(protocols) + " |"]
    lines.append("|---|--:|" + "--:|" * len(protocols))
    for row, own in found.items():
        published = table.rows[row].numbers.get(name)
        cells = [f"{100 * own[p][0]:.1f} ± {100 * own[p][1]:.1f}" if p in own else "-" for p in protocols]
        said = "-" if published is None else f"{published[0]:.1f} ± {published[1]:.1f}"
        lines.append(f"| {row} | {said} | " + " | ".join(cells) + " |")
    return "\n".join([*lines, "", f"{table.title}: {table.paper}.", table.note])
