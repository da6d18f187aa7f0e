"""The table: order, numbers, marks of controls and single seeds, what is missing, and text that cannot do harm."""

from __future__ import annotations

from typing import Any

import pytest

from equimodal.errors import DataError
from equimodal.report import CONTROLS, markdown_table, missing_controls, text_table
from tests.report.records import CONTROL_ROWS, row, study


def test_best_score_first_with_controls_marked() -> None:
    lines = text_table(study(row("MLA", 0.9), row("CGGM", 0.5))).splitlines()
    assert [line.split()[0] for line in lines[1:8]] == [
        "MLA", "Unimodal[video]", "Unimodal[audio]", "Ensemble", "MultiLoss", "Joint", "CGGM",
    ]  # fmt: skip
    assert ["(c)" in line for line in lines[1:8]] == [False, True, True, True, True, True, False]


def test_numbers_of_a_line() -> None:
    line = text_table(study(row("MLA", 0.9))).splitlines()[1]
    assert line.split("  ")[0] == "MLA"
    assert [cell.strip() for cell in line.split("  ") if cell.strip()] == [
        "MLA", "90.0 ± 1.2", "70.0 ± 1.0 (0.0)", "50.0 ± 2.0 (12.3)", "1.25",
    ]  # fmt: skip


def test_columns_are_aligned() -> None:
    lines = text_table(study(row("a method with a long name", 0.9))).splitlines()
    ends = {len(line) for line in lines[: len(CONTROL_ROWS) + 2]}
    assert len(ends) == 1


def test_a_complete_table_is_not_marked_and_an_incomplete_one_is() -> None:
    assert "Incomplete" not in text_table(study(row("MLA")))
    bare = study(row("MLA"), controls=False)
    assert "Incomplete: the table lacks the control(s) Joint, MultiLoss, Unimodal, Ensemble" in text_table(bare)
    assert "Incomplete: the table lacks" in markdown_table(bare)


@pytest.mark.parametrize("control", CONTROL_ROWS)
def test_each_missing_control_is_named(control: str) -> None:
    record = study(row("MLA"))
    record["rows"] = [r for r in record["rows"] if r["method"] != control]
    assert missing_controls(record) == [control]


def test_one_row_may_stand_for_all_unimodal_models() -> None:
    assert missing_controls({"rows": [{"method": name} for name in CONTROLS], "dataset": {"modalities": ["a"]}}) == []


def test_stored_reasons_are_shown() -> None:
    assert "Incomplete: failed: MLA/seed1: loss is NaN." in text_table(
        study(row("MLA"), incomplete=["failed: MLA/seed1: loss is NaN"])
    )


def test_single_seeds_are_marked_and_have_no_spread() -> None:
    text = text_table(study(row("MLA", 0.9, seeds=1)))
    line = text.splitlines()[1]
    assert "90.0 (1 seed)" in line
    assert "±" not in line
    assert "Incomplete: one seed only, so no spread: MLA." in text
    assert "over 1 to 3 seeds" in text


def test_other_scores_than_shares_are_not_percent() -> None:
    text = text_table(study(row("MLA", -1.5, score_std=0.25)))
    assert "score, %" not in text
    assert "-1.500 ± 0.250" in text


def test_many_modalities_leave_out_the_spread() -> None:
    names = [f"view{i}" for i in range(6)]
    one = row("MLA", per_modality={n: [0.5, 0.1] for n in names}, under_trained={n: [0.1, 0.1] for n in names})
    text = text_table(study(one, controls=False, dataset={"modalities": names}))
    assert text.splitlines()[1].count("50.0 (10.0)") == 6
    assert max(map(len, text.splitlines()[:2])) < 150


def test_what_was_not_measured_is_a_dash() -> None:
    one = row("MLA", 0.9, cost=None, per_modality={"audio": [0.5, 0.0]}, under_trained={})
    assert text_table(study(one)).splitlines()[1].endswith(" -")


def test_names_cannot_control_a_terminal_or_break_a_table() -> None:
    record = study(row("\x1b[31mred\n| x *y*", 0.95))
    assert all(c.isprintable() or c == "\n" for c in text_table(record))
    line = markdown_table(record).splitlines()[2]
    assert line.startswith(r"| \[31mred \| x \*y\* | 95.0")
    assert len(markdown_table(record).splitlines()[0].split(" | ")) == 5


def test_markdown_puts_controls_in_italics() -> None:
    lines = markdown_table(study(row("MLA", 0.9))).splitlines()
    assert lines[1] == "| --- | ---: | ---: | ---: | ---: |"
    assert lines[2].startswith("| MLA | 90.0 ± 1.2 |")
    assert lines[-4].startswith("| *Joint* |")


def test_an_empty_study_has_a_table() -> None:
    assert text_table({"rows": []}).startswith("method  score")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"rows": None}, "`rows`: expected a list"),
        ({"rows": [3]}, r"`rows\[0\]`: expected a mapping. Found int"),
        ({"rows": [row("")]}, r"`rows\[0\].method`"),
        ({"rows": [row("A", seeds=0)]}, r"`rows\[0\].seeds`.*Found 0"),
        ({"rows": [row("A", score_mean=float("nan"))]}, r"`rows\[0\].score_mean`.*Found nan"),
        ({"rows": [row("A", per_modality=[1])]}, "`per_modality`: expected a mapping. Found list"),
        ({"rows": [row("A", under_trained={"m": ["x", 1]})]}, r"`rows\[0\].under_trained.m`"),
        ({"histories": [{"method": "A"}]}, "`epochs`: expected a list"),
        ({"histories": [{"method": "A", "epochs": [1]}]}, r"`histories\[0\].epochs\[0\]`"),
    ],
)
def test_malformed_records_name_the_field(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(DataError, match=words):
        text_table(study(**changes))
    with pytest.raises(DataError, match="expected the mapping stored as study.json"):
        text_table([])  # type: ignore[arg-type]
