"""Write docs/audit.md: where released code computes something else than its paper, with the numbers that show it.

`python tools/audit_page.py` runs the demonstrations of `tests/audit` and writes the page if it has changed. With
`--check` it writes nothing, and its exit code is 1 if the page is missing or stale.
"""

from __future__ import annotations

import argparse
import itertools
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from tests.audit.differences import Difference, Value, discover  # noqa: E402

PAGE = ROOT / "docs" / "audit.md"
HEAD = """<!-- Written by tools/audit_page.py from tests/audit. Change the demonstrations there, then run it again. -->

# Papers and their released code

What a paper describes and what was released with it are not always the same computation. This page lists the
differences that we know of, each with two numbers from a small demonstration that runs in our tests
(`tests/audit/of_NAME.py`). The commit is the one that was read; later ones may differ. Where `variant="released"`
exists, it computes what the release does.

None of this says that an idea does not work. It says that published numbers may have been obtained with something else
than the equations. If we have misread something, please open an issue: the demonstration will be corrected or removed.
No code was taken from these repositories.
"""


def page() -> str:
    lines = [HEAD]
    for method, group in itertools.groupby(discover(), key=lambda d: d.method):
        lines.append(f"## {method}\n")
        for difference in group:
            lines += section(difference)
    return "\n".join(lines)


def section(difference: Difference) -> list[str]:
    shown = difference.show()
    source = f"`{difference.repository}` at `{difference.commit[:7]}`"
    return [
        f"### {difference.method}: {difference.title}\n",
        f"Read: {source}. Demonstration: `{difference.show.__name__}`.\n",
        f"| | | {shown.unit} |\n|---|---|--:|",
        f"| paper | {difference.paper} | {text(shown.paper)} |",
        f"| release | {difference.release} | {text(shown.release)} |\n",
    ]


def text(value: Value) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, tuple):
        return ", ".join(map(text, value))
    return f"{value:.4g}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; exit code 1 if the page is stale")
    check = parser.parse_args().check
    made = page()
    if PAGE.exists() and PAGE.read_text(encoding="utf-8") == made:
        return 0
    if check:
        print(f"{PAGE.relative_to(ROOT)} is stale: run tools/audit_page.py", file=sys.stderr)
        return 1
    PAGE.write_text(made, encoding="utf-8")
    print(f"wrote {PAGE.relative_to(ROOT)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
