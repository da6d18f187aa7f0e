"""Where the cells of a comparison lie: one folder each, which the label can be read from."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from urllib.parse import quote

from equimodal.errors import MethodError

_KEPT = frozenset("-_.[]=+,")


def cell_folder(folder: Path, label: str, seed: int) -> Path:
    """The folder of one run of a comparison, always inside its ``cells``."""
    return folder / "cells" / _name(label) / f"seed{seed}"


def path_to_cell(label: str, seed: int) -> str:
    """The path from the folder of any cell to that of another, which holds wherever the comparison lies.

    Example:
        >>> path_to_cell("one modality", 0)
        '../../one_modality/seed0'
    """
    return f"../../{_name(label)}/seed{seed}"


def check_labels(labels: Iterable[str]) -> None:
    """Refuse labels that would not have a folder each.

    Raises:
        MethodError: an empty label, or two that share a folder.
    """
    owners: dict[str, str] = {}
    for label in labels:
        if not label:
            raise MethodError("`entries`: expected labels with at least one character. Found ''. Name that entry.")
        other = owners.setdefault(_name(label), label)
        if other != label:
            raise MethodError(
                f"`entries`: expected labels with a folder each. Found {other!r} and {label!r}, which would share "
                f"cells/{_name(label)}. Rename one of them."
            )


def _name(label: str) -> str:
    """Letters, digits and a few signs as they are, a space as ``_``, everything else as in an address (``%2F``)."""
    text = "".join(c if c.isalnum() or c in _KEPT else "_" if c == " " else quote(c, safe="") for c in label)
    return text if text.strip(".") else text.replace(".", "%2E")
