"""The other tasks of the synthetic data, and its named settings."""

from __future__ import annotations

from itertools import combinations
from typing import Any

import numpy as np
import pytest

from equimodal.data import SyntheticDataset, load, synthetic
from equimodal.data._synthetic_model import recover, unmixed
from equimodal.errors import DataError, UnsupportedError

SMALL: dict[str, Any] = {"train": 40, "validation": 12, "test": 12}


def target(data: SyntheticDataset) -> np.ndarray[Any, Any]:
    found = data.train.batch().target
    assert found is not None
    return found.numpy()


def test_the_default_data_are_those_of_earlier_versions() -> None:
    """Bit for bit, against the draw and the map written out."""
    data = synthetic(2, train=30, validation=6, test=6, seed=5)
    rng = np.random.default_rng([5, 0])
    labels = np.concatenate([rng.permutation(np.arange(n) % 4) for n in (30, 6, 6)])
    own, common = rng.random((42, 2)), rng.random((42, 1))
    luck = np.where(rng.random((42, 1)) < 0.3, common, own)
    symbols = np.where(luck < 0.7, labels[:, None], 4)
    assert np.array_equal(data.symbols, symbols)
    assert set(data.options) == {
        "protocol", "target", "modalities", "classes", "information", "redundancy", "synergy", "speed", "features",
        "seed", "counts",
    }  # fmt: skip
    for number, speed in enumerate((1.0, 0.3)):
        rng = np.random.default_rng([5, 2, number])
        values = rng.standard_normal((42, 32))
        values[:, :9] = 3.0 * speed * np.eye(9)[symbols[:, number]]
        rng = np.random.default_rng([5, 1, number])
        for layer in range(round(3 * (1 - speed)) + 1):
            matrix, shift = np.linalg.qr(rng.standard_normal((32, 32)))[0], 0.5 * rng.standard_normal(32)
            values = np.where(values > 0, values, 0.3 * values) if layer else values
            values = values @ matrix + shift
        assert np.array_equal(data.train.batch().inputs[f"m{number + 1}"].numpy(), values.astype(np.float32)[:30])


# ---- regression ------------------------------------------------------------------------------------------------------


def test_hand_computed_shares_of_variance() -> None:
    """Noise 1 and 3: precision 1 + 1/3 apart; in common the noisier one adds nothing."""
    apart = synthetic(["a", "b"], task="regression", information=[0.5, 0.25], redundancy=0.0, **SMALL)
    assert apart.bayes_r2(["a"]) == pytest.approx(0.5)
    assert apart.bayes_r2(["b"]) == pytest.approx(0.25)
    assert apart.bayes_r2() == pytest.approx((4 / 3) / (7 / 3))
    common = synthetic(["a", "b"], task="regression", information=[0.5, 0.25], redundancy=1.0, **SMALL)
    assert common.bayes_r2() == pytest.approx(0.5)
    equal = synthetic(3, task="regression", information=0.5, redundancy=1.0, **SMALL)
    assert equal.bayes_r2() == pytest.approx(0.5)
    part = synthetic(2, task="regression", information=0.5, redundancy=0.5, synergy=0.2, **SMALL)
    # covariance ((1, 1/2), (1/2, 1)): precision 4/3
    assert part.bayes_r2() == pytest.approx(0.8 * 4 / 7 + 0.2)
    assert part.bayes_r2(["m1"]) == pytest.approx(0.8 * 0.5)
    sure = synthetic(2, task="regression", information=[1.0, 0.0], **SMALL)
    assert (sure.bayes_r2(), sure.bayes_r2(["m2"]), sure.bayes_r2([])) == (1.0, 0.0, 0.0)


@pytest.mark.parametrize("redundancy", [0.0, 0.4, 1.0])
def test_the_best_linear_prediction_reaches_it(redundancy: float) -> None:
    """Least squares on the views read back from the inputs, and on the product of the signs."""
    data = synthetic(
        3, task="regression", information=[0.7, 0.0, 0.4], redundancy=redundancy, synergy=0.3, train=20000,
        validation=10, test=10, speed=[1.0, 0.5, 0.3],
    )  # fmt: skip
    batch, y = data.train.batch(), target(data).astype(np.float64)
    assert y.var() == pytest.approx(1.0, abs=0.03)
    codes = np.stack([
        unmixed(batch.inputs[m].numpy(), data.dials, i)[:, :2] / (3 * data.dials.speed[i])
        for i, m in enumerate(data.modalities)
    ])  # fmt: skip
    assert np.allclose(codes, data.symbols[:20000].transpose(1, 0, 2), atol=1e-4)
    for size in (1, 2, 3):
        for subset in combinations(range(3), size):
            columns = [codes[i, :, 0] for i in subset] + [np.prod([codes[i, :, 1] for i in subset], axis=0)]
            x = np.stack(columns, axis=1)
            error = y - x @ np.linalg.lstsq(x, y, rcond=None)[0]
            names = [list(data.modalities)[i] for i in subset]
            assert 1 - error.var() / y.var() == pytest.approx(data.bayes_r2(names), abs=0.015)


def test_without_synergy_no_feature_shows_a_sign() -> None:
    data = synthetic(2, task="regression", train=400, validation=10, test=10)
    values = unmixed(data.train.batch().inputs["m1"].numpy(), data.dials, 0)
    assert abs(np.corrcoef(values[:, 1], data.symbols[:400, 0, 1])[0, 1]) < 0.15


# ---- labels ----------------------------------------------------------------------------------------------------------


