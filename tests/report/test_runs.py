"""The sections of runs, and the drawings."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from equimodal.diagnostics import Curve, SubsetScore
from equimodal.errors import DataError
from equimodal.report import render_report
from equimodal.report._palette import Stroke, strokes
from equimodal.report._runs import RUNS, anchors_of, run_pages
from equimodal.report._study import read_study
from equimodal.report._svg import POINTS, Axis, Line, line_chart
from tests.report.records import epochs, row, run, study


def pages(*runs: dict[str, Any], **changes: Any) -> list[dict[str, Any]]:
    rows = [row(label) for label in dict.fromkeys(r["method"] for r in runs)]
    record = read_study(study(*rows, controls=False, runs=list(runs), **changes))
    return run_pages(record, strokes([(r.label, r.control) for r in record.rows]), anchors_of(record))


def test_a_classification_has_confusion_classes_calibration_and_worst_samples() -> None:
    history = [{"method": "MLA", "seed": 0, "epochs": epochs(0.5, 0.7)}]
    dataset = {"name": "toy", "modalities": ["audio", "video"], "class_names": ["cat", "dog", "owl"]}
    page = pages(run("MLA"), histories=history, dataset=dataset)[0]
    assert [c["caption"] for c in page["charts"]] == ["Validation score", "Training loss", "Calibration"]
    assert page["confusion"]["names"] == ["cat", "dog", "owl"]
    assert [c["count"] for c in page["confusion"]["rows"][0]["cells"]] == [2, 1, 0]
    assert page["confusion"]["rows"][0]["cells"][1]["share"] == "0.33"
    assert [r["name"] for r in page["classes"]["rows"]] == ["cat", "dog", "owl"]
    assert page["worst"]["rows"][0] == [17, "cat", "dog", "93.0"]
    assert ("epoch", "4") in page["facts"]
    assert ("audio alone", "60.0") in page["facts"]


def test_many_classes_have_pairs_instead_of_a_matrix() -> None:
    details = {k: v for k, v in run("MLA")["details"].items() if k != "confusion"}
    page = pages(run("MLA", details=details))[0]
    assert page["confusion"] is None
    assert page["pairs"] == [("0", "1", 1), ("2", "0", 1)]


def test_a_regression_has_a_cloud_residuals_and_errors() -> None:
    details = {
        "kind": "point", "samples": 400, "points": [[[0.0, 0.5], [1.0, 0.5]]],
        "errors": [{"mae": 0.5, "rmse": 0.5, "bias": 0.0, "r2": None}], "worst": [[3, [0.0], [0.5]]],
    }  # fmt: skip
    page = pages(run("MLA", details=details))[0]
    assert [c["caption"] for c in page["charts"]] == [
        "Predicted against true; 2 of 400 samples", "Residuals; 2 of 400 samples",
    ]  # fmt: skip
    assert page["errors"] == [{"mae": "0.5", "rmse": "0.5", "bias": "0", "r2": "-"}]
    assert page["worst"]["rows"] == [[3, "0", "0.5"]]


def test_parts_subsets_and_missing_rates_are_shown_when_recorded() -> None:
    curve = Curve("audio", "missing", (0.1, 0.5), ((0.8, 0.8), (0.5, 0.7)))
    subsets = [SubsetScore(("audio",), 0.5, None, 8), SubsetScore(("video", "audio"), None, None, 0)]
    evaluation = {"split": "test", "subsets": [s.record() for s in subsets], "missing": [curve.record()]}
    page = pages(run("MLA", parts={"tumour": 0.75}, evaluation=evaluation, details={}))[0]
    assert page["parts"] == [("tumour", "75.0")]
    assert page["subsets"] == {"rows": [("audio", "50.0", 8), ("video + audio", "-", 0)], "part": ""}
    assert [c["caption"] for c in page["charts"]] == ["Modalities missing"]
    assert 'data-values="80 60"' in page["charts"][0]["svg"]
    assert not page["recorded"]
    other = pages(run("MLA", evaluation={**evaluation, "split": "validation"}, details={}))[0]
    assert other["charts"][0]["caption"] == "Modalities missing, validation samples"


def test_cells_link_to_sections_that_exist_up_to_a_limit(tmp_path: Path) -> None:
    runs = [run("MLA", seed) for seed in range(RUNS + 2)]
    text = render_report(study(row("MLA"), runs=runs), tmp_path / "report.html").read_text(encoding="utf-8")
    links, ids = re.findall(r'href="#(run-\d+)"', text), re.findall(r'id="(run-\d+)"', text)
    assert len(ids) == RUNS
    assert set(links) == set(ids)
    assert "2 further runs have no section here" in text


@pytest.mark.parametrize(
    "details", [{"kind": "categorical"}, {**run("A")["details"], "worst": [[1]]}, {"kind": "point", "points": 3}]
)
def test_malformed_details_are_refused_by_the_run(details: dict[str, Any]) -> None:
    with pytest.raises(DataError, match="`runs`: expected the details of 'MLA', seed 0"):
        pages(run("MLA", details=details))


def test_a_run_without_a_number_is_refused() -> None:
    with pytest.raises(DataError, match=r"`runs\[0\]`: expected `score` and `seed`"):
        read_study(study(row("MLA"), runs=[run("MLA", score="high")]))  # type: ignore[arg-type]


def test_long_lines_are_thinned_and_keep_their_ends() -> None:
    values = list(range(1000))
    svg = line_chart("t", [Line(Stroke("a", "#000", ""), values, values)], Axis("x"), Axis("y"))
    found = re.search(r'data-at="([^"]*)"', svg)
    assert found is not None
    shown = found[1].split()
    assert len(shown) <= POINTS + 1
    assert (shown[0], shown[-1]) == ("0", "999")


@pytest.mark.parametrize("values", [[0.5], [0.0, 0.0], [1e-9, 1e9], [-3.0, 7.0], [1.0, 1.0001]])
@pytest.mark.parametrize("log", [False, True])
def test_any_values_have_an_axis_with_a_few_labels(values: list[float], log: bool) -> None:
    svg = line_chart(
        "t", [Line(Stroke("a", "#000", ""), list(range(len(values))), values)], Axis("x"), Axis("y", log=log)
    )
    labels = re.findall(r'text-anchor="end">([^<]*)<', svg)
    assert 1 <= len(labels) <= 12
    assert "nan" not in svg
    assert "inf" not in svg
