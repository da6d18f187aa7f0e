"""Comparisons across datasets: tests against their definitions, what does not belong together, the diagram."""

from __future__ import annotations

import csv
import io
import itertools
import json
import math
import xml.etree.ElementTree as ET
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from equimodal.errors import DataError, UnknownNameError, UnsupportedError
from equimodal.report import draw_ranking, rank_studies, ranking_text
from equimodal.report.ranking._statistics import (
    critical_difference,
    friedman_p,
    rank_intervals,
    signed_rank_probabilities,
    wilcoxon_p,
)
from tests.report.records import row

pytest.importorskip("scipy")
SCORES = {"Joint": (0.5, 0.6, 0.7), "MLA": (0.6, 0.8, 0.9), "OGM": (0.4, 0.7, 0.8)}


def one(position: int, scores: Mapping[str, tuple[float, ...]] = SCORES, **changes: Any) -> dict[str, Any]:
    seeds = changes.pop("seeds", [0, 1])
    rows = [row(name, s[position], scores=[s[position] - 0.01, s[position] + 0.01]) for name, s in scores.items()]
    return {
        "rows": changes.pop("rows", rows),
        "dataset": {"name": f"d{position}", "fingerprint": f"f{position}", "modalities": ["audio", "video"]},
        "budget": {"training": {"epochs": 3, "lr": 0.1}, "seeds": seeds},
        **changes,
    }


def three(**changes: Any) -> dict[str, dict[str, Any]]:
    return {f"d{i}": one(i, **changes) for i in range(3)}


# ---- the tests ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("entries", "q"), [(2, 1.960), (3, 2.343), (5, 2.728), (10, 3.164)])
def test_the_critical_difference_has_the_published_quantiles(entries: int, q: float) -> None:
    """Table 5(a) of Demsar (2006)."""
    expected = q * math.sqrt(entries * (entries + 1) / (6 * 14))
    assert critical_difference(entries, 14) == pytest.approx(expected, rel=5e-4)


def test_friedman_by_hand() -> None:
    """Ranks 1, 2, 3 on all of four datasets: chi2 = 12 N / (k (k + 1)) (sum R^2 - k (k + 1)^2 / 4) = 8, two degrees."""
    assert friedman_p(np.array([[3.0, 2.0, 1.0]] * 4)) == pytest.approx(math.exp(-8 / 2))
    assert friedman_p(np.ones((4, 3))) == 1.0


def test_wilcoxon_of_few_datasets_counts_all_signs() -> None:
    """Five differences of one sign: 2 of the 2^5 assignments of signs are as extreme."""
    first = np.array([0.6, 0.7, 0.8, 0.9, 1.0])
    assert wilcoxon_p(first, first - np.array([0.1, 0.2, 0.3, 0.4, 0.5])) == pytest.approx(2 / 32)
    assert wilcoxon_p(first, first) == 1.0


def test_the_signed_rank_probabilities_against_a_plain_loop() -> None:
    z, margin, draws = [0.03, -0.02, 0.05, 0.0], 0.01, 300
    values, won = [0.0, *z], [0, 0, 0]
    for w in np.random.default_rng(0).dirichlet([0.5, 1, 1, 1, 1], size=draws):
        sums = [0.0, 0.0, 0.0]
        for i, j in itertools.product(range(5), repeat=2):
            mean = (values[i] + values[j]) / 2
            if math.isclose(abs(mean), margin):
                sums[0 if mean > 0 else 2] += w[i] * w[j] / 2
                sums[1] += w[i] * w[j] / 2
            else:
                sums[0 if mean > margin else 2 if mean < -margin else 1] += w[i] * w[j]
        won[int(np.argmax(sums))] += 1
    assert signed_rank_probabilities(z, margin, draws) == tuple(count / draws for count in won)


def test_probabilities_have_the_sign_of_the_difference() -> None:
    assert signed_rank_probabilities([0.05] * 10, 0.01) == (1.0, 0.0, 0.0)
    assert signed_rank_probabilities([-0.05] * 10, 0.01) == (0.0, 0.0, 1.0)
    assert signed_rank_probabilities([0.001] * 10, 0.01) == (0.0, 1.0, 0.0)


