"""A method with companions, made known to the registry for the tests of entries that use others."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from equimodal.studies import Entry, StudyConfig, compare
from tests.features.companions import Taught
from tests.studies.helpers import config


def install(folder: Path) -> None:
    """As a package would that registers the method; for a registry without entry points, by hand."""
    about = folder / "taught-1.0.dist-info"
    about.mkdir(parents=True, exist_ok=True)
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: taught\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text("[equimodal.methods]\nTaught = tests.features.companions:Taught\n")
    sys.path.append(str(folder))
    registry: Any = importlib.import_module("equimodal.methods._registry")
    if hasattr(registry, "_METHODS"):
        registry._METHODS["Taught"] = Taught


def remove(folder: Path) -> None:
    """What :func:`install` did, undone."""
    sys.path.remove(str(folder))
    registry: Any = importlib.import_module("equimodal.methods._registry")
    if hasattr(registry, "_METHODS"):
        del registry._METHODS["Taught"]


def taught(factory: pytest.TempPathFactory) -> Iterator[None]:
    """The method from outside is there, as long as this goes on."""
    folder = factory.mktemp("site")
    install(folder)
    yield
    remove(folder)


def uninterrupted(factory: pytest.TempPathFactory) -> Path:
    """The folder of :func:`study`, run in one process; only to be read."""
    folder, site = factory.mktemp("whole") / "s", factory.mktemp("site")
    install(site)
    compare(study(), folder, cost=False)
    remove(site)
    return folder


EACH = {"teachers": {"m1": "first", "m2": "second"}}
SINGLE = {f"{label}": Entry("Unimodal", {"modality": m}) for label, m in (("first", "m1"), ("second", "m2"))}


def study(entries: dict[str, Entry] | None = None, seeds: list[int] | None = None, **training: Any) -> StudyConfig:
    """The student first, so that the order is not that of the entries."""
    one = config(**{"epochs": 2, **training})
    named = {"student": Entry("Taught", {"weight": 0.3}, EACH), **SINGLE} if entries is None else entries
    return StudyConfig(named, [0] if seeds is None else seeds, one.data, one.model, one.training, controls=False)
