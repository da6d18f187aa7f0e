"""What has been decoded so far, one line per item: the record from which an interrupted preparation continues."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import IO, Any

from filelock import FileLock, Timeout

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
        self._file: IO[str] | None = None
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
            draft = self.path.with_suffix(".draft")
            draft.write_text(json.dumps(self.identity) + "\n", encoding="utf-8")
            draft.replace(self.path)
        self._file = self.path.open("a", encoding="utf-8")

    def _read(self) -> None:
        text = self.path.read_text(encoding="utf-8")
        whole, _, cut = text.rpartition("\n")
        first, *lines = whole.split("\n")
        try:
            found = json.loads(first)
        except json.JSONDecodeError:
            found = None
        if found != self.identity:
            differing = differences(found, self.identity)
            raise DataError(
                f"{self.path.parent}: expected an unfinished preparation with the same settings. Found others "
                f"({differing}). Finish it with those, choose another --out, or remove this folder."
            )
        for line in lines:
            value = json.loads(line)
            value["files"] = {k: None if v is None else tuple(v) for k, v in value["files"].items()}
            value["lacking"] = {k: tuple(v) for k, v in value["lacking"].items()}
            self.entries[value["key"]] = Entry(**value)
        if cut:
            os.truncate(self.path, len(text[: -len(cut)].encode()))

    def add(self, entries: Iterable[Entry]) -> None:
        """Append entries whose rows are on the disk."""
        if self._file is None:  # for the type checker
            raise ValueError
        for entry in entries:
            self.entries[entry.key] = entry
            self._file.write(json.dumps(asdict(entry)) + "\n")
        self._file.flush()
        os.fsync(self._file.fileno())

    def close(self) -> None:
        """Close the file, and let other processes have it."""
        if self._file is not None:
            self._file.close()
            self._file = None
        self._lock.release()


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
