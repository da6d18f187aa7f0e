"""Docstrings as Markdown, for the reference of the site: an extension of griffe that mkdocstrings loads."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import griffe

sys.path.insert(0, str(Path(__file__).parent))
from site_pages import formulas, outside_code


class Docstrings(griffe.Extension):
    """The roles of our docstrings, references to papers and formulas, in Markdown and MathML."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        if obj.docstring is not None:
            text = plain(obj.docstring.value)
            fields = obj.is_class and any("NamedTuple" in str(base) for base in getattr(obj, "bases", ()))
            obj.docstring.value = re.sub(r"^Args:$", "Attributes:", text, flags=re.MULTILINE) if fields else text


def plain(text: str) -> str:
    r"""``:class:`~a.B``` as code, ``:math:`` and ``.. math::`` as MathML, double backticks as single ones."""
    text = re.sub(r"\.\. math::\s*\n?((?:.+\n?)+)", lambda m: f"$${' '.join(m[1].split())}$$\n", text)
    text = re.sub(r":math:`([^`]+)`", r"$\1$", text)
    text = re.sub(r":\w+:`~?([^`]+)`", lambda m: f"`{m[1].removeprefix('equimodal.')}`", text)
    text = re.sub(r"\[(\w+\d{4})\]_?", r"\1", text).replace("``", "`")
    text = re.sub(r"^(\s*)Example:$", r"\1Examples:", text, flags=re.MULTILINE)  # the name that griffe knows
    lines = re.split(r"^((?:[ ]*(?:>>>|\.\.\.) .*\n?)+)", text, flags=re.MULTILINE)
    return "".join(part if i % 2 else outside_code(part, formulas) for i, part in enumerate(lines))
