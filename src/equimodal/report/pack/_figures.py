"""Figures of a comparison for a paper: PDF without dates, so that the same record gives the same bytes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from equimodal._utils.printing import printable
from equimodal.errors import missing_extra
from equimodal.report._file import figure_bytes
from equimodal.report._study import Study, read_study
from equimodal.report.formats import Tables, tables_of

_PALETTE = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#7a5195", "#5d8f1d")
_DASHES = ("-", (0, (5, 2)), (0, (1.5, 1.5)), (0, (6, 2, 1.5, 2)), (0, (9, 3)))
_GREY = "#6b6f76"
_SETTINGS: Any = {
    "pdf.fonttype": 42, "font.size": 9, "font.family": "DejaVu Sans", "text.parse_math": False,
    "axes.spines.right": False, "axes.spines.top": False, "legend.frameon": False,
}  # fmt: skip


def figures_of(study: Mapping[str, Any]) -> dict[str, bytes]:
    """File name -> PDF: ``leaderboard.pdf``, ``curves.pdf``, ``gaps.pdf``; those that the record has numbers for.

    Controls are grey. Whiskers are 95 % intervals where they are on record, else standard deviations over seeds.

    Args:
        study: the record that ``equimodal compare`` stores as ``study.json``.

    Raises:
        DataError: a field of the record is missing or malformed.
        MissingExtraError: matplotlib is not installed.
    """
    try:
        import matplotlib as mpl
    except ImportError as error:
        raise missing_extra("matplotlib", "cli", "A figure") from error
    record, tables = read_study(study), tables_of(study)
    made = {}
    with mpl.rc_context(_SETTINGS):
        if tables.leaderboard:
            made["leaderboard.pdf"] = _pdf(_leaderboard(tables))
        curves = _curves(record)
        if curves is not None:
            made["curves.pdf"] = _pdf(curves)
        if any(r["gap"] is not None for r in tables.modalities):
            made["gaps.pdf"] = _pdf(_gaps(record, tables))
    return made


def _styles(rows: Sequence[tuple[str, bool]]) -> dict[str, tuple[str, Any]]:
    """Label -> colour and dashes; controls share a grey."""
    made: dict[str, tuple[str, Any]] = {}
    counts = {True: 0, False: 0}
    for label, control in rows:
        number = counts[control]
        counts[control] += 1
        colour = _GREY if control else _PALETTE[number % len(_PALETTE)]
        made[label] = colour, _DASHES[(number if control else number // len(_PALETTE)) % len(_DASHES)]
    return made


def _leaderboard(tables: Tables) -> Any:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 1.0 + 0.24 * len(tables.leaderboard)), layout="constrained")
    axes = figure.add_subplot()
    factor = 100 if tables.percent else 1
    styles = _styles([(r["entry"], r["control"]) for r in tables.leaderboard])
    intervals = any(r["low"] is not None for r in tables.leaderboard)
    for line, r in enumerate(tables.leaderboard):
        low, high = (r["low"], r["high"]) if intervals else _deviation(r)
        colour = styles[r["entry"]][0]
        if low is not None and high is not None:
            axes.plot([factor * low, factor * high], [line, line], color=colour, linewidth=1.2)
        axes.plot([factor * r["mean"]], [line], "s" if r["control"] else "o", color=colour, markersize=4.5)
    axes.set_yticks(range(len(tables.leaderboard)), [_label(r["entry"], r["control"]) for r in tables.leaderboard])
    axes.invert_yaxis()
    what = "95 % interval" if intervals else "standard deviation over seeds"
    axes.set_xlabel(f"{printable(tables.metric)}{', %' if tables.percent else ''}, test data, with {what}")
    axes.grid(visible=True, axis="x", linewidth=0.5, alpha=0.5)
    return figure


def _deviation(r: Mapping[str, Any]) -> tuple[float | None, float | None]:
    return (None, None) if r["std"] is None else (r["mean"] - r["std"], r["mean"] + r["std"])


def _curves(record: Study) -> Any:
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    styles = _styles([(row.label, row.control) for row in record.rows])
    drawn = [(row, record.series(row.label, lambda epoch: epoch.get("validation_score"))) for row in record.rows]
    if not any(series is not None for _, series in drawn):
        return None
    figure = Figure(figsize=(6.4, max(4.0, 0.5 + 0.15 * len(drawn))), layout="constrained")
    axes = figure.add_subplot()
    for row, series in drawn:
        if series is None:
            continue
        colour, dash = styles[row.label]
        mean, epochs = [record.factor * v for v in series.mean], [e + 1 for e in series.epochs]
        marker = "o" if len(epochs) == 1 else ""
        axes.plot(epochs, mean, color=colour, linestyle=dash, linewidth=1.3, marker=marker,
                  label=_label(row.label, row.control))  # fmt: skip
    axes.set_xlabel("epoch")
    axes.set_ylabel(f"{printable(record.metric)}{', %' if record.percent else ''}, validation data")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(visible=True, linewidth=0.5, alpha=0.5)
    figure.legend(loc="outside right upper", fontsize=7, handlelength=3)
    return figure


def _gaps(record: Study, tables: Tables) -> Any:
    from matplotlib.figure import Figure

    entries = [r for r in tables.leaderboard if any(m["entry"] == r["entry"] and m["gap"] is not None
                                                    for m in tables.modalities)]  # fmt: skip
    styles = _styles([(m, False) for m in record.modalities])
    height, factor = 0.8 / max(1, len(record.modalities)), 100 if tables.percent else 1
    lines = len(entries) * max(1.0, len(record.modalities) / 3)
    figure = Figure(figsize=(6.4, 1.2 + 0.26 * lines), layout="constrained")
    axes = figure.add_subplot()
    for number, modality in enumerate(record.modalities):
        at, width = [], []
        for line, r in enumerate(entries):
            gap = next((m["gap"] for m in tables.modalities
                        if m["entry"] == r["entry"] and m["modality"] == modality), None)  # fmt: skip
            if gap is not None:
                at.append(line - 0.4 + height * (number + 0.5))
                width.append(factor * gap)
        axes.barh(at, width, height=height, color=styles[modality][0], label=printable(modality))
    axes.axvline(0, color="black", linewidth=0.7)
    axes.set_yticks(range(len(entries)), [_label(r["entry"], r["control"]) for r in entries])
    axes.invert_yaxis()
    axes.set_xlabel(f"probe below that of the encoder trained alone{', points' if tables.percent else ''}")
    axes.grid(visible=True, axis="x", linewidth=0.5, alpha=0.5)
    figure.legend(loc="outside right upper", fontsize=7)
    return figure


def _label(entry: str, control: bool) -> str:
    return f"{printable(entry)} (c)" if control else printable(entry)


def _pdf(figure: Any) -> bytes:
    return figure_bytes(figure, ".pdf")
