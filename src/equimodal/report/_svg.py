"""Drawings as inline SVG: every text escaped, colours of the page, values that a small script shows."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from equimodal._utils.printing import printable
from equimodal.report._palette import Stroke

POINTS = 80
"""Points of a line at most; of longer ones every k-th is drawn, and the last."""

_WIDTH, _HEIGHT = 380.0, 232.0
_LEFT, _RIGHT, _TOP, _BOTTOM = 46.0, 10.0, 10.0, 36.0
_ROWS = 5  # labels of the vertical axis, about


@dataclass(frozen=True)
class Line:
    """A line, with a band around it where there is a spread.

    Args:
        stroke: how it is drawn.
        x: positions, rising.
        y: values.
        spread: half of the band's height at every position; empty for no band.
        dots: whether the points are marked.
    """

    stroke: Stroke
    x: Sequence[float]
    y: Sequence[float]
    spread: Sequence[float] = ()
    dots: bool = False


@dataclass(frozen=True)
class Axis:
    """One axis.

    Args:
        title: what it shows.
        low: end of it; default that of the values.
        high: end of it; default that of the values.
        log: whether its steps are factors.
        whole: whether it shows whole numbers only.
    """

    title: str
    low: float | None = None
    high: float | None = None
    log: bool = False
    whole: bool = False


@dataclass(frozen=True)
class _Scale:
    low: float
    high: float
    start: float
    end: float
    log: bool

    def __call__(self, value: float) -> float:
        low, high, at = (math.log10(v) if self.log else v for v in (self.low, self.high, value))
        return self.start + (at - low) / ((high - low) or 1.0) * (self.end - self.start)


def line_chart(
    title: str,
    lines: Sequence[Line],
    x: Axis,
    y: Axis,
    *,
    diagonal: bool = False,
    level: float | None = None,
    points: Sequence[tuple[float, float]] = (),
    colour: str = "currentColor",
) -> str:
    """Lines over an axis; with ``points`` a cloud of them too.

    Args:
        title: said to those who do not see it.
        lines: at least one, or points.
        x: the horizontal axis.
        y: the vertical axis.
        diagonal: draw the line of equal values.
        level: draw a horizontal line there.
        points: (x, y) of a cloud.
        colour: of the cloud.
    """
    lines = [_thinned(line) for line in lines]
    xs = [v for line in lines for v in line.x] + [p[0] for p in points]
    ys = [v for line in lines for v in line.y] + [p[1] for p in points]
    ys += [v + s * sign for line in lines for v, s in zip(line.y, line.spread, strict=False) for sign in (-1, 1)]
    log = y.log and min(ys) > 0
    up = _scale(y, ys, _HEIGHT - _BOTTOM, _TOP, log, margin=0.05)
    left = _left(up, y)
    across = _scale(x, xs, left, _WIDTH - _RIGHT, False, margin=0.0 if lines and not points else 0.03)
    parts = [*_axis(x, across, left, vertical=False), *_axis(y, up, left, vertical=True)]
    if diagonal:
        low, high = max(across.low, up.low), min(across.high, up.high)
        parts.append(f'<path class="equal" d="M{_at(across(low), up(low))}L{_at(across(high), up(high))}"/>')
    if level is not None:
        parts.append(f'<path class="equal" d="M{left:g} {_short(up(level))}H{_WIDTH - _RIGHT:g}"/>')
    if points:
        dots = "".join(f"M{_at(across(a), up(b))}h0" for a, b in points)
        parts.append(f'<path class="cloud" d="{dots}" stroke="{colour}"/>')
    for line in lines:
        parts += _line(line, across, up)
    said = ". ".join([title, *(_said(line) for line in lines[:12])])
    return (
        f'<svg class="chart" viewBox="0 0 {_WIDTH:g} {_HEIGHT:g}" role="img" tabindex="0" data-x="{_text(x.title)}" '
        f'aria-label="{_text(said)}">{"".join(parts)}</svg>'
    )


def whisker(
    low: float, mean: float, high: float, ends: tuple[float, float], zero: bool = False, colour: str = "currentColor"
) -> str:
    """An interval with its mean on a small axis from ``ends[0]`` to ``ends[1]``; hidden from screen readers.

    Args:
        low: lower end of the interval.
        mean: its middle.
        high: upper end.
        ends: of the axis, the same for a column.
        zero: mark where 0 is.
        colour: of the mark.
    """
    scale = _Scale(*ends, 3, 97, False)
    parts = []
    if zero:
        parts.append(f'<path class="zero" d="M{_short(scale(0.0))} 0V14"/>')
    a, m, b = (_short(scale(v)) for v in (low, mean, high))
    parts.append(f'<path d="M{a} 7H{b}M{a} 4V10M{b} 4V10" stroke="{colour}" stroke-width="1.6" fill="none"/>')
    parts.append(f'<circle cx="{m}" cy="7" r="3.2" fill="{colour}"/>')
    return f'<svg class="whisker" viewBox="0 0 100 14" aria-hidden="true">{"".join(parts)}</svg>'


def swatch(stroke: Stroke) -> str:
    """The sample of a line, for a legend or a row; a control has a hollow mark."""
    dash = f' stroke-dasharray="{stroke.dash}"' if stroke.dash else ""
    fill = "var(--page)" if stroke.control else stroke.colour
    return (
        f'<svg class="swatch" viewBox="0 0 34 14" aria-hidden="true"><path d="M1 7H33" fill="none" '
        f'stroke="{stroke.colour}" stroke-width="2.4"{dash}/><circle cx="17" cy="7" r="4" fill="{fill}" '
        f'stroke="{stroke.colour}" stroke-width="1.8"/></svg>'
    )


def number_text(value: float) -> str:
    """A number with four digits, as charts show it."""
    return f"{0.0 if abs(value) < 1e-12 else value:.4g}"


def _thinned(line: Line) -> Line:
    step = -(-len(line.x) // POINTS)
    if step < 2:
        return line
    kept = sorted({*range(0, len(line.x), step), len(line.x) - 1})
    spread = [line.spread[i] for i in kept] if line.spread else ()
    return Line(line.stroke, [line.x[i] for i in kept], [line.y[i] for i in kept], spread, line.dots)


def _line(line: Line, across: _Scale, up: _Scale) -> list[str]:
    stroke, label = line.stroke, _text(line.stroke.label)
    parts = []
    places = [(across(a), up(min(max(b, up.low), up.high))) for a, b in zip(line.x, line.y, strict=True)]
    if any(line.spread):
        edge = list(zip(line.x, line.y, line.spread, strict=True))
        outline = [(across(a), up(_inside(up, b + s))) for a, b, s in edge]
        outline += [(across(a), up(_inside(up, b - s))) for a, b, s in reversed(edge)]
        path = "L".join(_at(*p) for p in outline)
        parts.append(f'<path d="M{path}Z" fill="{stroke.colour}" opacity=".13"/>')
    if line.dots or len(places) == 1:
        parts += [f'<circle cx="{_short(a)}" cy="{_short(b)}" r="3" fill="{stroke.colour}"/>' for a, b in places]
    dash = f' stroke-dasharray="{stroke.dash}"' if stroke.dash else ""
    xs, values = " ".join(map(number_text, line.x)), " ".join(map(number_text, line.y))
    path = "L".join(_at(*p) for p in places)
    look = f'fill="none" stroke="{stroke.colour}" stroke-width="{stroke.width:g}"{dash} stroke-linejoin="round"'
    data = f'data-label="{label}" data-at="{xs}" data-values="{values}"'
    parts.append(f'<path class="line" d="M{path}" {look} {data}><title>{_text(_said(line))}</title></path>')
    return parts


def _said(line: Line) -> str:
    """A line in words."""
    first, last = number_text(line.y[0]), number_text(line.y[-1])
    return f"{printable(line.stroke.label)}: {first}" + (f" to {last}" if len(line.y) > 1 else "")


def _scale(axis: Axis, values: Sequence[float], start: float, end: float, log: bool, margin: float) -> _Scale:
    low, high = min(values), max(values)
    if log:
        space = max(0.02, margin * (math.log10(high) - math.log10(low)))
        low, high = low / 10**space, high * 10**space
    elif low == high:
        space = abs(low) * 0.05 or 0.5
        low, high = low - space, high + space
    else:
        space = margin * (high - low)
        low, high = low - space, high + space
    low, high = low if axis.low is None else axis.low, high if axis.high is None else axis.high
    return _Scale(low, high if high > low else low + 1.0, start, end, log)


def _left(scale: _Scale, axis: Axis) -> float:
    """Room for the labels of the vertical axis, of 5.8 units a letter, and for its title."""
    longest = max((len(number_text(value)) for value in _ticks(scale, axis.whole, _ROWS)), default=0)
    return max(_LEFT, 22 + 5.8 * longest)


def _axis(axis: Axis, scale: _Scale, left: float, vertical: bool) -> list[str]:
    parts = []
    for value in _ticks(scale, axis.whole, _ROWS if vertical else 7):
        at, label = _short(scale(value)), number_text(value)
        if vertical:
            parts.append(f'<path class="grid" d="M{left:g} {at}H{_WIDTH - _RIGHT:g}"/>')
            parts.append(f'<text x="{left - 6:g}" y="{_short(scale(value) + 3.5)}" text-anchor="end">{label}</text>')
        else:
            parts.append(f'<path class="grid" d="M{at} {_TOP:g}V{_HEIGHT - _BOTTOM:g}"/>')
            parts.append(f'<text x="{at}" y="{_HEIGHT - _BOTTOM + 14:g}" text-anchor="middle">{label}</text>')
    title = _text(axis.title)
    if vertical:
        middle = (_TOP + _HEIGHT - _BOTTOM) / 2
        parts.append(
            f'<text class="axis" transform="translate(10 {middle:g})rotate(-90)" text-anchor="middle">{title}</text>'
        )
    else:
        middle = (left + _WIDTH - _RIGHT) / 2
        parts.append(f'<text class="axis" x="{middle:g}" y="{_HEIGHT - 6:g}" text-anchor="middle">{title}</text>')
    return parts


def _ticks(scale: _Scale, whole: bool, most: int) -> list[float]:
    """Round values between the ends."""
    if scale.log:
        first, last = math.floor(math.log10(scale.low)), math.ceil(math.log10(scale.high))
        for steps in ((1, 2, 3, 5, 7), (1, 2, 5), (1, 3), (1,)):
            found = [
                s * 10.0**p for p in range(first, last + 1) for s in steps if scale.low <= s * 10.0**p <= scale.high
            ]
            if len(found) <= most:
                break
        if len(found) >= 2:
            return found[:: -(-len(found) // most)]
    raw = (scale.high - scale.low) / most
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(s * power for s in (1, 2, 2.5, 5, 10) if s * power >= raw)
    step = max(1.0, float(math.ceil(step))) if whole else step
    first = math.ceil(scale.low / step - 1e-9)
    return [i * step for i in range(first, math.floor(scale.high / step + 1e-9) + 1)]


def _inside(scale: _Scale, value: float) -> float:
    return min(max(value, scale.low), scale.high)


def _at(x: float, y: float) -> str:
    return f"{_short(x)} {_short(y)}"


def _short(value: float) -> str:
    return f"{value:.1f}".removesuffix(".0")


def _text(words: str) -> str:
    return escape(printable(words))
