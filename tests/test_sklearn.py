# ruff: noqa: E402 - scikit-learn is looked for first
"""The estimators keep scikit-learn's promises, on matrices, frames and arrays by modality."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

for library in ("sklearn", "pandas", "tokenizers", "lightning"):
    pytest.importorskip(library)
# ruff: noqa: E402  (after the question whether they are installed)
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.utils.estimator_checks import check_estimator

from equimodal.errors import DataError
from equimodal.sklearn import EquimodalClassifier, EquimodalRegressor, ModalityArrays
from tests.data.tables.helpers import frame

SHORT: dict[str, Any] = {"epochs": 4, "size": "small", "lr": 1e-2, "batch_size": 16, "feature_size": 16}
EXCEPTIONS = {
    "check_methods_subset_invariance": "float32: predictions of other batch sizes differ by 1e-6",
}


def arrays(rows: int = 60) -> tuple[ModalityArrays, Any]:
    random = np.random.default_rng(0)
    label = np.arange(rows) % 2
    image = random.normal(size=(rows, 1, 8, 8)) + label[:, None, None, None]
    image[::5] = np.nan
    vector = random.normal(size=(rows, 4)) + label[:, None]
    return ModalityArrays({"image": image, "vector": vector}), np.array(["no", "yes"])[label]


@pytest.mark.slow
@pytest.mark.parametrize("kind", [EquimodalClassifier, EquimodalRegressor])
@pytest.mark.filterwarnings("ignore")
def test_estimator_checks(kind: Any) -> None:
    estimator = kind(epochs=25, size="small", lr=1e-2, patience=None, batch_size=16)
    results = check_estimator(estimator, expected_failed_checks=EXCEPTIONS, on_skip=None, on_fail=None)
    failed = {r["check_name"]: r["exception"] for r in results if r["status"] == "failed"}
    assert not failed
    assert sum(r["status"] == "passed" for r in results) > 40


def test_dicts_of_arrays_with_an_absent_modality() -> None:
    X, y = arrays()
    model = EquimodalClassifier(**SHORT).fit(dict(X), y)
    assert model.score(X, y) > 0.7
    assert model.predict_proba(X).shape == (60, 2)
    found = model.predictor_.predict({"image": list(X["image"]), "vector": list(X["vector"])}, modalities=["vector"])
    assert not found["present_image"].any()
    with pytest.raises(DataError, match="one N for all modalities"):
        model.predict({"image": X["image"], "vector": X["vector"][:5]})


@pytest.mark.slow
def test_cross_validation_and_grid_search() -> None:
    X, y = arrays(40)
    scores = cross_val_score(EquimodalClassifier(**SHORT), X, y, cv=2, error_score="raise")
    assert scores.shape == (2,)
    table = frame(60)
    search = GridSearchCV(EquimodalClassifier(**SHORT), {"lr": [1e-3, 1e-2]}, cv=2, error_score="raise")
    search.fit(table.drop(columns="label"), table["label"])
    assert search.best_params_["lr"] in (1e-3, 1e-2)
    assert list(search.classes_) == ["p", "q", "r"]


def test_parameters_and_clones() -> None:
    model = EquimodalRegressor(lr=0.5, options={"weight": 0.5})
    assert clone(model).get_params() == model.get_params()
    assert model.set_params(lr=0.1).lr == 0.1


def test_numbers_come_back_in_their_unit() -> None:
    X = np.linspace(0, 1, 60)[:, None]
    found = EquimodalRegressor(**{**SHORT, "epochs": 12}).fit(X, 1000 + 100 * X[:, 0]).predict(X)
    assert found.min() > 980
    assert found.max() < 1120
