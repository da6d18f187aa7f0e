"""What the page says first: under-trained modalities, the inference rule, what to try next; ranks and best values."""

from __future__ import annotations

import json
import shlex
from typing import Any

import pytest

from equimodal.errors import DataError
from equimodal.report import verdict
from equimodal.report._leaderboard import leaderboard, ranks_of
from equimodal.report._next import next_steps
from equimodal.report._palette import strokes
from equimodal.report._study import read_study
from equimodal.report._verdict import under_trained
from tests.report.records import advice, row, run, study


def line_of(record: dict[str, Any], begin: str) -> str:
    return next(line for line in verdict(record).splitlines() if line.startswith(begin))


def commands(record: dict[str, Any], folder: str = "my study") -> list[str]:
    return [step.command for step in next_steps(read_study(record), folder)]


def test_under_trained_modalities_are_named_with_probe_and_gap() -> None:
    found = line_of(study(row("MLA", 0.9)), "Under-trained")
    assert found == "Under-trained in MLA: video by 12.3 (probe 50.0, the same encoder alone 62.3)."


@pytest.mark.parametrize(("gap", "spread", "named"), [(0.02, 0.01, True), (0.009, 0.0, False), (0.05, 0.06, False)])
def test_a_gap_counts_from_a_point_on_and_beyond_its_spread(gap: float, spread: float, named: bool) -> None:
    one = row("MLA", 0.9, under_trained={"video": [gap, spread], "audio": [-0.01, 0.0]})
    assert ("video" in under_trained(read_study(study(one)), read_study(study(one)).rows[0])) is named
    found = line_of(study(one), "Under-trained in MLA: ")
    assert found.endswith("none (largest gap: video, " + f"{100 * gap:+.1f}).") is not named


def test_the_rule_is_that_of_validation_data_and_its_gain_that_of_test_data() -> None:
    found = line_of(study(row("MLA", 0.9, rule_advice=advice())), "Inference rule")
    assert found.startswith(
        "Inference rule of MLA: product instead of mean: +5.0 on validation data, and +1.0 [+0.2, +1.8] on test data."
    )
    chance = advice(difference={"mean": 0.01, "low": -0.002, "high": 0.02})
    assert "which may be chance" in line_of(study(row("MLA", 0.9, rule_advice=chance)), "Inference rule")
    same = advice(recommended="mean", gain=0.0, difference=None)
    assert "the documented one, mean" in line_of(study(row("MLA", 0.9, rule_advice=same)), "Inference rule")


def test_other_rows_that_a_rule_makes_better_are_named() -> None:
    same = advice(recommended="mean", difference=None)
    record = study(row("MLA", 0.9, rule_advice=same), row("CGGM", 0.8, rule_advice=advice()))
    assert " product gains on test data for CGGM +1.0." in line_of(record, "Inference rule")


def test_the_best_row_under_its_own_rule_is_named_if_it_is_another() -> None:
    rules = {"mean": {"validation": 0.7, "test": 0.71}, "product": {"validation": 0.75, "test": 0.95}}
    record = study(row("MLA", 0.9, rules={}, rule_advice=None), row("CGGM", 0.8, rules=rules, rule_advice=advice()))
    record["rows"][-2] |= {"rules": {k: {"validation": 0.9, "test": 0.9} for k in ("mean", "product")}}
    record["rows"][-2] |= {"rule_advice": advice(recommended="mean", difference=None)}
    said = line_of(record, "Inference rule")
    assert said.endswith(" With every row read by the rule advised for it, CGGM is best (95.0).")


def test_steps_come_in_order_and_their_folder_is_quoted() -> None:
    bare = study(row("MLA", seeds=1), controls=False, incomplete=["failed: MLA/seed1: NaN"])
    assert commands(bare) == [
        "equimodal compare --out 'my study'",
        "equimodal compare --out 'my study' --controls true",
        "equimodal compare --out 'my study' --seeds 0,1,2,3,4",
    ]


