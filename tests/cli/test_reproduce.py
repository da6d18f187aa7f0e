"""Published tables re-made: read from files, planned from raw data in the true format, run on a small one."""

from __future__ import annotations

import copy
import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from equimodal.data import prepare
from equimodal.errors import DataError, MethodError, UnknownNameError
from equimodal.methods import available
from equimodal.studies import published_table, published_tables
from equimodal.studies.reproduction import plan_of, reproduce, source_of
from tests.cli.helpers import CLI
from tests.data.prepare.cremad import SMALL, write_cremad, write_lists

SMALL_TABLE: dict[str, Any] = {
    "title": "A table, Table 9",
    "paper": "Somebody et al., 2026",
    "columns": {
        "small": {
            "dataset": "crema-d", "prepare": SMALL, "protocols": ["shared", "speaker-independent"], "seeds": [0, 1],
            "model": {"feature_size": 4, "size": "small"},
            "training": {"epochs": 2, "batch_size": 4, "device": "cpu"},
        }
    },
    "rows": {
        "Joint": {"method": "Joint", "numbers": {"small": [62.6, 5.8]}},
        "Frozen": {"method": "PretrainFinetune", "options": {"freeze": True}},
        "Unknown": {"method": "Nothing2099", "numbers": {"small": [1.0, 2.0]}},
    },
}  # fmt: skip


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("av")
    pytest.importorskip("soxr")
    folder = tmp_path_factory.mktemp("cremad")
    write_lists(folder / "lists", write_cremad(folder / "raw"))
    return folder / "raw"


@pytest.fixture
def table(tmp_path: Path) -> Path:
    path = tmp_path / "small.yaml"
    path.write_text(yaml.safe_dump(SMALL_TABLE, sort_keys=False), encoding="utf-8")
    return path


# ---- tables ---------------------------------------------------------------------------------------------------------


def test_the_table_of_mcr_is_what_was_printed() -> None:
    assert "mcr-table1" in published_tables()
    table = published_table("mcr-table1")
    numbers = {row: entry.numbers["CREMA-D ResNet"] for row, entry in table.rows.items()}
    methods = [row for row in numbers if not row.startswith("unimodal")]
    assert len(methods) == 14
    assert numbers["MCR"] == (76.1, 1.6) == max(numbers.values())
    assert numbers["Joint"] == (62.6, 5.8)
    assert numbers["Uni-pretrained (frozen)"] == (72.4, 1.8)
    assert table.rows["Uni-pretrained (frozen)"].options == {"freeze": True}
    column = table.columns["CREMA-D ResNet"]
    assert column.protocols == ("shared", "speaker-independent")
    assert {entry.method for entry in table.rows.values()} & set(available()) >= {"Joint", "MultiLoss", "Ensemble"}


@pytest.mark.parametrize("name", published_tables())
def test_tables_fit_what_they_name(name: str) -> None:
    table = published_table(name)
    for column in table.columns.values():
        known = {protocol for protocol, _ in prepare.get(column.dataset).facts.protocols}
        assert set(column.protocols) <= known
    assert all(row.numbers for row in table.rows.values())


@pytest.mark.parametrize(
    ("path", "value", "error", "message"),
    [
        (("rows", "Joint", "numbers", "small"), [1], DataError, r"expected \[mean, standard deviation\]"),
        (("rows", "Joint", "numbers", "smal"), [1, 2], UnknownNameError, "small"),
        (("columns", "small", "dataset"), "cremad", UnknownNameError, "crema-d"),
        (("columns", "small", "epochs"), 3, UnknownNameError, "field of .*columns: small"),
        (("columns", "small", "training", "lr"), -1, DataError, r"training`: .*lr"),
        (("columns", "small", "seeds"), [], DataError, "seeds`: expected a list"),
        (("columns",), [], DataError, "columns`: expected a mapping"),
    ],
)
def test_what_is_wrong_in_a_file_is_named(
    tmp_path: Path, path: tuple[str, ...], value: Any, error: type[Exception], message: str
) -> None:
    content = copy.deepcopy(SMALL_TABLE)
    place: Any = content
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    file = tmp_path / "t.yaml"
    file.write_text(yaml.safe_dump(content), encoding="utf-8")
    with pytest.raises(error, match=message):
        published_table(str(file))


def test_no_table(tmp_path: Path) -> None:
    with pytest.raises(UnknownNameError, match="mcr-table1"):
        published_table("mcr-table2")
    with pytest.raises(DataError, match="Found no file"):
        published_table(str(tmp_path / "x.yaml"))
    (tmp_path / "bad.yaml").write_text("a: [", encoding="utf-8")
    with pytest.raises(DataError, match="expected YAML"):
        published_table(str(tmp_path / "bad.yaml"))
    short = {k: v for k, v in SMALL_TABLE.items() if k != "paper"}
    (tmp_path / "short.yaml").write_text(yaml.safe_dump(short), encoding="utf-8")
    with pytest.raises(DataError, match="expected a field 'paper'"):
        published_table(str(tmp_path / "short.yaml"))


# ---- plans ----------------------------------------------------------------------------------------------------------


