"""Curves as a figure file."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path

from equimodal._utils.files import write_bytes
from equimodal.diagnostics._curve import Curve
from equimodal.errors import MethodError, missing_extra

FORMATS = (".png", ".svg", ".pdf")


def draw_curves(
    curves: Sequence[Curve] | Mapping[str, Sequence[Curve]], path: str | Path, score: str = "score"
) -> Path:
    """Draw the scores against the levels, one panel per modality, with the spread over the draws as a band.

    Args:
        curves: of one method, or label -> curves of several, which share panels.
        path: file to write, .png, .svg or .pdf; whole or not at all.
        score: label of the vertical axis.

    Returns:
        ``path``.

    Raises:
        MethodError: no curves, or another kind of file.
        StorageError: the file could not be written.
        MissingExtraError: matplotlib is not installed.
    """
    path = Path(path)
    by_label = curves if isinstance(curves, Mapping) else {"": curves}
    panels = list(dict.fromkeys((c.name, c.kind) for own in by_label.values() for c in own))
    if not panels or path.suffix.lower() not in FORMATS:
        raise MethodError(f"`path`: expected curves and a file {', '.join(FORMATS)}. Found {len(panels)} curves for "
                          f"{path.name!r}.")  # fmt: skip
    try:
        import matplotlib as mpl
        from matplotlib.figure import Figure
    except ImportError as error:
        raise missing_extra("matplotlib", "cli", "The figure") from error
    with mpl.rc_context({"svg.hashsalt": "curves", "axes.spines.top": False, "axes.spines.right": False}):
        columns = min(len(panels), 4)
        lines = -(-len(panels) // columns)
        figure = Figure(figsize=(3.2 * columns, 2.8 * lines), layout="constrained")
        grid = figure.subplots(lines, columns, sharey=True, squeeze=False).flatten()
        for axes in grid[len(panels) :]:
            axes.remove()
        for axes, panel in zip(grid, panels, strict=False):
            for label, own in by_label.items():
                for curve in (c for c in own if (c.name, c.kind) == panel):
                    low = [m - s for m, s in zip(curve.mean, curve.spread, strict=True)]
                    high = [m + s for m, s in zip(curve.mean, curve.spread, strict=True)]
                    (line,) = axes.plot(curve.levels, curve.mean, marker=".", label=label or None)
                    axes.fill_between(curve.levels, low, high, color=line.get_color(), alpha=0.15, linewidth=0)
                    axes.set_title(f"{curve.name}: {curve.kind}", fontsize=10)
                    axes.set_xlabel("missing rate" if curve.kind == "missing" else "level")
            axes.grid(visible=True, linewidth=0.4)
        for axes in grid[::columns]:
            axes.set_ylabel(score)
        if len(by_label) > 1:
            grid[0].legend(frameon=False, fontsize=8)
        buffer = io.BytesIO()
        figure.savefig(buffer, format=path.suffix.lower()[1:], dpi=150, metadata=_timeless(path.suffix.lower()))
    return write_bytes(path, buffer.getvalue(), "Choose another place.")


def _timeless(suffix: str) -> dict[str, None]:
    """Metadata without the time of drawing, so that the same curves give the same file."""
    return {} if suffix == ".png" else {"Date": None} if suffix == ".svg" else {"CreationDate": None}
