"""The critical-difference diagram, one line per entry, so that forty fit as well as four."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from equimodal._utils.files import write_bytes
from equimodal._utils.printing import printable
from equimodal.errors import UnsupportedError, missing_extra
from equimodal.report._file import figure_bytes
from equimodal.report.ranking._ranking import Ranking

FIGURES = (".svg", ".pdf", ".png")
"""Endings of files that figures are drawn to."""
_INK, _CONTROL, _BAR = "#1f5f99", "#6b6f76", "#b3541e"


def draw_ranking(ranking: Ranking, path: Path | str, title: str = "") -> Path:
    """Draw average ranks with their intervals, the critical difference, and bars over entries that do not differ.

    The same ranking gives the same file: it holds no date.

    Args:
        ranking: what to draw.
        path: a file that ends with one of :data:`FIGURES`; folders are made.
        title: above the diagram; default what the datasets are.

    Raises:
        UnsupportedError: another ending.
        MissingExtraError: matplotlib is not installed.
        StorageError: the file could not be written.
    """
    path = Path(path)
    if path.suffix.lower() not in FIGURES:
        raise UnsupportedError(f"`path`: expected a file {', '.join(FIGURES)}. Found {path.name!r}.")
    try:
        import matplotlib as mpl
        from matplotlib.figure import Figure
    except ImportError as error:
        raise missing_extra("matplotlib", "rank", "A critical-difference diagram") from error
    settings: Any = {
        "svg.hashsalt": "equimodal", "svg.fonttype": "none", "pdf.fonttype": 42, "font.size": 9,
        "font.family": "DejaVu Sans", "text.parse_math": False, "axes.spines.right": False, "axes.spines.top": False,
        "axes.spines.left": False,
    }  # fmt: skip
    places = ranking.places
    with mpl.rc_context(settings):
        figure = Figure(figsize=(7.2, 1.4 + 0.21 * len(places)), layout="constrained")
        axes = figure.add_subplot()
        for line, place in enumerate(places):
            colour = _CONTROL if place.control else _INK
            axes.plot([place.low, place.high], [line, line], color=colour, linewidth=1.1, alpha=0.6)
            axes.plot([place.rank], [line], "s" if place.control else "o", color=colour, markersize=4.5)
        limits = _limits(ranking)
        step = (limits[1] - limits[0]) / 60
        for number, (first, last) in enumerate(ranking.groups):
            x = limits[1] + step * (1 + number)
            axes.plot([x, x], [first - 0.2, last + 0.2], color=_BAR, linewidth=2.2, solid_capstyle="butt")
        top = -1.6
        width = min(ranking.difference, limits[1] - limits[0])
        axes.plot([limits[0], limits[0] + width], [top, top], color=_BAR, linewidth=2.2)
        wider = "" if width == ranking.difference else " (wider than the axis)"
        axes.text(
            limits[0],
            top - 0.25,
            f"critical difference {ranking.difference:.1f}{wider}; bars on the right: groups within it",
            color=_BAR,
            va="bottom",
        )
        axes.set_yticks(range(len(places)), [_label(p.entry, p.control) for p in places])
        axes.tick_params(axis="y", length=0)
        axes.set_ylim(len(places) - 0.4, top - 1.3)
        axes.set_xlim(limits[0] - step, limits[1] + step * (1 + len(ranking.groups)))
        axes.set_xlabel("average rank (1 is best), with 95 % interval over datasets and seeds")
        axes.set_title(
            printable(title or f"{len(ranking.datasets)} datasets: {', '.join(ranking.datasets)}"), fontsize=9
        )
        axes.grid(visible=True, axis="x", linewidth=0.5, alpha=0.5)
        return write_bytes(path, figure_bytes(figure, path.suffix.lower()), "Choose another file.")


def _label(entry: str, control: bool) -> str:
    text = printable(entry)
    return f"{text} (c)" if control else text


def _limits(ranking: Ranking) -> tuple[float, float]:
    return min(1.0, *(p.low for p in ranking.places)), max(
        float(len(ranking.places)), *(p.high for p in ranking.places)
    )
