"""What an earlier call has read of a comparison, so that the same call reads only what has changed since."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypedDict

from equimodal._utils.schema import check
from equimodal.data import Dataset
from equimodal.studies.runs import environment, plain, read_json, seal_hash, verify, versions_of, write_sealed
from equimodal.studies.setup import RunConfig, StudyConfig, resolved_options

CHECKED = "checked.json"


class _Cell(TypedDict):
    key: str
    versions: dict[str, str]


class _Checked(TypedDict):
    cells: dict[str, _Cell]
    summary: str


class Known:
    """The finished cells whose records were read and found right, and the summary that was made of them.

    A cell is known while its configuration and the hashes of its files are those of then. The summary is, while every
    cell is, and nothing else that it is made of has changed, this library included.

    Args:
        config: of the comparison.
        folder: of the comparison.
        data: of the comparison.
        cells: name -> configuration of a run.

    Raises:
        DataError: what is on record was changed.
    """

    def __init__(self, config: StudyConfig, folder: Path, data: Dataset, cells: Mapping[str, RunConfig]) -> None:
        self._config, self._folder, self._data = config, folder, data
        self._settings = {label: self._hash_of(entry.method, entry.options, entry.uses, cells, label)
                          for label, entry in config.rows(data).items()}  # fmt: skip
        verify(folder, [CHECKED])
        path = folder / CHECKED
        stored: Any = read_json(path) if path.exists() else {"cells": {}, "summary": ""}
        check(stored, _Checked, file=f"`{path}`", step="Delete it: it only saves time.")
        self._stored: _Checked = stored
        self._cells: dict[str, _Cell] = {}

    def versions(self, cell: str, folder: Path) -> dict[str, str] | None:
        """Which versions made a cell that is known; ``None`` for one that is not, or no more."""
        found = self._stored["cells"].get(cell)
        if found is None or found["key"] != self._key(cell, folder):
            return None
        self._cells[cell] = found
        return found["versions"]

    def note(self, cell: str, folder: Path) -> dict[str, str]:
        """A cell was read and found right; which versions made it."""
        made = versions_of(folder)
        if seal_hash(folder):  # without hashes, as of version 0.1, it is read each time
            self._cells[cell] = {"key": self._key(cell, folder), "versions": made}
        return made

    def add(self, folders: Mapping[str, Path]) -> None:
        """Those that have ended well since.

        Args:
            folders: name of a cell -> its folder.
        """
        for cell, folder in folders.items():
            if cell not in self._cells:
                self.note(cell, folder)

    def has_summary(self, costs: Mapping[str, float], cells: Mapping[str, RunConfig]) -> bool:
        """Whether the stored summary is what would be made now."""
        return self._cells.keys() == cells.keys() and self._stored["summary"] == self._summary(costs)

    def write(self, costs: Mapping[str, float]) -> None:
        """Keep it for the next call."""
        write_sealed(self._folder, CHECKED, {"cells": self._cells, "summary": self._summary(costs)})

    def _key(self, cell: str, folder: Path) -> str:
        label, _, seed = cell.rpartition("/")
        return f"{self._settings[label]}/{seed}/{seal_hash(folder)}"

    def _summary(self, costs: Mapping[str, float]) -> str:
        data, config = self._data, self._config
        return _hash({
            "cells": {cell: found["key"] for cell, found in self._cells.items()},
            "costs": costs, "seeds": config.seeds, "metrics": config.metrics, "controls": config.controls,
            "data": [data.fingerprint, data.parts, vars(config.data)], "versions": environment()["versions"],
            "code": _code(),
        })  # fmt: skip

    @staticmethod
    def _hash_of(
        method: str, options: Mapping[str, Any], uses: Mapping[str, Any], cells: Mapping[str, RunConfig], label: str
    ) -> str:
        """Of everything that the cells of an entry have in common, defaults included."""
        one = next(config for cell, config in cells.items() if cell.rpartition("/")[0] == label)
        return _hash({**one.to_dict(), "seed": None, "options": resolved_options(method, options), "uses": uses})


def _hash(value: Any) -> str:
    return hashlib.sha256(json.dumps(plain(value), sort_keys=True).encode()).hexdigest()[:32]


def _code() -> str:
    """Of the files that make a summary, for those who work on them."""
    files = sorted(Path(__file__).parent.glob("*.py"))
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()
