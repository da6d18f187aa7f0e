"""Write constraints-lowest.txt, or with --check tell whether it is fresh: python tools/lowest_versions.py [--check].

It has every declared dependency at its lower bound. `make test-lowest` installs this set, so a lower bound of
pyproject.toml is a version that the test suite was run with. Only what pyproject.toml names is in it; what those
packages need in turn is the newest that fits, as for a user.
"""

from __future__ import annotations

import sys
import tomllib
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).resolve().parents[1]
TARGET = ROOT / "constraints-lowest.txt"
NOTE = """\
# Written by tools/lowest_versions.py: dependencies of pyproject.toml at their lower bounds, for `make test-lowest`.
"""


def lowest(project: dict[str, Any]) -> dict[str, str]:
    """Canonical name -> lower bound, of the dependencies and of every extra but those that no test needs.

    Raises:
        ValueError: a range has no lower bound.
    """
    table = project["project"]
    extras = {
        name: texts for name, texts in table["optional-dependencies"].items() if name not in ("dev", "loggers", "ray")
    }
    texts = [*table["dependencies"], *(text for texts in extras.values() for text in texts)]
    bounds: dict[str, str] = {}
    for requirement in map(Requirement, texts):
        name = canonicalize_name(requirement.name)
        if name == table["name"]:
            continue
        lower = [s.version for s in requirement.specifier if s.operator in (">=", "==")]
        if len(lower) != 1:
            raise ValueError(f"{requirement}: expected one lower bound (>=)")
        bounds[name] = max(bounds.get(name, lower[0]), lower[0], key=Version)  # both extras are installed
    return bounds


def text() -> str:
    """The content of the file."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    return NOTE + "".join(f"{name}=={version}\n" for name, version in sorted(lowest(project).items()))


def main(arguments: list[str]) -> int:
    """Write the file, or with --check tell whether it is up to date."""
    if "--check" in arguments:
        fresh = TARGET.exists() and TARGET.read_text(encoding="utf-8") == text()
        if not fresh:
            print("not up to date: constraints-lowest.txt; run python tools/lowest_versions.py")
        return 0 if fresh else 1
    TARGET.write_text(text(), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