def test_rank_intervals_hold_seeds_and_datasets() -> None:
    sure = [{"A": [0.9, 0.9], "B": [0.1, 0.1]}] * 4
    assert rank_intervals(sure) == {"A": (1.0, 1.0), "B": (2.0, 2.0)}
    datasets = rank_intervals([{"A": [0.9], "B": [0.1]}, {"A": [0.1], "B": [0.9]}])
    assert datasets["A"] == (1.0, 2.0)
    seeds = rank_intervals([{"A": [0.9, 0.1], "B": [0.5, 0.5]}] * 2)
    assert seeds["A"] == (1.0, 2.0)
    alike = rank_intervals([{"A": [0.9, 0.3], "B": [0.8, 0.2]}] * 2)  # a seed is drawn for both
    assert alike["A"] == (1.0, 1.0)


# ---- the ranking ----------------------------------------------------------------------------------------------------


def test_places_reference_and_scores() -> None:
    found = rank_studies(three())
    assert [(p.entry, p.rank, p.scores) for p in found.places] == [
        ("MLA", 1.0, (0.6, 0.8, 0.9)), ("OGM", 7 / 3, (0.4, 0.7, 0.8)), ("Joint", 8 / 3, (0.5, 0.6, 0.7)),
    ]  # fmt: skip
    assert found.reference == "Joint"  # the best control
    assert (found.places[2].better, found.places[0].worse) == (None, 0.0)
    assert found.places[0].better == signed_rank_probabilities([0.1, 0.2, 0.2], 0.01)[0]
    assert [(p.first, p.second) for p in found.pairs] == [("MLA", "OGM"), ("MLA", "Joint"), ("OGM", "Joint")]
    assert found.groups == ((0, 2),)  # three datasets tell nothing apart
    assert any("cannot give less than p = 0.25" in note for note in found.notes)
    assert rank_studies(three(), against="OGM").reference == "OGM"


def test_groups_are_the_longest_runs_within_the_critical_difference() -> None:
    from equimodal.report.ranking._ranking import _groups

    assert _groups([1.0, 1.5, 2.2, 4.0], 1.0) == ((0, 1), (1, 2))
    assert _groups([1.0, 3.0], 1.0) == ()
    assert _groups([1.0, 1.5, 2.0], 1.0) == ((0, 2),)


def test_models_of_single_modalities_count_as_the_best_of_them() -> None:
    studies = three()
    for i, s in enumerate(studies.values()):
        s["rows"] += [row(f"Unimodal[{m}]", 0.1 * (i + 1 + k), scores=[]) for k, m in enumerate(("audio", "video"))]
    found = {p.entry: p for p in rank_studies(studies).places}
    assert found["best single modality"].scores == pytest.approx((0.2, 0.3, 0.4))
    assert found["best single modality"].control
    assert not [entry for entry in found if entry.startswith("Unimodal")]


def test_an_error_is_shown_as_it_is_and_less_of_it_is_better() -> None:
    scores = {"Joint": (-0.5, -0.6, -0.7), "MLA": (-0.4, -0.5, -0.6)}
    found = rank_studies(three(scores=scores, metric={"name": "mae", "higher_is_better": False}))
    assert (found.places[0].entry, found.places[0].scores) == ("MLA", (0.4, 0.5, 0.6))
    assert found.friedman is None  # of two entries
    assert "| MLA | **1.0" in ranking_text(found, "markdown")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"rows": [row("Joint", 0.5), row("MLA", 0.6)]}, "'OGM' is not in d2.*--common"),
        ({"budget": {"training": {"epochs": 9, "lr": 0.1}, "seeds": [0, 1]}}, "`d2`.*budget of `d0`.*epochs 3 and 9"),
        ({"budget": {"training": {"epochs": 3, "lr": 0.1}, "seeds": [0]}}, "2 and 1 seeds"),
        ({"metric": {"name": "mae", "higher_is_better": False}}, r"`d2`.*same kind as `d0`.*mae \(less is better"),
        ({"dataset": {"fingerprint": "f0"}}, "`d2`: expected another dataset than that of `d0`"),
        ({"rows": [row("Joint", 0.5), row("OGM", 0.6), row("MLA", 0.6, **{"class": "CGGM"})]}, "'MLA' to be MLA.*CGGM"),
    ],
)
def test_what_does_not_belong_together_is_refused_by_name(change: dict[str, Any], words: str) -> None:
    studies = three()
    studies["d2"] = {**studies["d2"], **change}
    with pytest.raises(DataError, match=words):
        rank_studies(studies)


