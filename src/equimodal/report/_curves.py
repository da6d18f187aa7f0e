"""Curves over epochs: scores and losses of all methods, coefficients and further numbers of each."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from equimodal.report._palette import Stroke, dashes, strokes
from equimodal.report._study import Series, Study
from equimodal.report._svg import Axis, Line, line_chart
from equimodal.report._tables import metric_text


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
    found = [
        _score(study, by_method),
        _unimodal(study, by_method),
        *_coefficients(study, by_method),
        *_extras(study, by_method),
    ]
    return [s for s in found if s.panels]


def _score(study: Study, lines: Sequence[Stroke]) -> Section:
    drawn = _pairs(study, lines, lambda epoch: epoch.get("validation_score"))
    loss = _pairs(study, lines, lambda epoch: epoch.get("train_loss"))
    panels = []
    if drawn:
        panels.append(Panel("Validation score", _figure("Validation score", drawn, study.factor, Axis(_label(study)))))
    if loss:
        panels.append(Panel("Training loss", _figure("Training loss", loss, 1.0, Axis("loss", log=True))))
    text = "Mean over seeds; the band is one standard deviation."
    if loss:
        text += " The training loss is each method's own: its level does not compare."
    return Section("Training", text, _used(lines, [*drawn, *loss]), panels)


def _unimodal(study: Study, lines: Sequence[Stroke]) -> Section:
    panels, used = [], []
    for modality in study.modalities:
        drawn = _pairs(study, lines, lambda epoch, m=modality: (epoch.get("unimodal") or {}).get(m))  # type: ignore[misc]
        if drawn:
            panels.append(Panel(modality, _figure(f"{modality} alone", drawn, study.factor, Axis(_label(study)))))
            used += drawn
    text = "Validation score of each modality's own output, for the methods that have one."
    return Section("Modalities", text, _used(lines, used), panels)


def _coefficients(study: Study, lines: Sequence[Stroke]) -> list[Section]:
    names = dict.fromkeys(n for row in study.rows for n in study.names(row.label, "coefficients"))
    made = []
    for name in names:
        title = f"Coefficients: {name}"
        paths = {m: ("coefficients", name, m) for m in study.modalities}
        made.append(_by_method(study, lines, title, "Mean over the steps of an epoch.", paths, Axis("coefficient")))
    return made


def _extras(study: Study, lines: Sequence[Stroke]) -> list[Section]:
    groups: dict[str, dict[str, tuple[str, ...]]] = {}
    for row in study.rows:
        for name in study.names(row.label, "extras"):
            group, _, key = name.partition("/")
            groups.setdefault(group, {})[key or group] = ("extras", name)
    made = []
    for group in sorted(groups, key=lambda g: g != "plasticity"):
        text, axis = "As the method reports it; mean over the steps of an epoch.", Axis("value")
        if group == "plasticity":
            text = "Remaining plasticity trace(P)/d of the projectors: 1 is a free layer, 0 one that cannot learn."
            axis = Axis("value", 0.0, 1.03)
        title = group.replace("_", " ").capitalize()
        made.append(_by_method(study, lines, title, text, groups[group], axis))
    return made


def _by_method(
    study: Study, lines: Sequence[Stroke], title: str, text: str, paths: Mapping[str, tuple[str, ...]], axis: Axis
) -> Section:
    """One panel per method, in its colour; the kinds of dashes are the names of ``paths``."""
    kinds = dashes(list(paths))
    panels: list[Panel] = []
    used: dict[str, None] = {}
    for line in lines:
        found = [(kind, study.series(line.label, _nested(*paths[kind.label]))) for kind in kinds]
        drawn = [(replace(kind, colour=line.colour), series) for kind, series in found if series is not None]
        if drawn:
            panels.append(Panel(line.label, _figure(f"{title}, {line.label}", drawn, 1.0, axis)))
            used |= {kind.label: None for kind, _ in drawn}
    return Section(title, text, [kind for kind in kinds if kind.label in used], panels)


def run_panels(study: Study, line: Stroke, epochs: Sequence[Mapping[str, Any]]) -> list[tuple[Panel, Sequence[Stroke]]]:
    """The curves of one run, each with its legend: loss, scores of prediction and modalities, all that it reports.

    Args:
        study: the comparison, for its unit and modalities.
        line: of the run's method.
        epochs: of the run.
    """
    own = replace(study, histories={line.label: [epochs]}, rows=tuple(r for r in study.rows if r.label == line.label))
    named = {"prediction": ("validation_score",), **{m: ("unimodal", m) for m in study.modalities}}
    scores = _by_method(own, [line], "Validation score", "", named, Axis(_label(study)))
    scaled = [(k, own.series(line.label, _nested(*named[k.label]))) for k in scores.strokes]
    drawn = [(replace(k, colour=line.colour), s) for k, s in scaled if s is not None]
    made: list[tuple[Panel, Sequence[Stroke]]] = []
    if drawn:
        figure = _figure("Validation score", drawn, study.factor, Axis(_label(study)))
        made.append((Panel("Validation score", figure), scores.strokes))
    loss = _pairs(own, [line], lambda epoch: epoch.get("train_loss"))
    if loss:
        made.append((Panel("Training loss", _figure("Training loss", loss, 1.0, Axis("loss", log=True))), []))
    for section in [*_coefficients(own, [line]), *_extras(own, [line])]:
        made += [(Panel(section.title, panel.svg), section.strokes) for panel in section.panels]
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


def _figure(title: str, drawn: Sequence[tuple[Stroke, Series]], factor: float, y: Axis) -> str:
    lines = [
        Line(
            stroke,
            [e + 1 for e in series.epochs],
            [v * factor for v in series.mean],
            [v * abs(factor) for v in series.std],
        )
        for stroke, series in drawn
    ]
    return line_chart(title, lines, Axis("epoch", whole=True), y)
