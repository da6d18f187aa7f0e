"""What has been decoded so far, one line per item: the record from which an interrupted preparation continues."""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, cast

from filelock import FileLock, Timeout

from equimodal._utils.files import append_line, replace_file, whole_lines
from equimodal.data.prepare._interface import Item, Preparation
from equimodal.errors import DataError, StorageError

FileState = tuple[int, int, str]  # size, time of change in ns, SHA-256


@dataclass
class Entry:
    """One decoded item.

    Args:
        key: of the item.
        start: its first row in the unfinished arrays.
        count: number of rows.
        files: raw file -> size, time of change, SHA-256; ``None`` for a file that could not be read.
        lacking: array -> (file, reason), for the arrays that could not be decoded.
    """

    key: str
    start: int
    count: int
    files: dict[str, FileState | None] = field(default_factory=dict)
    lacking: dict[str, tuple[str, str]] = field(default_factory=dict)


class Journal:
    """An append-only file: the identity of the preparation, then an :class:`Entry` per line.

    A line that was cut off by a crash is ignored, so its item is decoded again.
    """

    def __init__(self, path: Path, identity: Mapping[str, Any]) -> None:
        self.path = path
        self.identity = json.loads(json.dumps(identity))
        self.entries: dict[str, Entry] = {}
        self._opened = False
        self._lock = FileLock(path.with_suffix(".lock"), timeout=0)  # goes away with the process, however it ends

    def open(self) -> None:
        """Read what is there, and get ready to append.

        Raises:
            DataError: the file belongs to a preparation with other parameters.
            StorageError: another process works on it.
        """
        try:
            self._lock.acquire()
        except Timeout as error:
            raise StorageError(
                f"{self.path.parent}: expected no other process at work on this preparation. Found one. Wait for it, "
                "or end it."
            ) from error
        if self.path.exists():
            self._read()
        else:
            line = _line(self.identity)
            replace_file(self.path, lambda file: file.write(line + b"\n"))
        self._opened = True

    def _read(self) -> None:
        lines = self.path.read_bytes()[: whole_lines(self.path)].splitlines()
        found = _value(lines[0]) if lines else None
        if found is None:
            raise self._damaged(1)
        if found != self.identity:
            differing = differences(found, self.identity)
            raise DataError(
                f"{self.path.parent}: expected an unfinished preparation with the same settings. Found others "
                f"({differing}). Finish it with those, choose another --out, or remove this folder."
            )
        for number, line in enumerate(lines[1:], 2):
            try:
                value = cast("dict[str, Any]", _value(line))
                value["files"] = {k: None if v is None else tuple(v) for k, v in value["files"].items()}
                value["lacking"] = {k: tuple(v) for k, v in value["lacking"].items()}
                self.entries[value["key"]] = Entry(**value)
            except (TypeError, KeyError, AttributeError) as error:
                raise self._damaged(number) from error

    def _damaged(self, line: int) -> DataError:
        return DataError(
            f"{self.path}: line {line}: expected a record of this preparation. Found one that was changed. Remove the "
            f"folder {self.path.parent} and prepare again."
        )

    def add(self, entries: Sequence[Entry]) -> None:
        """Append entries whose rows are on the disk."""
        if not self._opened:  # for callers in this package
            raise ValueError
        for entry in entries:
            self.entries[entry.key] = entry
        lines = [_line(asdict(entry)) for entry in entries]
        if lines:
            append_line(self.path, b"\n".join(lines))

    def close(self) -> None:
        """Let other processes have it."""
        self._opened = False
        self._lock.release()


def _line(value: Mapping[str, Any]) -> bytes:
    """A record with its checksum."""
    text = json.dumps(value).encode()
    return text + b"\t%08x" % zlib.crc32(text)


def _value(line: bytes) -> dict[str, Any] | None:
    """The record of a line, ``None`` if it was changed; lines of earlier versions have no checksum."""
    text, mark, checksum = line.partition(b"\t")
    if mark and checksum != b"%08x" % zlib.crc32(text):
        return None
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def differences(found: Any, wanted: Any, name: str = "") -> str:
    """The fields in which two nested plain values differ, as text."""
    if isinstance(found, dict) and isinstance(wanted, dict):
        parts = [
            differences(found.get(key), wanted.get(key), f"{name}.{key}".lstrip("."))
            for key in sorted({*found, *wanted})
            if found.get(key) != wanted.get(key)
        ]
        return ", ".join(parts)
    return f"{name or 'content'} {found!r} there, {wanted!r} asked for"


def unchanged(entry: Entry, preparation: Preparation[Any]) -> bool:
    """Whether the item was decoded completely, from files that have not been touched since."""
    if entry.lacking:
        return False
    for relative, state in entry.files.items():
        try:
            status = preparation.path(relative).stat()
        except OSError:
            return False
        if state is None or (status.st_size, status.st_mtime_ns) != state[:2]:
            return False
    return True


def assign_rows(items: Iterable[Item], kept: Mapping[str, Entry]) -> dict[str, int]:
    """First rows for items that are to be decoded: gaps between those already done first, so that order is kept."""
    taken = sorted((e.start, e.start + e.count) for e in kept.values())
    gaps, position = [], 0
    for start, end in taken:
        if start > position:
            gaps.append([position, start])
        position = max(position, end)
    gaps.append([position, 1 << 62])
    rows = {}
    for item in items:
        gap = next(g for g in gaps if g[1] - g[0] >= item.samples)
        rows[item.key] = gap[0]
        gap[0] += item.samples
        if gap[0] == gap[1]:
            gaps.remove(gap)
    return rows
