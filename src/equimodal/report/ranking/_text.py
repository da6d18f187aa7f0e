"""A ranking as Markdown, LaTeX, CSV and JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from equimodal.report.formats import (
    FORMATS,
    Format,
    Shown,
    ShownRow,
    csv_text,
    latex_text,
    markdown_text,
    number_text,
)
from equimodal.report.ranking._ranking import Place, Ranking

RANKING_FORMATS = FORMATS
FORMAT, VERSION = "equimodal.ranking", 1
_COLUMNS = ("entry", "control", "average_rank", "low", "high", "reference", "p_better", "p_equivalent", "p_worse")


def ranking_text(ranking: Ranking, format: Format) -> str:  # noqa: A002
    """A ranking in one of the formats.

    CSV has a line per entry, with a column ``score/DATASET`` per dataset; JSON also has the pairs.

    Args:
        ranking: what to write.
        format: one of ``"markdown"``, ``"latex"``, ``"csv"``, ``"json"``.
    """
    if format == "json":
        return (
            json.dumps({"format": FORMAT, "version": VERSION, **asdict(ranking)}, indent=2, ensure_ascii=False) + "\n"
        )
    if format == "csv":
        datasets = [f"score/{name}" for name in ranking.datasets]
        return csv_text([_record(ranking, place) for place in ranking.places], (*_COLUMNS, *datasets))
    return (latex_text if format == "latex" else markdown_text)([_shown(ranking)], ranking.notes, "To know")


def _record(ranking: Ranking, place: Place) -> Mapping[str, Any]:
    return {
        "entry": place.entry, "control": place.control, "average_rank": place.rank, "low": place.low,
        "high": place.high, "reference": ranking.reference, "p_better": place.better,
        "p_equivalent": place.equivalent, "p_worse": place.worse,
        **{f"score/{name}": score for name, score in zip(ranking.datasets, place.scores, strict=True)},
    }  # fmt: skip


def _shown(ranking: Ranking) -> Shown:
    rows = []
    for place in ranking.places:
        three = (place.better, place.equivalent, place.worse)
        chances = "-" if place.better is None else " / ".join(f"{100 * p:.0f}" for p in three if p is not None)
        scores = (number_text(score, ranking.percent) for score in place.scores)
        cells = (place.entry, f"{place.rank:.1f} [{place.low:.1f}, {place.high:.1f}]", chances, *scores)
        rows.append(ShownRow(cells, place.control, place.rank == ranking.places[0].rank))
    margin = number_text(ranking.margin, ranking.percent)
    friedman = "" if ranking.friedman is None else f" Friedman's test: p = {ranking.friedman:.3g}."
    notes = (
        "Controls in italics, the best average rank in bold. Rank: mean place over the datasets, with its 95 % "
        "interval over datasets and seeds.",
        f"Chances in %, of being better / within {margin} / worse than {ranking.reference} on a further dataset: "
        "Bayesian signed-rank test.",
        f"Critical difference of ranks (Nemenyi, 95 %): {ranking.difference:.2f}.{friedman}",
    )
    head = ("entry", "average rank", f"against {ranking.reference}", *ranking.datasets)
    caption = f"{len(ranking.places)} entries on {len(ranking.datasets)} datasets."
    return Shown("ranking", caption, head, 1, tuple(rows), notes)
