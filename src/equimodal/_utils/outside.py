"""Files that come from outside: what is opened, how much of it, and how deep it may go."""

from __future__ import annotations

import json
import math
import os
import stat
from collections.abc import Iterator, Mapping
from io import BufferedReader
from pathlib import Path
from typing import Any

from equimodal.errors import DataError

TEXT_LIMIT = 256 << 20
"""Bytes of a record (JSON, a table) that are read at most."""
DEPTH_LIMIT, VALUE_LIMIT = 64, 5_000_000
"""How deep plain values may stand inside each other, and how many there may be in one file."""
_NAME_LIMIT = 255  # of a file, in the usual file systems
_KINDS = (
    (stat.S_ISDIR, "a folder"), (stat.S_ISFIFO, "a pipe"), (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"), (stat.S_ISBLK, "a device"), (stat.S_ISLNK, "a link"),
)  # fmt: skip


def open_regular(path: Path, *, limit: int | None = None, inside: Path | None = None) -> BufferedReader:
    """A regular file, opened to be read; anything else is refused before it can block or be read without end.

    Args:
        path: of the file.
        limit: bytes that it may have; default any number.
        inside: the folder that it belongs to: a link that leads out of it is refused.

    Raises:
        DataError: no regular file, too large, outside the folder, or not readable.

    Example:
        >>> open_regular(Path(os.devnull))
        Traceback (most recent call last):
        ...
        equimodal.errors.DataError: `/dev/null`: expected a regular file. Found a device.
    """
    try:
        if inside is not None:
            check_inside(path, inside)
        refuse_special(path)
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    except (OSError, ValueError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"`{shortened(path)}`: expected a readable file. Found: {reason(error)}.") from error
    file = os.fdopen(descriptor, "rb")
    try:
        found = os.fstat(file.fileno())
        _refuse_mode(path, found.st_mode)
        if limit is not None and found.st_size > limit:
            raise DataError(
                f"`{path}`: expected at most {size_text(limit)}. Found {size_text(found.st_size)}. It was not read."
            )
    except BaseException:
        file.close()
        raise
    return file


def read_bytes(path: Path, *, limit: int = TEXT_LIMIT, inside: Path | None = None) -> bytes:
    """All of a file, see :func:`open_regular`."""
    with open_regular(path, limit=limit, inside=inside) as file:
        try:
            content = file.read(limit + 1)
        except OSError as error:
            raise DataError(f"`{path}`: expected a readable file. Found: {reason(error)}.") from error
    if len(content) > limit:  # of a size that its folder does not tell, as in /proc
        raise DataError(f"`{path}`: expected at most {size_text(limit)}. Found more.")
    return content


def read_text(path: Path, *, limit: int = TEXT_LIMIT, inside: Path | None = None) -> str:
    """All of a file in UTF-8, see :func:`open_regular`; of other files no content is quoted."""
    content = read_bytes(path, limit=limit, inside=inside)
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise DataError(f"`{path}`: expected a text in UTF-8. Found other bytes at {error.start}.") from error


def refuse_special(path: Path) -> None:
    """Refuse folders, pipes, sockets and devices where a file is expected; what is not there is no concern here."""
    if path.exists():
        _refuse_mode(path, path.stat().st_mode)


def _refuse_mode(path: Path, mode: int) -> None:
    if not stat.S_ISREG(mode):
        found = next((what for is_kind, what in _KINDS if is_kind(mode)), "something else")
        raise DataError(f"`{path}`: expected a regular file. Found {found}.")


def check_inside(path: Path, folder: Path) -> None:
    """Refuse a path that leads out of ``folder``, by ``..`` or by a link.

    Raises:
        DataError: it does; the message names both.

    Example:
        >>> check_inside(Path("a/../../b"), Path("a"))
        Traceback (most recent call last):
        ...
        equimodal.errors.DataError: `a/../../b`: expected a path inside `a`. Found one that leads out of it.
    """
    if not _real(path).is_relative_to(_real(folder)):
        raise DataError(f"`{path}`: expected a path inside `{folder}`. Found one that leads out of it.")


def check_folder(folder: Path) -> None:
    """Refuse a folder in which anything is neither a regular file nor a folder, or leads out of it.

    What is read from the folder, and written to it, then stays in it. A folder that is not there is fine.

    Raises:
        DataError: a link that leads out, a pipe, a socket or a device; the message names it.
    """
    home = _real(folder)
    try:
        for place, folders, files in os.walk(folder, onerror=None):
            for name in (*folders, *files):
                path = Path(place, name)
                mode = path.lstat().st_mode
                if stat.S_ISLNK(mode):
                    if not _real(path).is_relative_to(home):
                        raise DataError(
                            f"`{path}`: expected a file or folder inside `{folder}`. Found a link that leads out of "
                            "it. Put a copy in its place."
                        )
                    mode = path.stat().st_mode if path.exists() else stat.S_IFREG
                if not stat.S_ISDIR(mode):
                    _refuse_mode(path, mode)
    except (OSError, ValueError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"`{shortened(folder)}`: expected a readable folder. Found: {reason(error)}.") from error


def _real(path: Path) -> Path:
    return Path(os.path.realpath(path))


def check_path(name: str, value: str) -> None:
    """Refuse a text that no file can be called by.

    Raises:
        DataError: empty, too long, or with a zero character; the message names the parameter.
    """
    parts = Path(value).parts
    if not value or "\0" in value or any(len(os.fsencode(p)) > _NAME_LIMIT for p in parts) or len(value) > 4096:
        raise DataError(f"`{name}`: expected the path of a file or folder. Found {shortened(value)!r}.")


def check_file_name(kind: str, name: str) -> None:
    """Refuse a name from data that is no plain name of a file on every system.

    Raises:
        DataError: it is none; the message says what is named.

    Example:
        >>> check_file_name("array", "../a")
        Traceback (most recent call last):
        ...
        equimodal.errors.DataError: array `../a`: expected a name that a file can have. Found another one. Rename it.
    """
    plain = name.isprintable() and not set(name) & set('/\\:*?"<>|') and len(os.fsencode(name)) < _NAME_LIMIT - 50
    if not plain or not name.strip(". ") or name != name.strip():
        raise DataError(
            f"{kind} `{shortened(name)}`: expected a name that a file can have. Found another one. Rename it."
        )


def shortened(value: object, length: int = 80) -> str:
    """``value`` as a text that fits into a message."""
    text = str(value)
    return text if len(text) <= length else f"{text[: length - 20]}... ({len(text)} characters)"


def reason(error: BaseException) -> str:
    """Why a file could not be read, in the words of the system."""
    return str(getattr(error, "strerror", None) or error)


def size_text(size: float) -> str:
    """A number of bytes for people.

    Example:
        >>> size_text(3 << 30), size_text(12)
        ('3.0 GiB', '12 bytes')
    """
    units = ["bytes", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"]
    power = min(len(units) - 1, max(0, int(math.log(max(size, 1), 1024))))
    return f"{int(size)} bytes" if power == 0 else f"{size / 1024**power:.1f} {units[power]}"


def read_json(text: str | bytes, file: str) -> Any:
    """Plain values in JSON, without what readers disagree about.

    Args:
        text: JSON in UTF-8.
        file: where it is from, for messages.

    Raises:
        DataError: no valid JSON; a key twice in one object; NaN or infinity; too deep, or too many values.

    Example:
        >>> read_json('{"a": 1, "a": 2}', "a.json")
        Traceback (most recent call last):
        ...
        equimodal.errors.DataError: a.json: expected each field once. Found 'a' a second time.
    """
    comma, bracket, brace = (",", "[", "{") if isinstance(text, str) else (b",", b"[", b"{")
    if text.count(comma) + text.count(bracket) + text.count(brace) > VALUE_LIMIT:  # type: ignore[arg-type]
        raise DataError(f"{file}: expected at most {VALUE_LIMIT} values. Found more.")

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs):
            names = [name for name, _ in pairs]
            twice = next(name for name in names if names.count(name) > 1)
            raise DataError(f"{file}: expected each field once. Found {shortened(twice)!r} a second time.")
        return found

    def no_number(text: str) -> Any:
        raise DataError(f"{file}: expected finite numbers. Found {text}.")

    def integer(text: str) -> int:
        if len(text) > _NAME_LIMIT:
            raise DataError(f"{file}: expected numbers of at most {_NAME_LIMIT} digits. Found one of {len(text)}.")
        return int(text)

    try:
        value = json.loads(text, object_pairs_hook=once, parse_constant=no_number, parse_int=integer)
    except RecursionError as error:
        raise _too_deep(file) from error
    except ValueError as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{file}: expected JSON. Found: {' '.join(str(error).split())[:120]}.") from error
    if any(depth > DEPTH_LIMIT for depth in _depths(value)):
        raise _too_deep(file)
    return value


def _too_deep(file: str) -> DataError:
    return DataError(f"{file}: expected values at most {DEPTH_LIMIT} deep inside each other. Found deeper ones.")


def _depths(value: Any) -> Iterator[int]:
    """The depth of each list and mapping; without recursion."""
    open_values = [(value, 1)]
    while open_values:
        found, depth = open_values.pop()
        children = found.values() if isinstance(found, Mapping) else found if isinstance(found, list) else ()
        if isinstance(found, (Mapping, list)):
            yield depth
        if depth <= DEPTH_LIMIT:
            open_values.extend((child, depth + 1) for child in children if isinstance(child, (Mapping, list)))
