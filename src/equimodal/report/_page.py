"""The report as one HTML file that needs nothing else."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from equimodal._utils.files import write_bytes
from equimodal._utils.printing import printable
from equimodal.errors import missing_extra
from equimodal.report._curves import sections
from equimodal.report._study import Study, read_study
from equimodal.report._tables import column_names, score_text, spread_text
from equimodal.report._verdict import verdict


def render_report(study: Mapping[str, Any], path: str | Path) -> Path:
    """Write the report of a comparison: the table, curves, inference rules, and how the numbers were made.

    The page is one file: styles and drawings are inside, nothing is fetched, every text is escaped. It follows the
    reader's light or dark scheme and fits a phone.

    Args:
        study: the record that ``equimodal compare`` stores as ``study.json``. A table that lacks one of
            :data:`~equimodal.report.CONTROLS` is marked as incomplete, rows of one seed are marked.
        path: the file; folders are made, an older file is replaced only when the new one is complete.

    Returns:
        ``path``.

    Raises:
        DataError: a field of the record is missing or malformed.
        StorageError: the file could not be written.
        MissingExtraError: jinja2 or matplotlib is not installed.
    """
    record = read_study(study)
    page = page_of(
        "report.html.j2",
        study=record,
        columns=column_names(record),
        table=_table(record),
        rules=_rules(record),
        sections=sections(record),
        verdict=verdict(study).splitlines(),
        facts=facts_of(record.facts),
        commands=[str(c) for c in record.facts.get("commands") or ()],
    )
    hint = "Nothing was lost; free space or choose another path, then write the report again from study.json."
    return write_bytes(Path(path), page.encode(), hint)


def page_of(template: str, **values: Any) -> str:
    """A page from one of the templates, which share one style sheet; every text is escaped.

    Args:
        template: name of the file.
        **values: what it shows; ``svg`` and ``style`` are given.

    Raises:
        MissingExtraError: jinja2 is not installed.
    """
    try:
        import jinja2
        from markupsafe import Markup
    except ImportError as error:
        raise missing_extra("jinja2", "cli", "The HTML report") from error
    folder = resources.files("equimodal.report").joinpath("templates")
    environment = jinja2.Environment(
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=lambda value: printable(value) if type(value) is str else value,
    )
    source = folder.joinpath(template).read_text(encoding="utf-8")
    style = Markup(folder.joinpath("style.css").read_text(encoding="utf-8"))  # noqa: S704 (our own file)
    return environment.from_string(source).render(svg=Markup, style=style, **values)


def _table(record: Study) -> list[dict[str, Any]]:
    best = {m: max((r.per_modality[m][0] for r in record.rows if m in r.per_modality), default=None)
            for m in record.modalities}  # fmt: skip
    rows = []
    for row in record.rows:
        cells = []
        for modality in column_names(record):
            probe, gap = row.per_modality.get(modality), row.under_trained.get(modality)
            cells.append({
                "probe": spread_text(record, probe, row.seeds),
                "gap": spread_text(record, gap, row.seeds, signed=True, difference=True),
                "best": probe is not None and probe[0] == best[modality],
                # grows from 0 to 1 as the gap goes from nothing to 30 points
                "depth": 0.0 if gap is None else max(0.0, min(1.0, gap[0] * record.gap_factor / 30)),
            })  # fmt: skip
        rows.append({
            "label": row.label,
            "control": row.control,
            "single": row.seeds == 1,
            "score": score_text(record, row).removesuffix(" (1 seed)"),
            "cells": cells,
            "cost": "-" if row.cost is None else f"{row.cost:.2f}",
        })  # fmt: skip
    return rows


def _rules(record: Study) -> dict[str, Any]:
    names = list(dict.fromkeys(rule for row in record.rows for rule in row.rules))
    rows = []
    for row in record.rows:
        if len(row.rules) < 2:
            continue
        chosen = max(row.rules, key=lambda rule: row.rules[rule][0])
        cells = []
        for name in names:
            scores = row.rules.get(name)
            digits = 1 if record.percent else 3
            text = "-" if scores is None else f"{scores[1] * record.factor:.{digits}f}"
            cells.append({"text": text, "chosen": name == chosen})
        rows.append({"label": row.label, "cells": cells})
    return {"names": names, "rows": rows}


def facts_of(facts: Mapping[str, Any]) -> list[tuple[str, list[tuple[str, str]]]]:
    """What a record says beside the numbers, as titled lists of name and value."""
    groups: list[tuple[str, list[tuple[str, str]]]] = []
    single: list[tuple[str, str]] = []
    for key, value in facts.items():
        if key == "commands" or value in (None, "", [], {}):
            continue
        if isinstance(value, Mapping):
            groups.append((key.capitalize(), [(str(k), _plain(v)) for k, v in value.items() if v is not None]))
        else:
            single.append((key.capitalize(), _plain(value)))
    return [("Run", single), *groups] if single else groups


def _plain(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{k} {_plain(v)}" for k, v in value.items() if v is not None and v != {})
    if isinstance(value, Sequence) and not isinstance(value, str):
        return ", ".join(_plain(v) for v in value)
    return value if isinstance(value, str) else json.dumps(value, default=str)
