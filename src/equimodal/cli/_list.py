"""``equimodal list``: from the registry, which imports no tensors unless another package registers a method."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.resources import files

from equimodal._utils.plain_yaml import read_yaml
from equimodal.cli._main import Context
from equimodal.cli._parser import CommandParser
from equimodal.methods import MethodSummary, overview

BUILT_IN = {
    "avdigits": "handwritten digits paired with spoken digits; dials for the noise of each modality",
    "synthetic": "generator with known best result, for every task; dials for information, redundancy, synergy ...",
}


def run(argv: Sequence[str], _: Context) -> int:
    """Print the methods and the datasets."""
    if argv:  # help, or a mistake; the parser takes longer to import than everything else here
        CommandParser("list", "The methods and datasets, one line each.", config=False).parse(argv)
    methods = overview()
    sections = {
        "methods": {m.name: _line(m) for m in methods if not m.control},
        "controls": {m.name: _line(m) for m in methods if m.control},
        "built-in datasets": BUILT_IN,
        "cards (datasets whose file you give with --data PATH/NAME.npz)": card_titles(),
    }
    for title, entries in sections.items():
        print(f"{title}:")
        width = max(map(len, entries), default=0)
        for name, text in entries.items():
            print(f"  {name:<{width}}  {text}")
    return 0


def _line(method: MethodSummary) -> str:
    return method.title + (f" (from the package {method.package})" if method.package else "")


_PURPOSE = "Reading the cards of the datasets"


def card_titles() -> dict[str, str]:
    """Name of each card that comes with the library -> one line."""
    titles = {}
    for card in sorted((files("equimodal") / "data" / "cards").iterdir(), key=lambda entry: entry.name):
        if card.name.endswith(".yaml"):
            description = read_yaml(card.read_text(encoding="utf-8"), card.name, _PURPOSE).get("description", "")
            titles[card.name.removesuffix(".yaml")] = str(description).split(". ")[0].rstrip(".")
    return titles
