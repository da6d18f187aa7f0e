"""From the raw download of a dataset to a bundle: ``prepare(name, source, out)``, then ``load(out)``.

Every dataset is one class with its facts, its parameters (defaults of the papers, each with its source), and three
methods; the engine does the rest: parallel decoding, restart, manifest, checks. ``docs/datasets`` has a page of each.
"""

from equimodal.data.prepare._check import CheckReport, check
from equimodal.data.prepare._engine import prepare
from equimodal.data.prepare._facts import Facts, Published
from equimodal.data.prepare._finish import Report
from equimodal.data.prepare._interface import (
    ArraySpec,
    Index,
    Item,
    Preparation,
    Problem,
    SplitSpec,
    Target,
    UnreadableError,
)
from equimodal.data.prepare._presets import preset, presets
from equimodal.data.prepare._registry import available, get

__all__ = [
    "ArraySpec",
    "CheckReport",
    "Facts",
    "Index",
    "Item",
    "Preparation",
    "Problem",
    "Published",
    "Report",
    "SplitSpec",
    "Target",
    "UnreadableError",
    "available",
    "check",
    "get",
    "prepare",
    "preset",
    "presets",
]