def test_labels_decoded_from_the_inputs_reach_the_best_accuracy() -> None:
    data = synthetic(
        2, task="multilabel", classes=3, information=[0.8, 0.3], redundancy=0.5, synergy=0.25, train=8000,
        validation=10, test=10,
    )  # fmt: skip
    batch, y = data.train.batch(), target(data)
    assert y.shape == (8000, 3)
    codes = [
        (unmixed(batch.inputs[m].numpy(), data.dials, i)[:, :6] / (3 * data.dials.speed[i])).round().reshape(-1, 3, 2)
        for i, m in enumerate(data.modalities)
    ]
    assert np.array_equal(np.stack(codes, 1), data.symbols[:8000])
    for subset in ([0], [1], [0, 1]):
        plain = sum(codes[i][..., 0] for i in subset)
        shares = np.prod([codes[i][..., 1] for i in subset], axis=0) if len(subset) == 2 else 0 * plain
        decided = np.where(plain + shares != 0, plain + shares > 0, 0)
        names = [list(data.modalities)[i] for i in subset]
        assert (decided == y).mean() == pytest.approx(data.bayes_accuracy(names), abs=0.012)
    # three quarters are shown with 0.8 or guessed, a quarter is guessed
    assert data.bayes_accuracy(["m1"]) == pytest.approx(0.8)


# ---- segmentation ----------------------------------------------------------------------------------------------------


def test_objects_and_what_the_modalities_show_of_them() -> None:
    data = synthetic(2, task="segmentation", classes=3, information=[1.0, 0.0], size=12, **SMALL)
    batch, y = data.train.batch(), target(data)
    assert batch.inputs["m1"].shape == (40, 7, 12, 12)
    assert y.shape == (40, 12, 12)
    assert set(np.unique(y)) == {0, 1, 2}
    symbols = data.symbols[:40]
    for number, m in enumerate(data.modalities):
        assert np.array_equal(recover(batch.inputs[m].numpy(), data.dials, number), symbols[:, number])
    assert np.array_equal(np.where(symbols[:, 0] == 3, 0, symbols[:, 0]), y)  # shows all objects; 3 is nothing
    assert (symbols[:, 1] == 3).all()  # shows nothing
    for image in symbols[:, 0]:
        for i, j in ((0, 0), (0, 6), (6, 0), (6, 6)):
            inside = image[i : i + 6, j : j + 6] != 3
            rows, columns = inside.any(1).sum(), inside.any(0).sum()
            assert inside.sum() == rows * columns  # a rectangle
            assert 3 <= rows <= 6
            assert 3 <= columns <= 6


def test_synergy_of_a_segmentation_is_in_the_sum_alone() -> None:
    data = synthetic(2, task="segmentation", classes=2, synergy=1.0, train=200, validation=4, test=4)
    symbols, y = data.symbols[:200], target(data)
    objects = symbols[:, 0] != 2
    shares = symbols - 3
    assert np.array_equal((shares[:, 0] + shares[:, 1])[objects] % 2, y[objects])
    assert not y[~objects].any()
    assert abs(np.corrcoef(shares[:, 0][objects], y[objects])[0, 1]) < 0.1


# ---- settings --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("task", ["classification", "multilabel", "regression", "segmentation"])
@pytest.mark.parametrize("modalities", [2, 3])
def test_named_settings_are_their_dials(task: str, modalities: int) -> None:
    others = modalities - 1
    expected: dict[str, dict[str, Any]] = {
        "noise": {"information": [0.8] + [0.0] * others, "redundancy": 0.0},
        "weak": {"information": [0.8] + [0.3] * others, "redundancy": 0.0},
        "redundant": {"information": 0.7, "redundancy": 1.0},
        "synergy": {"information": 0.4, "redundancy": 0.0, "synergy": 0.5},
    }
    for regime, dials in expected.items():
        options: dict[str, Any] = {"modalities": modalities, "task": task, "missing": "m1=0.2", **SMALL}
        named = load("synthetic", regime=regime, **options)
        assert named.fingerprint == load("synthetic", **dials, **options).fingerprint
        assert named.task.name == task
        assert 0.5 < named.presence["train"]["m1"] < 1


def test_what_is_given_beside_a_setting_counts() -> None:
    data = synthetic(2, regime="synergy", synergy=0.8, **SMALL)
    assert (data.dials.synergy, data.dials.information) == (0.8, (0.4, 0.4))
    assert synthetic(1, regime="noise", **SMALL).bayes_accuracy() == pytest.approx(0.85)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"task": "ranking"}, "`task`: expected one of 'classification', 'multilabel'"),
        ({"regime": "loud"}, "`regime`: expected one of 'noise', 'weak'"),
        ({"task": "segmentation", "size": 7}, "`size`: expected an even number of pixels. Found 7"),
        ({"task": "segmentation", "size": 2}, "`size`: expected a whole number of at least 4"),
        ({"task": "multilabel", "features": 7}, "`features`: expected a whole number of at least 8"),
        ({"task": "regression", "features": 1}, "`features`: expected a whole number of at least 2"),
        ({"modalities": 1, "regime": "synergy"}, "`synergy`: expected 0 with one modality"),
    ],
)
def test_wrong_settings(options: dict[str, Any], match: str) -> None:
    with pytest.raises(DataError, match=match):
        synthetic(**options)


def test_what_has_no_closed_form_is_refused() -> None:
    with pytest.raises(UnsupportedError, match="A regression has bayes_r2"):
        synthetic(task="regression", **SMALL).bayes_accuracy()
    with pytest.raises(UnsupportedError, match="the best result is not known"):
        synthetic(task="segmentation", **SMALL).bayes_accuracies()
    with pytest.raises(UnsupportedError, match="`bayes_r2`: expected a regression. Found a classification"):
        synthetic(**SMALL).bayes_r2()
