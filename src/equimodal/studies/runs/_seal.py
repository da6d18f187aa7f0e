"""Content hashes of what a run or a comparison wrote, so that changed files and other versions are noticed."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypedDict

from equimodal._utils.outside import check_inside, open_regular
from equimodal._utils.schema import check
from equimodal.errors import DataError, EquimodalWarning
from equimodal.studies.runs._records import environment, read_json, text_of_json, write_json, write_text

SEAL = "content.json"
SEALED_SINCE = 2
"""``format`` in environment.json of runs that have a seal; those of version 0.1 have neither."""
_COMPARED = ("equimodal", "torch")


class _Seal(TypedDict):
    sha256: dict[str, str]


def seal(folder: Path, names: Iterable[str]) -> Path:
    """Write the SHA-256 of files of ``folder`` to ``content.json``, beside those that stand there already."""
    found = _stored(folder) if (folder / SEAL).exists() else {}
    found |= hashes_of({name: folder / name for name in names if (folder / name).is_file()})
    return write_json(folder / SEAL, {"sha256": found})


def write_sealed(folder: Path, name: str, value: Any) -> Path:
    """Write a JSON file of ``folder`` with its hash; a kill at any moment leaves a file that :func:`verify` accepts.

    Until the file is in its place, ``content.json`` holds the hashes of both contents.
    """
    text = text_of_json(value)
    stored = _stored(folder) if (folder / SEAL).exists() else {}
    new = hashlib.sha256(text.encode()).hexdigest()
    write_json(folder / SEAL, {"sha256": stored, "next": {name: new}})
    write_text(folder / name, text)
    return write_json(folder / SEAL, {"sha256": {**stored, name: new}})


def hashes_of(files: Mapping[str, Path]) -> dict[str, str]:
    """Name -> SHA-256 of a file."""
    return {name: _hash(path) for name, path in files.items()}


def seal_hash(folder: Path) -> str:
    """Of ``content.json`` itself, and so of all that it has the hash of; empty where there is none."""
    return _hash(folder / SEAL) if (folder / SEAL).exists() else ""


def is_sealed(folder: Path, name: str) -> bool:
    """Whether ``content.json`` of ``folder`` holds the hash of a file."""
    return (folder / SEAL).exists() and name in _stored(folder)


def verify(folder: Path, names: Iterable[str] | None = None) -> None:
    """Compare files of ``folder`` with their hashes; folders of version 0.1 have none.

    Args:
        folder: of a run or a comparison.
        names: of the files that are about to be read; default all.

    Raises:
        DataError: a file was changed or removed since; the message names it.
    """
    if not (folder / SEAL).exists():
        if _needs_seal(folder):
            raise DataError(
                f"`{folder / SEAL}`: expected the hashes of the files of this run. Found nothing. Restore it, or run "
                "anew in another folder."
            )
        return
    stored = _stored(folder)
    for name in stored if names is None else names:
        if name not in stored:
            continue
        path = folder / name
        found = _hash(path) if path.is_file() else None
        if found != stored[name] and found != _coming(folder, name):
            what = "Found no such file" if found is None else f"Found another ({found[:12]}): the file was changed"
            raise DataError(
                f"`{path}`: expected the content that was written here (SHA-256 {stored[name][:12]}). {what}. Restore "
                f"it, or delete `{folder}` and run again."
            )


def versions_of(folder: Path) -> dict[str, str]:
    """Package -> version with which a run was made, of this library and of torch; empty where it does not say."""
    known = folder / "environment.json"
    content = read_json(known) if known.exists() else {}
    then = content.get("versions") if isinstance(content, Mapping) else None
    return {package: str(then.get(package)) for package in _COMPARED} if isinstance(then, Mapping) else {}


def warn_versions(folders: Iterable[Path], known: Mapping[Path, Mapping[str, str]] | None = None) -> None:
    """Say which other versions of this library and of torch than those of now made some runs.

    Args:
        folders: of the runs.
        known: folder -> what :func:`versions_of` says of it, where it was asked already.

    Warns:
        EquimodalWarning: with both versions, and the first of the folders.
    """
    now = environment()["versions"]
    found: dict[str, list[Path]] = {}
    for folder in folders:
        then = (known or {}).get(folder)
        for package, old in (versions_of(folder) if then is None else then).items():
            new = str(now.get(package))
            if old.partition("+")[0] != new.partition("+")[0]:
                found.setdefault(f"{package} {old}, here {new}", []).append(folder)
    for text, places in found.items():
        more = f" and {len(places) - 1} more" if len(places) > 1 else ""
        warnings.warn(
            f"`{places[0]}`{more}: made with {text}. Results may differ from those of this version.",
            EquimodalWarning,
            stacklevel=3,
        )


def _coming(folder: Path, name: str) -> str:
    """The hash of a file that was about to be written; empty where none was."""
    content: Any = read_json(folder / SEAL)
    hashes = content.get("next") if isinstance(content, Mapping) else None
    found = hashes.get(name) if isinstance(hashes, Mapping) else None
    return found if isinstance(found, str) else ""


def _needs_seal(folder: Path) -> bool:
    known = folder / "environment.json"
    content = read_json(known) if known.exists() else {}
    return isinstance(content, Mapping) and content.get("format") == SEALED_SINCE


def _stored(folder: Path) -> dict[str, str]:
    path = folder / SEAL
    content: Any = read_json(path)
    check(content, _Seal, file=f"`{path}`")
    for name in content["sha256"]:
        if not _is_plain(name) or (folder / name).is_symlink():
            check_inside(folder / name, folder)
    return dict(content["sha256"])


def _is_plain(name: str) -> bool:
    """Whether it can only be a file of the folder itself."""
    return name not in ("", ".", "..") and not any(sign in name for sign in "/\\:\0")


def _hash(path: Path) -> str:
    with open_regular(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
