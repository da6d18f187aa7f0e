"""Each difference between a paper and its released code is shown by numbers, and the page holds just these numbers."""

from __future__ import annotations

import math
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.audit.differences import Difference, Value, discover

DIFFERENCES = discover()


def name_of(difference: Difference) -> str:
    return f"{difference.method}: {difference.title}"


def numbers(value: Value) -> tuple[float, ...]:
    return () if isinstance(value, str) else value if isinstance(value, tuple) else (value,)


@pytest.mark.parametrize("difference", DIFFERENCES, ids=name_of)
def test_paper_and_release_differ_as_stated(difference: Difference) -> None:
    shown = difference.show()
    assert shown.paper != shown.release
    assert all(math.isfinite(n) for n in (*numbers(shown.paper), *numbers(shown.release)))
    assert shown.unit
    assert re.fullmatch(r"[0-9a-f]{7,40}", difference.commit)
    assert re.fullmatch(r"[\w.-]+/[\w.-]+", difference.repository)
    for sentence in (difference.paper, difference.release):
        assert sentence.endswith(".")


def test_no_difference_is_told_twice() -> None:
    names = [name_of(d) for d in DIFFERENCES]
    assert len(set(names)) == len(names)


def test_page_is_up_to_date() -> None:
    root = Path(__file__).resolve().parents[2]
    command = [sys.executable, "tools/audit_page.py", "--check"]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
