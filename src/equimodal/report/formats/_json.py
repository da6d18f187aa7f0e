"""Tables as JSON, with a version that says what the fields mean."""

from __future__ import annotations

import json
from typing import Any

from equimodal.report.formats._tables import TABLES, Tables

FORMAT, VERSION = "equimodal.report", 1
"""A field is added without a new version; one that is removed, renamed or means something else takes the next."""


def json_text(tables: Tables) -> str:
    """All tables as one object; see the documentation of the formats for its fields."""
    record: dict[str, Any] = {
        "format": FORMAT,
        "version": VERSION,
        "title": tables.title,
        "metric": {
            "name": tables.metric, "higher_is_better": tables.higher_is_better, "percent": tables.percent,
        },
        "best_control": tables.best_control or None,
        "incomplete": list(tables.incomplete),
        "tables": {name: list(tables.table(name)) for name in TABLES},
    }  # fmt: skip
    return json.dumps(record, indent=2, ensure_ascii=False) + "\n"
