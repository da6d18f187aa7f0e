"""The nine answers for reviewers: a number where the record has one, else the command that measures it; figures."""

from __future__ import annotations

import shlex
from typing import Any

import pytest

from equimodal.errors import UnknownNameError
from equimodal.report import answers_of, answers_text, figures_of
from equimodal.report.pack import QUESTIONS
from tests.report.records import epochs, row, study

ENSEMBLE, SPREAD, COST, ORDER, SENSITIVITY, REGRESSION, MODALITIES, IMBALANCE, SPLITS = range(9)


def record(*extra: dict[str, Any], **changes: Any) -> dict[str, Any]:
    difference = {"mean": 0.03, "low": -0.01, "high": 0.07, "p_holm": 0.25}
    one = row("MLA", 0.9, options={"alpha": 0.1, "order": "fixed"}, seconds=3.0, score_interval=[0.85, 0.95])
    return study(one, *extra, differences={"MLA": {"Ensemble": difference}}, **changes)


def test_what_the_record_has_is_answered_with_its_number() -> None:
    found = answers_of(record())
    assert len(found) == len(QUESTIONS) == 9
    assert "+3.0 points [-1.0, +7.0], p = 0.250 after Holm" in found[ENSEMBLE].text
    assert (
        "90.0 with a standard deviation of 1.2 over 3 seeds; 95 % interval over seeds and test samples [85.0, 95.0]"
        in (found[SPREAD].text)
    )
    assert found[COST].text.startswith("1.25 steps of joint training per step; 3.0 s")
    assert "audio 70.0 (gap 0.0 points); video 50.0 (gap +12.3 points)".replace("gap 0.0", "gap +0.0") in (
        found[IMBALANCE].text
    )
    assert found[SPLITS].text.startswith("protocol by-speaker: samples 10 train; validation: one speaker")
    assert [found[i].measured for i in (ENSEMBLE, SPREAD, COST, IMBALANCE, SPLITS)] == [True] * 5


def test_what_it_lacks_is_not_measured_and_has_a_command() -> None:
    found = answers_of(record(), "my study", data="my data.npz")
    assert not any(found[i].measured for i in (ORDER, SENSITIVITY, REGRESSION, MODALITIES))
    assert "take turns in the order of the encoders" in found[ORDER].text
    order = shlex.split(found[ORDER].command)
    assert order[:4] == ["equimodal", "compare", "--out", "my study"]
    assert '"options": {"alpha": 0.1, "order": "shuffled"}' in order[-1]
    assert shlex.split(found[SENSITIVITY].command)[:6] == [
        "equimodal", "tune", "--methods", "MLA", "--data", "my data.npz",
    ]  # fmt: skip
    assert "--data.options.task regression" in found[REGRESSION].command
    assert "--data.options.modalities 3" in found[MODALITIES].command


def test_other_entries_of_the_method_answer_order_and_sensitivity() -> None:
    others = (
        row("MLA, weak first", 0.85, **{"class": "MLA"}, options={"alpha": 0.1, "order": "weak_first"}),
        row("MLA, alpha 1", 0.7, **{"class": "MLA"}, options={"alpha": 1.0, "order": "fixed"}),
    )
    found = answers_of(record(*others))
    assert found[ORDER].text == "with other orders: MLA, weak first (order 'weak_first') 85.0; this one 90.0"
    assert found[SENSITIVITY].text == "with other options: MLA, alpha 1 (alpha 1.0) 70.0; this one 90.0"
    assert found[ORDER].measured
    assert found[SENSITIVITY].measured


def test_a_regression_and_three_modalities_answer_themselves() -> None:
    one = row("MLA", -0.5, per_modality={}, under_trained={})
    data = {"name": "toy", "modalities": ["a", "b", "c"]}
    found = answers_of(study(one, controls=False, dataset=data, metric={"name": "mae", "higher_is_better": False}))
    assert found[REGRESSION].text == "mae 0.500 on this dataset, which is one"
    assert found[MODALITIES].text == "0.500 with 3: a, b, c"
    assert not found[ENSEMBLE].measured
    assert not found[IMBALANCE].measured


def test_a_method_whose_result_has_no_order_needs_no_run() -> None:
    found = answers_of(study(row("OGM", 0.9)), entry="Joint")
    assert "does not depend on the order" in found[ORDER].text
    assert found[ORDER].measured


def test_one_seed_no_cost_unknown_method_and_no_rows() -> None:
    found = answers_of(study(row("Elsewhere", 0.9, seeds=1, cost=None), controls=False))
    assert not found[SPREAD].measured
    assert not found[COST].measured
    assert not found[ORDER].measured
    assert not any(answer.measured for answer in answers_of({"rows": []}))
    with pytest.raises(UnknownNameError, match="MLB.*Did you mean 'MLA'"):
        answers_of(record(), entry="MLB")


def test_the_text_holds_all_questions_and_harms_nobody() -> None:
    text = answers_text(record(row("# *evil*\n## x", 0.95)))
    assert [line for line in text.splitlines() if line.startswith("## ")] == [
        f"## {i}. {question}" for i, question in enumerate(QUESTIONS, start=1)
    ]
    assert text.startswith(r"# Nine questions about \# \*evil\* \#\# x")
    assert "Not measured. This would:\n\n    equimodal tune" in text


def test_figures_are_pdf_and_the_same_each_time() -> None:
    evil = row(r"$\frac{ 漢字", 0.95)
    made = record(evil, histories=[{"method": "MLA", "seed": 0, "epochs": epochs(0.5, 0.7)}])
    first = figures_of(made)
    assert set(first) == {"leaderboard.pdf", "curves.pdf", "gaps.pdf"}
    assert all(content.startswith(b"%PDF") and b"CreationDate" not in content for content in first.values())
    assert figures_of(made) == first
    assert set(figures_of(study(row("A", 0.5, under_trained={}), controls=False))) == {"leaderboard.pdf"}
