"""General code knows no method: what it needs to know, the methods say themselves."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import equimodal
from equimodal.methods import ROLES, available, controls, get
from equimodal.report import CONTROLS, required_controls

ROOMS = ("engine", "studies", "report", "diagnostics", "cli", "methods/parts")
EXAMPLE = re.compile(r"^ *>>> .*?(?=^ *$|^ *\"\"\")", re.MULTILINE | re.DOTALL)
"""An example in a docstring, which shows the library in use."""


def mentions(text: str, names: list[str]) -> Iterator[str]:
    """Each line outside examples with one of the names as a word of its own."""
    word = re.compile(rf"\b({'|'.join(map(re.escape, names))})\b")
    kept = EXAMPLE.sub(lambda example: "\n" * example[0].count("\n"), text)
    for number, line in enumerate(kept.splitlines(), start=1):
        if word.search(line):
            yield f"{number}: {line.strip()}"


@pytest.mark.parametrize("room", ROOMS)
def test_no_general_code_names_a_method(room: str) -> None:
    folder = Path(equimodal.__file__).parent / room
    files = [path for path in sorted(folder.rglob("*")) if path.suffix in (".py", ".j2")]
    assert files
    found = [f"{room}/{path.name}:{line}" for path in files for line in mentions(path.read_text("utf-8"), available())]
    assert found == []


def test_a_name_in_code_a_message_or_a_comment_is_seen() -> None:
    name = available()[-1]
    for line in (f"if method is {name}:", f'raise Error("{name} needs this")', f"# as {name} does", f'x = "{name}"'):
        assert list(mentions(f"a\n{line}\n", [name])) == [f"2: {line}"]
    doc = f'"""Text.\n\nExample:\n    >>> get("{name}")\n    {name}\n\nOf {name}."""\n'
    assert list(mentions(doc, [name])) == [f'7: Of {name}."""']
    assert list(mentions(f"{name}s and my{name}\n", [name])) == []


def test_each_role_belongs_to_one_control() -> None:
    roles = [get(name).info.role for name in available()]
    assert sorted(filter(None, roles)) == sorted(ROLES)
    assert {name: role for role, name in required_controls().items()} == {
        name: get(name).info.role for name in available() if get(name).info.role
    }
    assert set(CONTROLS) <= set(controls())


def test_the_controls_of_a_comparison_are_those_of_before() -> None:
    assert CONTROLS == ("Joint", "MultiLoss", "Unimodal", "Ensemble")
    from equimodal import studies

    assert studies.CONTROLS is CONTROLS
    assert studies.RunConfig().method == "ExpertPool"
