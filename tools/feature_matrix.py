"""Write the table of docs/engine-features.md from the claims in the code, which the tests of tests/features prove.

`python tools/feature_matrix.py` writes the part between the markers. With `--check` it writes nothing, and its exit
code is 1 if that part is not up to date, or if a feature has no test.
"""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path

from equimodal.engine._features import FEATURES, departures
from equimodal.methods import available, get

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "engine-features.md"
TESTS = ROOT / "tests" / "features"
BEGIN, END = "<!-- matrix: begin -->", "<!-- matrix: end -->"


def table() -> str:
    """Methods x features, notes on what departs, and the claims with the tests that prove them."""
    notes: list[str] = []
    lines = ["| | " + " | ".join(f.title for f in FEATURES.values()) + " |", "|---" * (len(FEATURES) + 1) + "|"]
    for name in available(outside=False):
        cells = [_cell(name, feature, notes) for feature in FEATURES]
        lines.append(f"| [{name}](methods/{name.lower()}.md) | " + " | ".join(cells) + " |")
    lines += ["", *(f"{i}. {note}." for i, note in enumerate(notes, 1)), "", "What *yes* means:", ""]
    lines += ["| feature | claim | proof in `tests/features` |", "|---|---|---|"]
    for feature, (title, claim) in FEATURES.items():
        proof = ", ".join(f"`{file}`" for file in proofs(feature))
        lines.append(f"| {title} | {claim} | {proof} |")
    return "\n".join(lines)


def _cell(name: str, feature: str, notes: list[str]) -> str:
    found = []
    by_default = {text.partition(": ")[0] for text in departures(get(name), feature)}
    general = "no" if "refused" in by_default else "differs" if by_default else "yes"
    for key, text in get(name).info.engine.items():
        features, _, condition = key.partition(": ")
        if feature not in features.split(", "):
            continue
        kind, _, sentence = text.partition(": ")
        verb = "refused" if kind == "refused" else "differs"
        note = f"{name}" + (f" with `{condition}`" if condition else "") + f", {verb}: {sentence}"
        if note not in notes:
            notes.append(note)
        found.append(str(notes.index(note) + 1))
    return general + (f" ({', '.join(found)})" if found else "")


def proofs(feature: str) -> list[str]:
    """The test files with a test of the feature's name."""
    wanted = re.compile(rf"^def test_{feature.replace('-', '_')}\(", re.MULTILINE)
    return [p.name for p in sorted(TESTS.glob("test_*.py")) if wanted.search(p.read_text(encoding="utf-8"))]


def page(text: str) -> str:
    """The page with the part between the markers made anew."""
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n{table()}\n{END}{after}"


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--check", action="store_true", help="write nothing; exit code 1 if the page is not up to date")
    check = parser.parse_args(arguments).check
    unproven = [feature for feature in FEATURES if not proofs(feature)]
    if unproven:
        print(f"no test in tests/features: {', '.join(unproven)}", file=sys.stderr)
        return 1
    text = PAGE.read_text(encoding="utf-8")
    made = page(text)
    if made == text:
        return 0
    if check:
        print(f"stale: {PAGE.relative_to(ROOT)}. Run: python tools/feature_matrix.py", file=sys.stderr)
        return 1
    PAGE.write_text(made, encoding="utf-8")
    print(f"written: {PAGE.relative_to(ROOT)}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
