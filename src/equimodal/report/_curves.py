"""Curves as inline SVG: no words of the user inside, colours that follow the page's light or dark scheme."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from equimodal.errors import missing_extra
from equimodal.report._study import Series, Study
from equimodal.report._tables import metric_text

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_INK, _GRID = "#010203", "#040506"  # replaced by colours of the style sheet
_PALETTE = (
    "#1f83c9",
    "#d9580d",
    "#1c9a62",
    "#b35bd1",
    "#c2337a",
    "#a07d00",
    "#12939a",
    "#7a6ff0",
    "#c8443c",
    "#5d8f1d",
)
_GREY = "#8a8f98"
_DASHES = ("-", (0, (5, 2)), (0, (1.5, 1.5)), (0, (6, 2, 1.5, 2)), (0, (9, 3)), (0, (3, 1, 1, 1, 1, 1)))


@dataclass(frozen=True)
class Stroke:
    """How a line is drawn; controls are grey and told apart by their dashes."""

    label: str
    colour: str
    dash: str | tuple[float, tuple[float, ...]]

    @property
    def dasharray(self) -> str:
        """The dashes for SVG."""
        return "none" if isinstance(self.dash, str) else " ".join(f"{2 * d:g}" for d in self.dash[1])


@dataclass(frozen=True)
class Panel:
    """One small figure: a caption (plain text) and its SVG."""

    caption: str
    svg: str


@dataclass(frozen=True)
class Section:
    """Figures that belong together, with the lines they share."""

    title: str
    text: str
    strokes: Sequence[Stroke]
    panels: Sequence[Panel]


def sections(study: Study) -> list[Section]:
    """All figures that the histories of ``study`` have numbers for."""
    by_method = strokes([(row.label, row.control) for row in study.rows])
    by_modality = strokes([(m, False) for m in study.modalities])
    found = [
        _score(study, by_method),
        _unimodal(study, by_method),
        *_coefficients(study, by_modality),
        *_extras(study),
    ]
    return [s for s in found if s.panels]


def strokes(labels: Sequence[tuple[str, bool]]) -> list[Stroke]:
    """One line style per label: colours for methods, greys for controls, all different up to sixty."""
    made, colours, greys = [], 0, 0
    for label, control in labels:
        if control:
            made.append(Stroke(label, _GREY, _DASHES[greys % len(_DASHES)]))
            greys += 1
        else:
            made.append(
                Stroke(label, _PALETTE[colours % len(_PALETTE)], _DASHES[colours // len(_PALETTE) % len(_DASHES)])
            )
            colours += 1
    return made


def _score(study: Study, lines: Sequence[Stroke]) -> Section:
    drawn = _pairs(study, lines, lambda epoch: epoch.get("validation_score"))
    loss = _pairs(study, lines, lambda epoch: epoch.get("train_loss"))
    panels = []
    if drawn:
        panels.append(Panel("Validation score", _figure("score", drawn, study.factor, _label(study))))
    if loss:
        panels.append(Panel("Training loss", _figure("loss", loss, 1.0, "loss", log=True)))
    text = "Mean over seeds; the band is one standard deviation."
    if loss:
        text += " The training loss is each method's own: its level does not compare."
    return Section("Training", text, _used(lines, [*drawn, *loss]), panels)


def _unimodal(study: Study, lines: Sequence[Stroke]) -> Section:
    panels, used = [], []
    for position, modality in enumerate(study.modalities):
        drawn = _pairs(study, lines, lambda epoch, m=modality: (epoch.get("unimodal") or {}).get(m))  # type: ignore[misc]
        if drawn:
            panels.append(Panel(modality, _figure(f"unimodal{position}", drawn, study.factor, _label(study))))
            used += drawn
    text = "Validation score of each modality's own output, for the methods that have one."
    return Section("Modalities", text, _used(lines, used), panels)


def _coefficients(study: Study, lines: Sequence[Stroke]) -> list[Section]:
    names = dict.fromkeys(n for row in study.rows for n in study.names(row.label, "coefficients"))
    made = []
    for position, name in enumerate(names):
        panels, used = [], []
        for number, row in enumerate(study.rows):
            drawn = []
            for line in lines:
                series = study.series(row.label, _nested("coefficients", name, line.label))
                if series is not None:
                    drawn.append((line, series))
            if drawn:
                panels.append(Panel(row.label, _figure(f"coefficient{position}-{number}", drawn, 1.0, "coefficient")))
                used += drawn
        made.append(Section(f"Coefficients: {name}", "Mean over the steps of an epoch.", _used(lines, used), panels))
    return made


def _extras(study: Study) -> list[Section]:
    groups: dict[str, dict[str, None]] = {}
    for row in study.rows:
        for name in study.names(row.label, "extras"):
            group, _, key = name.partition("/")
            groups.setdefault(group, {})[key or group] = None
    made = []
    for position, group in enumerate(sorted(groups, key=lambda g: g != "plasticity")):
        lines = strokes([(key, False) for key in groups[group]])
        panels, used = [], []
        for number, row in enumerate(study.rows):
            drawn = []
            for line in lines:
                name = f"{group}/{line.label}" if line.label != group else group
                series = study.series(row.label, _nested("extras", name))
                if series is not None:
                    drawn.append((line, series))
            if drawn:
                limits = (0.0, 1.03) if group == "plasticity" else None
                panels.append(
                    Panel(row.label, _figure(f"extra{position}-{number}", drawn, 1.0, "value", limits=limits))
                )
                used += drawn
        text = "As the method reports it; mean over the steps of an epoch."
        if group == "plasticity":
            text = "Remaining plasticity trace(P)/d of the projectors: 1 is a free layer, 0 one that cannot learn."
        made.append(Section(group.replace("_", " ").capitalize(), text, _used(lines, used), panels))
    return made


def _nested(*path: str) -> Callable[[Mapping[str, Any]], Any]:
    def pick(epoch: Mapping[str, Any]) -> Any:
        value: Any = epoch
        for key in path:
            value = value.get(key) if isinstance(value, dict) else None
        return value

    return pick


def _pairs(
    study: Study, lines: Sequence[Stroke], pick: Callable[[Mapping[str, Any]], Any]
) -> list[tuple[Stroke, Series]]:
    found = ((line, study.series(line.label, pick)) for line in lines)
    return [(line, series) for line, series in found if series is not None]


def _used(lines: Sequence[Stroke], drawn: Sequence[tuple[Stroke, Series]]) -> list[Stroke]:
    labels = {line.label for line, _ in drawn}
    return [line for line in lines if line.label in labels]


def _label(study: Study) -> str:
    return metric_text(study)


def _figure(
    name: str,
    drawn: Sequence[tuple[Stroke, Series]],
    factor: float,
    ylabel: str,
    log: bool = False,
    limits: tuple[float, float] | None = None,
) -> str:
    try:
        import matplotlib as mpl
        from matplotlib.figure import Figure
        from matplotlib.ticker import NullFormatter, StrMethodFormatter
    except ImportError as error:
        raise missing_extra("matplotlib", "cli", "The HTML report") from error
    settings: Any = {
        "svg.fonttype": "none",
        "svg.hashsalt": name,  # ids differ from figure to figure, and are the same in every run
        "font.size": 10,
        "font.family": "sans-serif",
        "text.color": _INK,
        "axes.labelcolor": _INK,
        "axes.edgecolor": _GRID,
        "xtick.color": _INK,
        "ytick.color": _INK,
        "grid.color": _GRID,
        "axes.spines.top": False,
        "axes.spines.right": False,
    }
    with mpl.rc_context(settings):
        figure = Figure(figsize=(4.6, 2.9), layout="constrained")
        axes = figure.add_subplot()
        _draw(axes, drawn, factor)
        axes.set_xlabel("epoch")
        axes.set_ylabel(ylabel)
        if log and all(value > 0 for _, series in drawn for value in series.mean):
            axes.set_yscale("log")
            axes.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
            few = max(v for _, s in drawn for v in s.mean) < 30 * min(v for _, s in drawn for v in s.mean)
            axes.yaxis.set_minor_formatter(StrMethodFormatter("{x:g}") if few else NullFormatter())
        if limits is not None:
            axes.set_ylim(*limits)
        axes.grid(visible=True, linewidth=0.6)
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    return _inline(buffer.getvalue())


def _draw(axes: Axes, drawn: Sequence[tuple[Stroke, Series]], factor: float) -> None:
    from matplotlib.ticker import MaxNLocator

    for line, series in drawn:
        mean = [v * factor for v in series.mean]
        epochs = [e + 1 for e in series.epochs]
        marker = "o" if len(epochs) == 1 else ""
        axes.plot(epochs, mean, color=line.colour, linestyle=line.dash, linewidth=1.6, marker=marker)
        if any(series.std):
            low = [m - s * abs(factor) for m, s in zip(mean, series.std, strict=True)]
            high = [m + s * abs(factor) for m, s in zip(mean, series.std, strict=True)]
            axes.fill_between(epochs, low, high, color=line.colour, alpha=0.13, linewidth=0)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))


def _inline(svg: str) -> str:
    """The drawing alone, without prologue, metadata, name spaces and ids nobody refers to; in the page's colours."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"\s*<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r"\sxmlns(:\w+)?=\"[^\"]*\"", "", svg).replace("xlink:href", "href")
    referred = set(re.findall(r"(?:href=\"#|url\(#)([^\")]+)", svg))
    svg = re.sub(r"\sid=\"([^\"]*)\"", lambda m: m.group(0) if m.group(1) in referred else "", svg)
    svg = re.sub(r"\s(?:width|height)=\"[\d.]+pt\"", "", svg, count=2)
    svg = svg.replace("<svg", '<svg aria-hidden="true"', 1)
    return svg.replace(_INK, "currentColor").replace(_GRID, "var(--grid)").strip()