def test_too_few_of_anything() -> None:
    with pytest.raises(DataError, match="at least two comparisons.*Found 1"):
        rank_studies({"a": one(0)})
    with pytest.raises(DataError, match="at least two entries"):
        rank_studies(three(scores={"MLA": (0.1, 0.2, 0.3)}))
    with pytest.raises(UnknownNameError, match="MLB"):
        rank_studies(three(), against="MLB")
    with pytest.raises(DataError, match="`margin`.*Found -1"):
        rank_studies(three(), margin=-1)


def test_what_is_let_through_is_said() -> None:
    studies = three()
    studies["d1"]["budget"] = {"training": {"epochs": 9, "lr": 0.1}, "seeds": [0, 1, 2]}
    studies["d2"]["rows"] = studies["d2"]["rows"][:2]
    studies["d0"]["incomplete"] = ["failed: MLA/seed1: NaN"]
    studies["d0"]["rows"][1]["options"] = {"alpha": 0.2}
    studies["d1"]["rows"][1]["scores"] = [0.8]
    notes = rank_studies(studies, budgets="own", common=True).notes
    for words in (
        "budgets differ between d0 and d1: epochs 3 and 9; 2 and 3 seeds", "left out, not in every comparison: OGM",
        "d0: failed: MLA/seed1: NaN", "MLA has other options in some datasets: alpha",
        "d1: every entry has 1 to 2 of 3",
    ):  # fmt: skip
        assert any(words in note for note in notes), (words, notes)


# ---- what is written ------------------------------------------------------------------------------------------------


def test_every_format_holds_the_ranking() -> None:
    found = rank_studies(three())
    text = ranking_text(found, "markdown")
    assert "| MLA | **1.0 \\[1.0, 1.0\\]** | 99 / 1 / 0 | 60.0 | 80.0 | 90.0 |" in text
    assert "Critical difference of ranks (Nemenyi, 95 %): 1.91." in text
    lines = list(csv.DictReader(io.StringIO(ranking_text(found, "csv"))))
    assert [line["entry"] for line in lines] == ["MLA", "OGM", "Joint"]
    assert (lines[0]["score/d1"], lines[0]["p_worse"], lines[2]["p_better"]) == ("0.8", "0", "")
    record = json.loads(ranking_text(found, "json"))
    assert (record["format"], record["version"]) == ("equimodal.ranking", 1)
    assert record["places"][0]["entry"] == "MLA"
    assert len(record["pairs"]) == 3
    assert r"\textbf{1.0 [1.0, 1.0]}" in ranking_text(found, "latex")


def test_the_diagram_has_every_entry_and_no_date(tmp_path: Path) -> None:
    evil = r"$\frac{<script>"
    scores = {**SCORES, evil: (0.1, 0.2, 0.3)}
    found = rank_studies(three(scores=scores))
    first = draw_ranking(found, tmp_path / "new" / "a.svg").read_bytes()
    assert draw_ranking(found, tmp_path / "b.svg").read_bytes() == first
    texts = [t for e in ET.fromstring(first).iter() if (t := (e.text or "").strip())]
    assert {"MLA", "OGM", "Joint (c)", evil} <= set(texts)
    assert any("critical difference" in t for t in texts)
    assert b"<dc:date>" not in first
    assert draw_ranking(found, tmp_path / "a.pdf").read_bytes() == draw_ranking(found, tmp_path / "b.pdf").read_bytes()
    with pytest.raises(UnsupportedError, match="`path`.*'a.gif'"):
        draw_ranking(found, tmp_path / "a.gif")


def test_without_scipy_the_error_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "scipy", None)
    with pytest.raises(ImportError, match=r'pip install "equimodal\[rank\]"'):
        rank_studies(three())
