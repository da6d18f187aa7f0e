"""The facts of a dataset that its page is made from."""

from __future__ import annotations

from dataclasses import dataclass

FACES = (
    "`--crop face` takes the largest face that scikit-image's cascade of local binary patterns finds: a square from "
    "the forehead to the chin, with a `--margin` of its size on each side; a square beyond the frame's edge is moved "
    "into it. A frame without a face takes the place of the face in the nearest frame of the clip; a clip without any "
    "is stored uncut. `face.npy` says it for each frame (2 found, 1 from the nearest frame, 0 uncut), so "
    '`(numpy.load("face.npy") == 0).sum()` counts the frames of clips that show no face. Of 100 faces of LFW, '
    "enlarged and put into frames, the detector found 97, and a face in 1 of 100 other pictures. It is made for "
    "frontal, upright faces: the one in its test is found when it is tilted by 10 degrees, and lost at 25."
)
"""What ``crop="face"`` does; a note of every dataset that has it."""


@dataclass(frozen=True)
class Published:
    """One published number: which method, under which protocol, from where."""

    method: str
    metric: str
    value: str
    source: str
    note: str = ""


@dataclass(frozen=True)
class Facts:
    """What a user has to know about a dataset before downloading it.

    Args:
        title: as its authors write it.
        summary: one or two sentences: what is in it.
        where: where to get it, one entry each.
        licence: terms of use.
        citation: the papers to cite.
        layout: the raw folder as a drawing (a code block on the page).
        protocols: protocol name -> who uses it and what is wrong with it.
        size: raw and prepared, about.
        published: numbers from papers.
        notes: traps, differences between papers, each one paragraph.
    """

    title: str
    summary: str
    where: tuple[str, ...]
    licence: str
    citation: tuple[str, ...]
    layout: str
    protocols: tuple[tuple[str, str], ...]
    size: str = ""
    published: tuple[Published, ...] = ()
    notes: tuple[str, ...] = ()
