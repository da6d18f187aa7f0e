"""How lines and rows are told apart: one colour per method on the whole page, grey and dashes for controls."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

_COLOURS = (
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
_GREY = "#858b94"
_DASHES = ("", "6 3", "1.5 2.5", "8 3 1.5 3", "12 4", "4 2 1 2 1 2")
_WIDTHS = (1.8, 1.1)


@dataclass(frozen=True)
class Stroke:
    """How a line is drawn.

    Args:
        label: what it stands for.
        colour: of the line, as CSS reads it.
        dash: lengths of dashes and gaps; empty for a line without gaps.
        width: in the unit of the drawing.
        control: whether it is that of a control.
    """

    label: str
    colour: str
    dash: str
    width: float = _WIDTHS[0]
    control: bool = False


def strokes(labels: Sequence[tuple[str, bool]]) -> list[Stroke]:
    """One line style per method and control: colours for methods, greys for controls, all different up to sixty.

    Args:
        labels: label, and whether it is a control.
    """
    made, colours, greys = [], 0, 0
    for label, control in labels:
        if control:
            dash, width = _DASHES[greys % len(_DASHES)], _WIDTHS[greys // len(_DASHES) % len(_WIDTHS)]
            made.append(Stroke(label, _GREY, dash, width, control=True))
            greys += 1
        else:
            dash = _DASHES[colours // len(_COLOURS) % len(_DASHES)]
            made.append(Stroke(label, _COLOURS[colours % len(_COLOURS)], dash))
            colours += 1
    return made


def dashes(names: Sequence[str], colour: str = "currentColor") -> list[Stroke]:
    """One kind of dashes per name, in one colour: for the parts of one method, such as its modalities."""
    return [
        Stroke(name, colour, _DASHES[i % len(_DASHES)], _WIDTHS[i // len(_DASHES) % len(_WIDTHS)])
        for i, name in enumerate(names)
    ]
