"""Files that tools write: those that are not up to date are written, or with --check told."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path


def update(made: Mapping[Path, str], root: Path, tool: str, check: bool) -> bool:
    """Write the files whose text has changed, or only tell which they are.

    Args:
        made: path -> text.
        root: of the project; paths are printed relative to it.
        tool: name of the file of the tool, for the advice.
        check: write nothing.

    Returns:
        Whether any file was not up to date.
    """
    stale = [path for path, text in made.items() if not path.exists() or path.read_text(encoding="utf-8") != text]
    for path in stale:
        print(f"{'stale' if check else 'written'}: {path.relative_to(root)}")
        if not check:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(made[path], encoding="utf-8")
    if check and stale:
        print(f"Run: python tools/{tool}", file=sys.stderr)
    return bool(stale)