def test_the_better_rule_is_a_command_that_reads_back() -> None:
    words = shlex.split(commands(study(row("MLA", 0.9, rule_advice=advice(recommended="product+temperature"))))[0])
    assert words[:4] == ["equimodal", "compare", "--out", "my study"]
    assert json.loads(words[5]) == {
        "MLA, product+temperature": {"method": "MLA", "options": {"inference": "product", "calibrated": True}}
    }


@pytest.mark.parametrize(
    "changes",
    [advice(recommended="alone:audio"), advice(difference={"mean": 0.01, "low": -0.01, "high": 0.03}), {}],
)
def test_a_rule_without_a_name_or_a_sure_gain_has_no_command(changes: dict[str, Any]) -> None:
    assert not any("--entries" in c for c in commands(study(row("MLA", 0.9, rule_advice=changes))))


def test_a_gap_asks_for_methods_that_are_not_there_yet() -> None:
    steps = commands(study(row("MLA", 0.9)))
    assert any(c.startswith("equimodal compare --out 'my study' --methods ") and "MLA" not in c for c in steps)
    flat = study(*(row(n, 0.9, under_trained={}) for n in ("MLA", "CGGM")))
    assert not any("--methods" in c for c in commands(flat))


def test_the_run_with_the_best_validation_score_is_looked_at() -> None:
    record = study(row("MLA", 0.9, under_trained={}), runs=[run("MLA", 0), run("MLA", 1)])
    assert commands(record)[-1].startswith("equimodal evaluate 'my study/cells/MLA/seed1' --subsets")


def test_ranks_are_means_over_seeds_of_complete_rows() -> None:
    runs = [run("A", 0, 0.9), run("B", 0, 0.8), run("A", 1, 0.7), run("B", 1, 0.8), run("C", 0, 0.95)]
    record = read_study(study(row("A"), row("B"), row("C"), controls=False, runs=runs))
    assert ranks_of(record) == {"A": 1.5, "B": 1.5}  # C lacks a seed, and does not count


def test_bold_is_the_best_of_a_column_and_nothing_else() -> None:
    rows = [row("A", 0.9, cost=2.0), row("B", 0.8, cost=1.0, per_modality={"audio": [0.9, 0.0]})]
    record = read_study(study(*rows, controls=False))
    made = leaderboard(record, strokes([("A", False), ("B", False)]), {})
    assert [r["score"]["best"] for r in made] == [True, False]
    assert [r["cost"]["best"] for r in made] == [False, True]
    assert [r["cells"][0]["probe_best"] for r in made] == [False, True]
    assert [r["cells"][1]["probe"] for r in made] == ["50.0", "-"]
    assert [r["cells"][1]["probe_sort"] for r in made] == ["0.5", ""]


def test_the_difference_says_whether_it_is_chance() -> None:
    marks = []
    for low, high in ((0.01, 0.03), (-0.01, 0.05), (-0.05, -0.01)):
        differences = {"A": {"Joint": {"mean": (low + high) / 2, "low": low, "high": high}}}
        rows = [row("Joint", 0.7), row("A", 0.8)]
        record = read_study(study(*rows, controls=False, differences=differences))
        made = leaderboard(record, strokes([(r.label, r.control) for r in record.rows]), {})
        marks.append(made[0]["difference"]["mark"])
        assert made[1]["difference"]["text"] == "reference"
    assert marks == ["▲", "≈", "▼"]


@pytest.mark.parametrize(
    "changes",
    [
        {"dataset": None},
        {"differences": {"MLA": [1]}},
        {"runs": [run("MLA", selection=[]), run("MLA", selection={"score": "high"})]},
        {"kind": "run", "data": [1]},
    ],
)
def test_a_record_with_odd_fields_still_has_an_answer(changes: dict[str, Any]) -> None:
    record = study(row("MLA", 0.9, rule_advice=advice(gain="much")), **changes)
    assert verdict(record, "folder").startswith("Verdict: MLA is the best of 6 rows")


def test_differences_that_are_none_are_refused() -> None:
    with pytest.raises(DataError, match="`differences`: expected a mapping"):
        verdict(study(row("MLA"), differences=[1]))
