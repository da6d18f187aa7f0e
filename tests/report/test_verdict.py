"""The verdict follows from scores and intervals alone."""

from __future__ import annotations

from typing import Any

import pytest

from equimodal.report import verdict

Interval = tuple[float, float, float]


def study(rows: dict[str, float], differences: dict[str, dict[str, Interval]], **more: Any) -> dict[str, Any]:
    return {
        "rows": [{"method": n, "class": n.strip("*"), "control": n.endswith("*"), "seeds": 2, "score_mean": s}
                 for n, s in rows.items()],
        "differences": {n: {r: dict(zip(("mean", "low", "high"), d, strict=True)) for r, d in own.items()}
                        for n, own in differences.items()},
        **more,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("interval", "expected"),
    [
        ((0.02, 0.01, 0.03), "+2.0 [+1.0, +3.0]. Better by more than chance."),
        ((0.02, -0.01, 0.05), "+2.0 [-1.0, +5.0]. No difference beyond chance. Take the control, which is simpler."),
        ((-0.02, -0.03, -0.01), "-2.0 [-3.0, -1.0]. Worse by more than chance. Take the control."),
        ((0.02, 0.0, 0.03), "+2.0 [+0.0, +3.0]. No difference beyond chance. Take the control, which is simpler."),
    ],
)
def test_the_interval_decides(interval: Interval, expected: str) -> None:
    text = verdict(study({"New": 0.9, "Old": 0.5, "Base*": 0.88, "Weak*": 0.1}, {"New": {"Base*": interval}}))
    assert text.splitlines() == [
        "Verdict: New is the best of 4 rows (score, %: 90.0 ± 0.0).",
        f"Against the best control, Base*: {expected}",
    ]


def test_a_control_may_be_the_best_row() -> None:
    lines = verdict(study({"New": 0.8, "Base*": 0.9}, {"New": {"Base*": (-0.1, -0.2, -0.05)}})).splitlines()
    assert lines[0] == "Verdict: Base*, a control, is the best of 2 rows (score, %: 90.0 ± 0.0)."
    assert lines[1] == "The best method is New (80.0 ± 0.0)."
    assert lines[2].endswith("Worse by more than chance. Take the control.")


def test_the_best_single_modality_and_who_is_below_it() -> None:
    rival = "best single modality"
    differences = {
        "New": {rival: (0.03, 0.02, 0.04)}, "Old": {rival: (-0.2, -0.3, -0.1)}, "Base*": {rival: (-0.1, -0.3, 0.1)}
    }  # fmt: skip
    lines = verdict(study({"New": 0.9, "Old": 0.6, "Base*": 0.7}, differences)).splitlines()
    assert lines[1].startswith("Against the best control, Base*: not compared")
    assert lines[2] == "Against the best single modality: +3.0 [+2.0, +4.0]. Better by more than chance."
    assert lines[3] == "Below the best single modality by more than chance: Old."


def test_errors_are_shown_in_their_unit() -> None:
    metric = {"name": "mae", "higher_is_better": False}
    found = verdict(study({"New": -0.5, "Base*": -0.6}, {"New": {"Base*": (0.1, 0.05, 0.15)}}, metric=metric))
    assert "(MAE: 0.500 ± 0.000)" in found
    assert "+0.100 [+0.050, +0.150]. Better" in found  # of differences more is better


def test_only_controls_or_nothing() -> None:
    assert verdict({"rows": []}) == "Verdict: none, there is no row."
    assert "a control, is the only row" in verdict(study({"Base*": 0.5}, {}))
