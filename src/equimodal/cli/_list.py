"""``equimodal list``: read from the source, so that it answers at once."""

from __future__ import annotations

import ast
from collections.abc import Sequence
from importlib.resources import files

from equimodal.cli._main import Context
from equimodal.cli._parser import CommandParser
from equimodal.errors import missing_extra

BUILT_IN = {
    "avdigits": "handwritten digits paired with spoken digits; dials for the noise of each modality",
    "synthetic": "latent-variable generator with known best accuracy; dials for information, redundancy, synergy ...",
}


def run(argv: Sequence[str], _: Context) -> int:
    """Print the methods and the datasets."""
    if argv:  # help, or a mistake; the parser takes longer to import than everything else here
        CommandParser("list", "The methods and datasets, one line each.", config=False).parse(argv)
    methods = method_titles()
    sections = {
        "methods": {n: title for n, (title, control) in methods.items() if not control},
        "controls": {n: title for n, (title, control) in methods.items() if control},
        "built-in datasets": BUILT_IN,
        "cards (datasets whose file you give with --data PATH/NAME.npz)": card_titles(),
    }
    for title, entries in sections.items():
        print(f"{title}:")
        width = max(map(len, entries), default=0)
        for name, text in entries.items():
            print(f"  {name:<{width}}  {text}")
    return 0


def method_titles() -> dict[str, tuple[str, bool]]:
    """Name -> title and whether it is a control, as the registry has them."""
    folder = files("equimodal") / "methods"
    found: dict[str, tuple[str, bool]] = {}
    for file in sorted(folder.iterdir(), key=lambda entry: entry.name):
        if not file.name.endswith(".py"):
            continue
        for node in ast.parse(file.read_text(encoding="utf-8")).body:
            info = _info(node) if isinstance(node, ast.ClassDef) else None
            if info is not None and isinstance(node, ast.ClassDef):
                found[node.name] = info
    return found


def _info(node: ast.ClassDef) -> tuple[str, bool] | None:
    for statement in node.body:
        if isinstance(statement, ast.Assign) and isinstance(statement.value, ast.Call):
            call = statement.value
            if isinstance(call.func, ast.Name) and call.func.id == "MethodInfo":
                given = {k.arg: ast.literal_eval(k.value) for k in call.keywords if k.arg in ("title", "control")}
                return given["title"], given.get("control", False)
    return None


def card_titles() -> dict[str, str]:
    """Name of each card that comes with the library -> one line."""
    try:
        import yaml
    except ImportError as error:
        raise missing_extra("pyyaml", "cli", "Reading the cards of the datasets") from error
    titles = {}
    for card in sorted((files("equimodal") / "data" / "cards").iterdir(), key=lambda entry: entry.name):
        if card.name.endswith(".yaml"):
            description = yaml.safe_load(card.read_text(encoding="utf-8")).get("description", "")
            titles[card.name.removesuffix(".yaml")] = str(description).split(". ")[0].rstrip(".")
    return titles
