"""A folder that holds something else: readers say what it is and what to do, writers leave it as it is."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cli.helpers import CLI, DATA, TINY

pytest.importorskip("optuna")

HELD = {
    "tune.yaml": ("an unfinished tuning", "equimodal tune --out held"),
    "study.yaml": ("an unfinished comparison", "equimodal compare --out held"),
    "config.yaml": ("an unfinished run", "equimodal train --resume --out held"),
}
WRITERS = {
    "config.yaml": ["train", "--method", "Joint", *TINY],
    "study.yaml": ["compare", "--methods", "Joint", "--seeds", "0", *TINY],
    "tune.yaml": ["tune", "--budget", "60", *DATA],
}


@pytest.fixture(params=list(HELD))
def held(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.chdir(tmp_path)
    name = str(request.param)
    Path("held").mkdir()
    Path("held", name).write_text("data: {name: avdigits}\n", encoding="utf-8")
    return name


@pytest.mark.parametrize("command", ["report", "check", "predict", "evaluate", "export"])
def test_readers_say_what_it_is(cli: CLI, held: str, command: str) -> None:
    if (command, held) == ("check", "study.yaml"):
        pytest.skip("a comparison is checked while it goes on")
    said = cli.error([command, "held"], 1)
    found, step = HELD[held]
    assert f"Found {found} (no " in said
    assert step in said


def test_what_a_table_began_is_finished_by_the_same_call(cli: CLI, tmp_path: Path) -> None:
    folder = tmp_path / "f"
    folder.mkdir()
    (folder / "config.yaml").write_text("data: {name: products.csv, target: price}\n", encoding="utf-8")
    assert "Finish it: the same equimodal fit, with --out" in cli.error(["report", str(folder)], 1)


@pytest.mark.parametrize("writer", list(WRITERS))
def test_writers_leave_it(cli: CLI, held: str, writer: str) -> None:
    if writer == held:
        pytest.skip("its own")
    said = cli.error([*WRITERS[writer], "--out", "held"], 1)
    assert f"Found a {HELD[held][0].split()[-1]} (held/{held}). Choose another folder." in said
    assert {path.name for path in Path("held").iterdir()} <= {held, ".lock"}
