"""Is a prepared bundle still what its manifest says, and the raw download what it was made from?"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from equimodal._utils.files import content_hash
from equimodal.data._bundle import find_card, load_bundle, load_card
from equimodal.data.prepare import _manifest as manifest
from equimodal.data.prepare._engine import make
from equimodal.data.prepare._registry import available, get
from equimodal.errors import DataError, NonFiniteError


@dataclass(frozen=True)
class CheckReport:
    """What :func:`check` found.

    Args:
        path: the bundle.
        problems: one sentence each; empty: everything is as it was.
        checked: what was looked at, in words.
    """

    path: Path
    problems: tuple[str, ...]
    checked: str

    @property
    def ok(self) -> bool:
        """Whether no problem was found."""
        return not self.problems

    def __str__(self) -> str:
        if self.ok:
            return f"{self.path}: as it was made ({self.checked})"
        return "\n".join([f"{self.path}: {len(self.problems)} problem(s) ({self.checked})", *self.problems])


def check(folder: str | Path, source: str | Path | None = None) -> CheckReport:
    """Compare a prepared bundle with its manifest, load it under every protocol, and compare the raw files.

    A bundle without a manifest (one made by :func:`equimodal.data.write_bundle`) is loaded under every protocol.

    Args:
        folder: the bundle.
        source: the raw folder, whose files are hashed again; left out, they are not looked at.

    Raises:
        DataError: no bundle there, or an unreadable manifest; ``source`` was given and there is no manifest.

    Example:
        >>> import numpy as np, tempfile
        >>> from equimodal.data import write_bundle
        >>> split = ["train"] * 2 + ["validation"] * 2 + ["test"] * 2
        >>> with tempfile.TemporaryDirectory() as temporary:
        ...     path = Path(temporary) / "mine"
        ...     check(write_bundle(path, inputs={"a": np.eye(6)}, target=["no", "yes"] * 3, split=split)).ok
        True
    """
    folder = Path(folder)
    if not folder.exists():
        raise DataError(f"{folder}: expected a bundle. Found nothing there.")
    problems: list[str] = []
    checked = []
    if source is not None or (folder / manifest.FILE).is_file():
        found = manifest.read_manifest(folder)
        problems += _files(folder, found)
        checked.append(f"{len(found['files'])} files")
        if source is not None:
            problems += _raw(Path(source), found)
            checked.append(f"{len(found['raw'])} raw files")
    problems += _protocols(folder)
    checked.append("every protocol")
    return CheckReport(folder, tuple(problems), ", ".join(checked))


def _files(folder: Path, found: Mapping[str, Any]) -> Iterator[str]:
    listed = found["files"]
    for name, entry in listed.items():
        path = folder / name
        if not path.is_file():
            yield f"{name}: missing"
        elif path.stat().st_size != entry["size"]:
            yield f"{name}: {path.stat().st_size} bytes instead of {entry['size']}"
        elif content_hash(path) != entry["sha256"]:
            yield f"{name}: its content has changed"
    for path in sorted(folder.iterdir()):
        if path.name not in listed and path.name != manifest.FILE:
            yield f"{path.name}: not in the manifest"


def _raw(source: Path, found: Mapping[str, Any]) -> Iterator[str]:
    if not source.is_dir():
        yield f"{source}: expected the raw folder. Found no folder"
        return
    listed = {entry["path"]: entry for entry in found["raw"]}
    for relative, entry in listed.items():
        path = source.joinpath(*relative.split("/"))
        if entry["size"] is None:
            if path.is_file() and path.stat().st_size:
                yield f"{relative}: was not there when the bundle was made, and is now"
        elif not path.is_file():
            yield f"{relative}: missing"
        elif path.stat().st_size != entry["size"] or content_hash(path) != entry["sha256"]:
            yield f"{relative}: changed since the bundle was made"
    if found["dataset"] not in available():
        return
    # lists of the user's are known by their hash alone; where the index needs them, new files cannot be told
    parameters = found["parameters"]
    own = {k: v for k, v in parameters.items() if not (isinstance(v, dict) and "sha256" in v)}
    own = {k: tuple(v) if isinstance(v, list) else v for k, v in own.items()}
    try:
        items = make(get(found["dataset"]), source, own).index().items
    except DataError as error:
        if len(own) == len(parameters):
            yield str(error)
        return
    for name in sorted({f for item in items for names in item.files.values() for f in names}):
        if name not in listed and source.joinpath(*name.split("/")).is_file():
            yield f"{name}: new since the bundle was made"


def _protocols(folder: Path) -> Iterator[str]:
    try:
        card = load_card(find_card(folder))
    except DataError as error:
        yield str(error)
        return
    for name in card.protocols:
        try:
            load_bundle(folder, protocol=name)
        except (DataError, NonFiniteError) as error:
            yield str(error)
