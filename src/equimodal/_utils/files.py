"""Files that are written whole or not at all, and are on the disk when the call returns."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

from equimodal.errors import StorageError


def write_bytes(path: Path, content: bytes, hint: str) -> Path:
    """Write ``content`` to ``path`` at once, making its folder: on a full disk or a kill, what was there before stays.

    Args:
        path: the file.
        content: all of it.
        hint: the end of the message if it fails: what to do next.

    Raises:
        StorageError: it could not be written.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     write_bytes(Path(folder) / "new" / "a.txt", b"whole", "Choose another place.").read_text()
        'whole'
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        replace_file(path, lambda file: file.write(content))
    except OSError as error:
        raise StorageError(f"`{path}`: could not be written ({error.strerror or error}). {hint}") from error
    return path


def content_hash(path: Path) -> str:
    """SHA-256 of a file, as hexadecimal digits.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     content_hash(write_bytes(Path(folder) / "a.txt", b"abc", ""))[:8]
        'ba7816bf'
    """
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def replace_file(path: Path, write: Callable[[BinaryIO], object], keep: Path | None = None) -> None:
    """Write a file of an existing folder beside its place, put it on the disk, and rename it.

    Args:
        path: the file.
        write: writes the content to the open file.
        keep: where the file that was there before goes.

    Raises:
        OSError: as the system says it; what was there before stays.
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        with partial.open("wb") as raw:
            file = _Checked(raw)
            try:
                write(file)  # type: ignore[arg-type]
            except Exception:
                file.check()  # libraries raise something else after a write that failed
                raise
            file.check()
            raw.flush()
            os.fsync(raw.fileno())
        if keep is not None and path.exists():
            path.replace(keep)
        partial.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


class _Checked:
    """A file that remembers why it could not be written to."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._failure: OSError | None = None

    def write(self, content: bytes) -> int:
        try:
            return self._file.write(content)
        except OSError as error:
            self._failure = error
            raise

    def flush(self) -> None:
        try:
            self._file.flush()
        except OSError as error:
            self._failure = error
            raise

    def check(self) -> None:
        if self._failure is not None:
            raise self._failure

    def __getattr__(self, name: str) -> object:
        return getattr(self._file, name)


def sync_folder(folder: Path) -> None:
    """Put names that were made or changed in ``folder`` on the disk. Where none can be opened, nothing is done."""
    try:
        handle = os.open(folder, os.O_RDONLY)
    except (OSError, AttributeError):  # Windows
        return
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def append_line(path: Path, line: bytes) -> None:
    """Add a line to a file, which is on the disk afterwards; the rest of a line that was cut off before is removed.

    Args:
        path: the file; it and its folder are made.
        line: without its end.

    Raises:
        OSError: as the system says it; what a failed write left is removed again, now or by the next call.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    new = not path.exists()
    with path.open("ab") as file:
        size = whole_lines(path)
        if size != file.tell():
            os.truncate(path, size)
        try:
            file.write(line + b"\n")
            file.flush()
            os.fsync(file.fileno())
        except OSError:
            with contextlib.suppress(OSError):
                os.truncate(path, size)
            raise
    if new:
        sync_folder(path.parent)


def whole_lines(path: Path) -> int:
    """Number of bytes up to the end of the last line that is whole."""
    with path.open("rb") as file:
        end = file.seek(0, os.SEEK_END)
        while end:
            start = max(0, end - 4096)
            file.seek(start)
            found = file.read(end - start).rfind(b"\n")
            if found >= 0:
                return start + found + 1
            end = start
    return 0


# ---- folders ----------------------------------------------------------------------------------------------------


def replace_folder(new: Path, place: Path) -> None:
    """Put the folder ``new``, which is whole, at ``place``; what was there is read from :func:`standing` until it is.

    Args:
        new: on the same file system.
        place: a folder, or nothing.

    Raises:
        OSError: as the system says it; what was there before stays.
    """
    aside = _aside(place)
    recover_folder(place)
    for folder, _, names in os.walk(new):
        for name in names:
            with (Path(folder) / name).open("rb") as file:
                os.fsync(file.fileno())
        sync_folder(Path(folder))
    if place.exists():
        place.replace(aside)
    try:
        new.replace(place)
    except OSError:
        if aside.exists():
            aside.replace(place)
        raise
    sync_folder(place.parent)
    shutil.rmtree(aside, ignore_errors=True)


def standing(place: Path) -> Path:
    """Where the folder of a place is: there, or aside, if a process was killed while it replaced it."""
    aside = _aside(place)
    return aside if not place.exists() and aside.is_dir() else place


def recover_folder(place: Path) -> None:
    """End what :func:`replace_folder` had begun in a process that was killed."""
    aside = _aside(place)
    if not aside.is_dir():
        return
    if place.exists():
        shutil.rmtree(aside, ignore_errors=True)
    else:
        aside.replace(place)


def _aside(place: Path) -> Path:
    return place.with_name(f".{place.name}.before")


# ---- two files ----------------------------------------------------------------------------------------------------


def replace_pair(
    path: Path, write: Callable[[BinaryIO], object], companion: Path, text: bytes, digest: Callable[[Path], str]
) -> None:
    """Write a file and the one that belongs to it, so that no reader of :func:`companion_of` sees one of each state.

    The companion is written first, under a name that says to which content of the file it belongs; the rename of the
    file is the moment at which both are new.

    Args:
        path: the file.
        write: writes its content.
        companion: the file that belongs to it.
        text: its content.
        digest: of a file.

    Raises:
        OSError: as the system says it; both are as they were before, or both are new.
    """
    draft = path.with_name(f".{path.name}.new")
    waiting: Path | None = None
    try:
        replace_file(draft, write)
        waiting = _waiting(companion, digest(draft))
        replace_file(waiting, lambda file: file.write(text))
        draft.replace(path)
    except BaseException:
        for left in (draft, waiting):
            if left is not None:
                with contextlib.suppress(OSError):
                    left.unlink(missing_ok=True)
        raise
    with contextlib.suppress(OSError):  # both are new from here on, and are found under the names that they have
        sync_folder(path.parent)
        waiting.replace(companion)
        sync_folder(path.parent)
        for left in list(_all_waiting(companion)):
            left.unlink(missing_ok=True)


def companion_of(path: Path, companion: Path, digest: Callable[[Path], str]) -> Path:
    """The file that belongs to ``path`` as it is: ``companion``, unless a process was killed before it put it there.

    The arguments are those of :func:`replace_pair`.
    """
    waiting = list(_all_waiting(companion))
    if waiting and path.is_file():
        own = _waiting(companion, digest(path))
        if own in waiting:
            return own
    return companion


def _waiting(companion: Path, digest: str) -> Path:
    return companion.with_name(f".{companion.name}.{digest[:16]}.next")


def _all_waiting(companion: Path) -> Iterator[Path]:
    head, tail = f".{companion.name}.", ".next"
    folder = companion.parent
    for path in folder.iterdir() if folder.is_dir() else ():
        if path.name.startswith(head) and path.name.endswith(tail):
            yield path
