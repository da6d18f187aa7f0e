"""The facts of a dataset that its page is made from."""

from __future__ import annotations

from dataclasses import dataclass


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
        classes: names of the classes, where they are too many for the code.
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
    classes: tuple[str, ...] = ()
