"""What released code computes where it is not what the paper says: one small demonstration for each difference.

A demonstration is a function without arguments, marked with :func:`difference`. It computes both sides on a toy,
asserts what it claims, and returns the two numbers (or short tuples of numbers, or words where a side has none:
``"NaN"``, ``"TypeError"``). `tests/audit/test_differences.py` runs all of them; `tools/audit_page.py` writes
`docs/audit.md` from what they return.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

Value = float | str | tuple[float, ...]


@dataclass(frozen=True)
class Shown:
    """What a demonstration found.

    Args:
        paper: number by the paper's equation.
        release: number by the released code.
        unit: what the two numbers are, in a few words.
    """

    paper: Value
    release: Value
    unit: str


@dataclass(frozen=True)
class Difference:
    """One difference between a paper and its released code.

    Args:
        method: name of the method, as in :func:`equimodal.methods.available` where the library has it.
        repository: ``owner/name`` of the released code.
        commit: the commit that was read, 7 or more hex digits.
        title: the difference in a few words.
        paper: what the paper says, a sentence.
        release: what the released code computes, a sentence.
        show: computes both numbers.
    """

    method: str
    repository: str
    commit: str
    title: str
    paper: str
    release: str
    show: Callable[[], Shown]


DIFFERENCES: list[Difference] = []


def difference(
    method: str, *, repository: str, commit: str, title: str, paper: str, release: str
) -> Callable[[Callable[[], Shown]], Callable[[], Shown]]:
    """Mark a demonstration."""

    def mark(show: Callable[[], Shown]) -> Callable[[], Shown]:
        DIFFERENCES.append(Difference(method, repository, commit, title, paper, release, show))
        return show

    return mark


def discover() -> list[Difference]:
    """All demonstrations of this folder (files `of_NAME.py`), by method and in the order in which they are written."""
    for path in sorted(Path(__file__).parent.glob("of_*.py")):
        importlib.import_module(f"tests.audit.{path.stem}")
    return sorted(DIFFERENCES, key=lambda d: d.method.casefold())
