"""Print which part of the lines of each measured room the tests ran, and fail below a limit.

    python tools/coverage_of_rooms.py [--limit 95]

Reads the `.coverage` that `pytest --cov` left; the rooms are the packages under `source_pkgs` in pyproject.toml.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from coverage import Coverage
from coverage.exceptions import CoverageException


def lines_of(measured: Coverage, file: Path) -> tuple[int, list[int]]:
    """Number of lines with code in a file, and those that never ran."""
    _, code, _, missing, _ = measured.analysis2(str(file))
    return len(code), missing


def main(arguments: list[str]) -> int:
    """Print the table; 0 if every room reaches the limit."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--limit", type=float, default=95.0, help="per cent of the lines of each room")
    limit = parser.parse_args(arguments).limit
    measured = Coverage()
    measured.load()
    rooms = measured.get_option("run:source_pkgs")
    files = [Path(file) for file in measured.get_data().measured_files()]
    total = missed = 0
    below = []
    print(f"{'lines that tests ran':28}{'lines':>8}{'missed':>8}{'':>8}")
    for room in rooms:
        folder = Path(*room.split(".")).parts
        counts = {f: lines_of(measured, f) for f in sorted(files) if has_part(f, folder)}
        lines, lost = sum(n for n, _ in counts.values()), sum(len(m) for _, m in counts.values())
        part = 100 * (1 - lost / lines) if lines else 0.0
        print(f"{room:28}{lines:8}{lost:8}{part:7.1f}%")
        total, missed = total + lines, missed + lost
        if part < limit:
            below.append(f"{room}: {part:.1f} % of its lines ran, expected {limit:g} %. Never ran:")
            below += [f"  {f.name}: {', '.join(map(str, m))}" for f, (_, m) in counts.items() if m]
    print(f"{'total':28}{total:8}{missed:8}{100 * (1 - missed / total) if total else 0.0:7.1f}%")
    print("\n".join(below), end="\n" if below else "")
    return 1 if below else 0


def has_part(file: Path, folder: tuple[str, ...]) -> bool:
    """Whether consecutive folders of a path are these."""
    parts = file.parent.parts
    return any(parts[i : i + len(folder)] == folder for i in range(len(parts)))


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except CoverageException as error:
        sys.exit(f"{error} First: pytest --cov")