def test_a_plan_from_raw_files(raw: Path, table: Path) -> None:
    """48 clips of 8 actors; 36 are listed for training, 10 % of which are validation: 32, or 8 updates an epoch."""
    found, lists = published_table(str(table)), {"lists": str(raw.parent / "lists")}
    column = found.columns["small"]
    source = source_of(column, raw, lists)
    assert (source.samples, source.prepared) == (48, False)
    assert source.training["shared"] == 32
    plan = plan_of(found, column, source, list(found.rows), column.protocols, column.seeds)
    assert plan.refused == {"Unknown": "the library has no method 'Nothing2099'"}
    joint = next(c for c in plan.cells if (c.row, c.protocol) == ("Joint", "shared"))
    assert (joint.runs, joint.joint_steps) == (2, 8 * 2 * 2)
    assert len(plan.cells) == 4
    without = source_of(column, raw, {})
    assert list(without.training) == ["speaker-independent"]
    assert "shared" in plan_of(found, column, without, ["Joint"], column.protocols, [0]).refused
    with pytest.raises(DataError, match="Found no folder"):
        source_of(column, raw / "nothing", {})


def test_dry_run_prints_cells_costs_and_what_is_refused(cli: CLI, raw: Path, table: Path) -> None:
    lists = str(raw.parent / "lists")
    text = cli(["reproduce", str(table), "--data", str(raw), "--prepare.lists", lists, "--dry-run"])
    assert re.search(r"^Joint +shared +62\.6 ± 5\.8 +2 +32 +\d+\.\d\d$", text, re.MULTILINE)
    assert re.search(r"^all: 4 cells, \d+ joint steps, \d+\.\d\d hours in one process$", text, re.MULTILINE)
    assert "(measured here, on a few samples)" in text
    assert "refused: Unknown: the library has no method 'Nothing2099'" in text
    text = cli(["reproduce", str(table), "--data", str(raw), "--dry_run", "--step_seconds", "36", "--seeds", "0,1,2"])
    assert re.search(r"^Joint +speaker-independent +62\.6 ± 5\.8 +3 +\d+ +\d+\.\d\d$", text, re.MULTILINE)
    assert "a joint step: 36.000 s (as given)" in text
    assert "refused: shared: `protocols`: expected those that the data have: speaker-independent" in text
    assert not (table.parent / "out").exists()


def test_the_real_table_on_files_in_the_true_format(cli: CLI, raw: Path) -> None:
    arguments = ["--data", str(raw), "--prepare.lists", str(raw.parent / "lists"), "--dry-run", "--step_seconds", "1"]
    text = cli(["reproduce", "mcr-table1", *arguments])
    runnable = [n for n in ("Ensemble", "Joint", "Multi-loss", "Uni-pretrained (frozen)") if n in text]
    assert len(runnable) == 4
    for row, entry in published_table("mcr-table1").rows.items():
        cells = [line for line in text.splitlines() if line.startswith(f"{row} ") and "±" in line]
        refused = f"refused: {row}: the library has no method {entry.method!r}" in text
        assert len(cells) == (0 if refused else 2), row
        assert refused == (entry.method not in available())


# ---- runs -----------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_small_table_is_re_made_and_continued(cli: CLI, raw: Path, table: Path) -> None:
    arguments = ["reproduce", str(table), "--data", str(raw), "--out", str(table.parent / "out"), "--quiet",
                 "--prepare.lists", str(raw.parent / "lists"), "--seeds", "0"]  # fmt: skip
    line = cli.error(arguments, 1)
    assert "Unknown: the library has no method 'Nothing2099'. Leave them out with --rows" in line
    assert not (table.parent / "out").exists()
    text = cli([*arguments, "--rows", "Joint,Frozen"])
    assert re.search(r"^\| Joint \| 62\.6 ± 5\.8 \| \d+\.\d ± 0\.0 \| \d+\.\d ± 0\.0 \|$", text, re.MULTILINE)
    assert re.search(r"^\| Frozen \| - \| ", text, re.MULTILINE)
    out = table.parent / "out"
    found = json.loads((out / "found.json").read_text(encoding="utf-8"))
    assert set(found["Joint"]) == {"shared", "speaker-independent"}
    assert cli([*arguments, "--rows", "Joint,Frozen"]) == text
    bundle = out / "data" / "crema-d"
    source = source_of(published_table(str(table)).columns["small"], bundle, {})
    assert source.prepared
    assert source.samples == 48


def test_nothing_is_run_where_something_is_refused(raw: Path, table: Path) -> None:
    found = published_table(str(table))
    source = source_of(found.columns["small"], raw, {})
    with pytest.raises(MethodError, match=r"Found Unknown: .*; shared: "):
        reproduce(
            found, "small", source, table.parent / "out", rows=["Joint", "Unknown"], protocols=["shared"], seeds=[0]
        )
    assert not (table.parent / "out").exists()


def test_wrong_use_is_one_line(cli: CLI, raw: Path, table: Path) -> None:
    assert "mcr-table1" in cli(["reproduce", "--help"])
    assert "--step_seconds" in cli(["reproduce", "mcr-table1", "--help"])
    assert "the name of the table comes first" in cli.error(["reproduce", "--data", "x"], 2)
    assert "Did you mean 'mcr-table1'" in cli.error(["reproduce", "mcr-table", "--data", "x"], 2)
    assert "--data is missing" in cli.error(["reproduce", "mcr-table1"], 2)
    assert "--out is missing" in cli.error(["reproduce", str(table), "--data", str(raw)], 2)
    assert "Found no folder" in cli.error(["reproduce", "mcr-table1", "--data", "nowhere", "--dry_run"], 1)
    assert "row of the table" in cli.error(["reproduce", str(table), "--data", str(raw), "--rows", "Jont"], 2)
