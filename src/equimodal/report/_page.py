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
from equimodal.report._leaderboard import differences_of, leaderboard, rules_table
from equimodal.report._next import next_steps
from equimodal.report._palette import strokes
from equimodal.report._runs import RUNS, anchors_of, run_pages
from equimodal.report._study import Study, read_study
from equimodal.report._svg import POINTS, swatch, whisker
from equimodal.report._tables import column_names, metric_text
from equimodal.report._verdict import Statement, statements


def render_report(study: Mapping[str, Any], path: str | Path, folder: str | Path | None = None) -> Path:
    """Write the report of a comparison: the answer, the leaderboard, curves, and a section for every run.

    The page is one file: styles, drawings and a small script are inside, nothing is fetched, every text is escaped. It
    follows the reader's light or dark scheme, fits a phone, prints, and can be read without the script.

    Args:
        study: the record that ``equimodal compare`` stores as ``study.json``. A table that lacks one of
            :data:`~equimodal.report.CONTROLS` is marked as incomplete, rows of one seed are marked.
        path: the file; folders are made, an older file is replaced only when the new one is complete.
        folder: of the comparison, for the commands that the page names; default: that of ``path``.

    Returns:
        ``path``.

    Raises:
        DataError: a field of the record is missing or malformed.
        StorageError: the file could not be written.
        MissingExtraError: jinja2 is not installed.
    """
    path = Path(path)
    record, place = read_study(study), str(path.parent if folder is None else folder)
    lines = strokes([(row.label, row.control) for row in record.rows])
    anchors = anchors_of(record)
    table = leaderboard(record, lines, anchors)
    page = page_of(
        "report.html.j2",
        study=record,
        metric=metric_text(record),
        columns=column_names(record),
        statements=_answer(record),
        best={"label": record.rows[0].label, "swatch": swatch(lines[0])} if record.rows else None,
        steps=next_steps(record, place) if record.rows else [],
        table=table,
        shown={
            "difference": any(row["difference"]["text"] not in ("-", "reference") for row in table),
            "rule": any(row["rule"]["text"] != "-" for row in table),
            "rank": len(table) > 1 and any(row["rank"]["text"] != "-" for row in table),
            "gap": any(row.under_trained for row in record.rows),
            "cost": any(row.cost is not None for row in record.rows),
            "runs": bool(record.runs),
        },
        rules=rules_table(record, lines),
        differences=differences_of(record),
        sections=sections(record),
        runs=run_pages(record, lines, anchors),
        left_out=len(record.runs) - len(anchors) if len(record.runs) > RUNS else 0,
        points=POINTS,
        facts=facts_of({k: v for k, v in record.facts.items() if k not in ("differences",)}),
        commands=[str(c) for c in record.facts.get("commands") or ()],
        place=place,
    )
    hint = "Nothing was lost; free space or choose another path, then write the report again from study.json."
    return write_bytes(path, page.encode(), hint)


def _answer(record: Study) -> list[dict[str, Any]]:
    """The statements as the page shows them; the best row and the best method are one."""
    found = [_shown(s) for s in statements(record)]
    for method in [s for s in found if s["title"] == "Best method"]:
        found.remove(method)
        found[0]["text"] += f" {method['text']}"
    return found


def _shown(statement: Statement) -> dict[str, Any]:
    """A statement as the page shows it, with its interval as a picture."""
    picture = ""
    if statement.interval is not None:
        low, mean, high = (statement.interval[part] for part in ("low", "mean", "high"))
        reach = 1.15 * max(abs(low), abs(high)) or 1.0
        picture = whisker(low, mean, high, (-reach, reach), zero=True)
    mark = {"good": "✓", "bad": "✗", "open": "≈"}.get(statement.tone, "")
    whole = statement.title in ("Modalities", "Inference rule")  # of the others the title says what the lead says
    text = f"{statement.lead}{statement.text}" if whole else statement.text
    return {"title": statement.title, "text": text, "tone": statement.tone, "mark": mark, "picture": picture}


def page_of(template: str, **values: Any) -> str:
    """A page from one of the templates, which share one style sheet; every text is escaped.

    Args:
        template: name of the file.
        **values: what it shows; ``svg``, ``style`` and ``script`` are given.

    Raises:
        MissingExtraError: jinja2 is not installed.
    """
    try:
        import jinja2
        from markupsafe import Markup
    except ImportError as error:
        raise missing_extra("jinja2", "cli", "The HTML report") from error
    folder = resources.files("equimodal.report").joinpath("templates")

    def text_of(name: str) -> str:
        return folder.joinpath(name).read_text(encoding="utf-8")

    environment = jinja2.Environment(
        loader=jinja2.FunctionLoader(text_of),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=lambda value: printable(value) if type(value) is str else value,
    )
    style, script = (Markup(text_of(name)) for name in ("style.css", "script.js"))  # noqa: S704 (our own files)
    return environment.get_template(template).render(svg=Markup, style=style, script=script, **values)


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
