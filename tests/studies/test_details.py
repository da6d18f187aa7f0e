"""What a comparison keeps of its runs: details of samples, and which inference rule to use."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from equimodal.diagnostics import Outcomes, SamplePredictions
from equimodal.errors import DataError
from equimodal.studies.comparisons import study_of_run, with_evaluations
from equimodal.studies.comparisons._details import CLASSES, MATRIX, PAIRS, POINTS, details_of, parts_of
from equimodal.studies.comparisons._rules import rule_advice
from equimodal.studies.runs import read_samples
from equimodal.studies.runs._outcomes import read_outcomes, write_outcomes


def predictions(target: Any, said: Any, confidence: Any) -> SamplePredictions:
    target, said = np.asarray(target), np.asarray(said)
    return SamplePredictions(
        "categorical",
        np.arange(100, 100 + len(target)),
        target,
        {"prediction": said},
        {"prediction": np.asarray(confidence)},
    )


def outcome(numerator: Any, denominator: Any) -> Outcomes:
    return Outcomes(np.array(numerator, np.float32), np.array(denominator, np.float32))


def test_details_of_classes() -> None:
    found = details_of(predictions([0, 0, 1, 1], [0, 1, 1, 0], [0.9, 0.8, 0.7, 0.95]))
    assert found["confusion"] == [[1, 1], [1, 1]]
    assert found["confused"] == [[0, 1, 1], [1, 0, 1]]
    assert found["worst"] == [[103, 1, 0, 0.95], [101, 0, 1, 0.8]]
    assert found["classes"]["recall"] == [0.5, 0.5]
    assert found["calibration"]["prediction"]["bins"] == [[0.7, 1, 1], [0.8, 0, 1], [0.9, 1, 1], [0.95, 0, 1]]
    json.dumps(found)


def test_many_classes_are_kept_short() -> None:
    count = 2 * CLASSES
    target = np.arange(10 * count) % count
    found = details_of(predictions(target, (target + (np.arange(10 * count) < 400)) % count, np.full(10 * count, 0.5)))
    assert count > MATRIX
    assert "confusion" not in found
    assert len(found["confused"]) == PAIRS
    assert len(found["classes"]["number"]) == CLASSES
    assert found["classes"]["all"] == count


def test_details_of_numbers() -> None:
    target = np.arange(1000.0)[:, None]
    found = details_of(SamplePredictions("point", np.arange(1000), target, {"prediction": target + 2}, {}))
    assert found["errors"] == [{"mae": 2.0, "rmse": 2.0, "bias": 2.0, "r2": pytest.approx(1, abs=1e-4)}]
    assert len(found["points"][0]) == POINTS
    assert found["points"][0][0] == [0.0, 2.0]
    assert found["points"][0][-1] == [999.0, 1001.0]


def test_parts_of_a_score_are_its_terms() -> None:
    outcomes = {"prediction": outcome([[1, 0], [1, 1]], [[2, 0], [2, 4]])}
    assert parts_of(outcomes, ["core", "whole"]) == {"core": 0.5, "whole": 0.25}
    assert parts_of(outcomes, []) == {"part 1": 0.5, "part 2": 0.25}
    assert parts_of({"prediction": outcome([[1]] * 3, [[1]] * 3)}, []) == {}


def test_predictions_are_read_as_they_were_written(tmp_path: Path) -> None:
    given = predictions([0, 1], [1, 1], [0.75, 0.5])
    outcomes = {"prediction": Outcomes(np.ones((2, 1), np.float32), np.ones((2, 1), np.float32))}
    path = write_outcomes(tmp_path / "outcomes.npz", outcomes, given)
    found = read_samples(path)[1]
    assert found is not None
    assert (found.kind, found.index.tolist(), found.target.tolist()) == ("categorical", [100, 101], [0, 1])
    assert found.value["prediction"].tolist() == [1, 1]
    assert found.confidence["prediction"].tolist() == [0.75, 0.5]
    assert list(read_outcomes(path)) == ["prediction"]  # what older versions read is as it was
    assert read_samples(write_outcomes(tmp_path / "older.npz", outcomes))[1] is None
    assert read_samples(tmp_path / "none.npz")[1] is None


@pytest.mark.parametrize(
    "changes", [{"index": np.arange(3)}, {"kind": "other"}, {"value": {"prediction": np.zeros(5)}}]
)
def test_predictions_that_do_not_fit_are_refused(changes: dict[str, Any], tmp_path: Path) -> None:
    given = predictions([0, 1], [1, 1], [0.75, 0.5])
    path = write_outcomes(tmp_path / "outcomes.npz", {}, SamplePredictions(**{**vars(given), **changes}))
    with pytest.raises(DataError, match=r"outcomes.npz.*written by equimodal"):
        read_samples(path)[1]


def metrics(rule: str = "mean", error: float = 0.0, **rules: tuple[float, float]) -> dict[str, Any]:
    return {
        "rule": rule,
        "rules": {name: {"validation": v, "test": t} for name, (v, t) in rules.items()},
        "inference": {"scores": {name: {"error": error, "loss": 1.0 - 0.1 * v} for name, (v, _) in rules.items()}},
        "validation": {"score": 0.1},
        "test": {"score": 0.2},
    }


def test_the_rule_is_chosen_on_validation_data_and_never_on_test_data() -> None:
    found = rule_advice([metrics(mean=(0.7, 0.9), skill=(0.8, 0.1))], {})
    assert found == {
        "documented": "mean", "recommended": "skill", "validation": 0.8, "gain": pytest.approx(0.1), "test": 0.1,
    }  # fmt: skip


def test_the_documented_rule_is_kept_within_a_standard_error() -> None:
    for error, expected in ((0.05, "skill"), (0.2, "mean")):
        found = rule_advice([metrics(error=error, mean=(0.7, 0.5), skill=(0.8, 0.6))], {})
        assert found is not None
        assert (found["recommended"], found["test"]) == (expected, 0.5 if expected == "mean" else 0.6)


def test_means_are_over_seeds_and_equal_scores_go_to_the_lower_loss() -> None:
    seeds = [metrics(mean=(0.7, 0.5), skill=(0.9, 0.5)), metrics(mean=(0.7, 0.5), skill=(0.4, 0.5))]
    found = rule_advice(seeds, {})
    assert found is not None
    assert found["recommended"] == "mean"
    tied = metrics(mean=(0.5, 0.5), product=(0.7, 0.4), skill=(0.7, 0.6))
    tied["inference"]["scores"]["product"]["loss"] = 0.1
    found = rule_advice([tied], {})
    assert found is not None
    assert found["recommended"] == "product"


def test_one_rule_is_no_choice() -> None:
    assert rule_advice([metrics(mean=(0.7, 0.5))], {}) is None


def test_the_gain_on_test_data_has_an_interval() -> None:
    good, bad = (outcome([[v]] * 50, [[1]] * 50) for v in (1.0, 0.5))
    outcomes = {0: {"prediction": bad, "rule/skill": good}}
    found = rule_advice([metrics(mean=(0.7, 0.5), skill=(0.8, 1.0))], outcomes)
    assert found is not None
    assert (found["difference"]["low"], found["difference"]["high"]) == (0.5, 0.5)


def test_evaluations_beside_runs_are_added(tmp_path: Path) -> None:
    (tmp_path / "cells/A/seed0").mkdir(parents=True)
    (tmp_path / "cells/A/seed0/evaluation.json").write_text('{"subsets": []}')
    runs = [{"method": "A", "folder": "cells/A/seed0"}, {"method": "A", "folder": "cells/A/seed1"}]
    found = with_evaluations({"runs": runs}, tmp_path)["runs"]
    assert found == [{**runs[0], "evaluation": {"subsets": []}}, runs[1]]


def test_what_is_no_run_has_no_record(tmp_path: Path) -> None:
    with pytest.raises(DataError):
        study_of_run(tmp_path)
