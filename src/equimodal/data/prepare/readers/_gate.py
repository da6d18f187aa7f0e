"""What every reader asks of a file before its library opens it."""

from __future__ import annotations

from pathlib import Path

from equimodal._utils.foreign import kind_of_file, no_data
from equimodal.data.prepare._interface import UnreadableError

_HEAD = 4096


def check_file(path: Path, *, empty: bool = False) -> None:
    """Refuse what a download left instead of a file: nothing, a Git LFS pointer, a web page, an error message.

    Args:
        path: of the file.
        empty: a file with nothing in it is right, as a list may be.

    Raises:
        UnreadableError: it is one of these, or no regular file.
    """
    if not path.is_file():
        raise UnreadableError("no such file" if not path.exists() else "no regular file")
    with path.open("rb") as file:
        head = file.read(_HEAD)
    if not head and not empty:
        raise UnreadableError("an empty file")
    found = no_data(head)
    if found:
        raise UnreadableError(found)


def instead(path: Path, error: object) -> str:
    """What a file is that its library could not read, and what the library said."""
    said = " ".join(str(error).replace(str(path), "").split())[:120]
    return f"{kind_of_file(path)} ({said})" if said else kind_of_file(path)
