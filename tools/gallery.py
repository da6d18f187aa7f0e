"""Run the examples of docs/gallery and draw their pictures: python tools/gallery.py [NAME ...].

A page's blocks run as one session, as in the tests. Its last block makes a matplotlib figure named `figure`, which is
saved to docs/images/gallery/NAME.svg.
"""

from __future__ import annotations

import contextlib
import io
import re
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import matplotlib as mpl

ROOT = Path(__file__).resolve().parents[1]
PAGES, PICTURES = ROOT / "docs" / "gallery", ROOT / "docs" / "images" / "gallery"
STYLE = {
    "axes.spines.right": False,
    "axes.spines.top": False,
    "font.size": 9,
    "legend.frameon": False,
    "svg.fonttype": "none",  # text stays text
    "svg.hashsalt": "equimodal",  # the same picture is the same file
}


def main(names: list[str]) -> int:
    """Draw the pictures of ``names``, or of all pages."""
    warnings.simplefilter("ignore")
    PICTURES.mkdir(parents=True, exist_ok=True)
    for path in sorted(PAGES.glob("*.md")):
        if path.stem == "index" or (names and path.stem not in names):
            continue
        started, session = time.process_time(), {"__name__": "__main__"}
        figure = run(path, session)
        with mpl.rc_context(STYLE):
            figure.savefig(PICTURES / f"{path.stem}.svg", metadata={"Date": None, "Creator": None})
        print(f"{path.stem}: {time.process_time() - started:.1f} s of processor time", flush=True)
    return 0


def run(path: Path, session: dict[str, Any]) -> Any:
    """The figure of a page."""
    text = path.read_text(encoding="utf-8")
    for match in re.finditer(r"^```python.*?\n(.*?)^```$", text, flags=re.MULTILINE | re.DOTALL):
        line = text[: match.start(1)].count("\n")
        with contextlib.redirect_stdout(io.StringIO()), mpl.rc_context(STYLE):
            exec(compile("\n" * line + match[1], str(path), "exec"), session)
    if "figure" not in session:
        raise SystemExit(f"{path.name}: expected a block that makes `figure`.")
    return session["figure"]


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
