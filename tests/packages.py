"""Packages of other people, as an installer leaves them: a module, and its metadata with entry points."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def install(folder: Path, package: str, code: str, points: dict[str, dict[str, str]], version: str = "1.0") -> None:
    """Write ``package`` below ``folder``: its module and a dist-info folder.

    Args:
        folder: to be put on the path.
        package: name of the package and of its module.
        code: of the module.
        points: group -> name -> object, as in ``{"equimodal.methods": {"DWA": "dwa:DWA"}}``.
        version: of the package.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{package}.py").write_text(code, encoding="utf-8")
    info = folder / f"{package}-{version}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: {version}\n", encoding="utf-8")
    lines = [f"[{g}]\n" + "".join(f"{n} = {v}\n" for n, v in entries.items()) for g, entries in points.items()]
    (info / "entry_points.txt").write_text("\n".join(lines), encoding="utf-8")


@contextmanager
def on_the_path(folder: Path, forget: bool = True) -> Iterator[None]:
    """``folder`` first on the path; what was imported from it is forgotten afterwards, if asked for."""
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        sys.path.remove(str(folder))
        for name, module in list(sys.modules.items()) if forget else ():
            if str(getattr(module, "__file__", None) or "").startswith(str(folder)):
                del sys.modules[name]


def page_blocks(file: str) -> str:
    """The blocks of CONTRIBUTING.md that are marked as parts of a file, joined."""
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    return "\n\n".join(re.findall(rf"^```\w+ file={re.escape(file)}\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL))
