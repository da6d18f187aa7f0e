from __future__ import annotations

from itertools import combinations, product
from typing import Any

import numpy as np
import pytest

from equimodal.data import SyntheticDataset, synthetic
from equimodal.data._synthetic_model import embed, recover
from equimodal.errors import DataError, UnknownNameError

CASES: list[dict[str, Any]] = [
    {"modalities": 2, "classes": 3, "information": [0.8, 0.4], "redundancy": 0.0},
    {"modalities": 2, "classes": 3, "information": [0.8, 0.4], "redundancy": 1.0},
    {"modalities": 2, "classes": 2, "information": 0.5, "redundancy": 0.5, "synergy": 0.3},
    {"modalities": 3, "classes": 3, "information": [0.9, 0.5, 0.2], "redundancy": 0.4, "synergy": 0.25},
    {"modalities": 2, "classes": 2, "information": 0.0, "redundancy": 0.0, "synergy": 1.0},
    {"modalities": 1, "classes": 5, "information": 0.35},
]


def joint(options: dict[str, Any]) -> dict[tuple[int, tuple[int, ...]], float]:
    """p(class, symbols) by enumeration of everything random, written independently of the closed form."""
    classes, count = options["classes"], options["modalities"]
    information = np.broadcast_to(options["information"], count)
    redundancy, synergy = options.get("redundancy", 0.3), options.get("synergy", 0.0)
    table: dict[tuple[int, tuple[int, ...]], float] = {}

    def add(label: int, symbols: tuple[int, ...], probability: float) -> None:
        table[label, symbols] = table.get((label, symbols), 0.0) + probability / classes

    for label in range(classes):
        for shown in product([True, False], repeat=count):
            symbols = tuple(label if s else classes for s in shown)
            apart = np.prod([a if s else 1 - a for a, s in zip(information, shown, strict=True)])
            high = min([a for a, s in zip(information, shown, strict=True) if s], default=1.0)
            low = max([a for a, s in zip(information, shown, strict=True) if not s], default=0.0)
            together = max(high - low, 0.0)  # one uniform number below all of the shown, above all of the hidden
            add(label, symbols, (1 - synergy) * ((1 - redundancy) * apart + redundancy * together))
        for shares in product(range(classes), repeat=count):
            if sum(shares) % classes == label:
                add(label, tuple(classes + 1 + s for s in shares), synergy / classes ** (count - 1))
    return table


@pytest.mark.parametrize("options", CASES)
def test_the_closed_form_equals_enumeration(options: dict[str, Any]) -> None:
    data = synthetic(**options, train=20, validation=10, test=10)
    table = joint(options)
    assert sum(table.values()) == pytest.approx(1.0)
    names = list(data.modalities)
    for size in range(len(names) + 1):
        for subset in combinations(range(len(names)), size):
            seen: dict[tuple[int, ...], np.ndarray[Any, Any]] = {}
            for (label, symbols), probability in table.items():
                key = tuple(symbols[i] for i in subset)
                seen.setdefault(key, np.zeros(options["classes"]))[label] += probability
            expected = sum(float(p.max()) for p in seen.values())
            assert data.bayes_accuracy([names[i] for i in subset]) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("options", CASES)
def test_the_best_decoder_of_the_inputs_reaches_it(options: dict[str, Any]) -> None:
    """Symbols are read back from the inputs alone; the decision is the most probable class under the true model."""
    data = synthetic(**options, train=12000, validation=10, test=10, speed=0.4, seed=4)
    table = joint(options)
    classes = options["classes"]
    names = list(data.modalities)
    batch = data.train.batch()
    assert batch.target is not None
    read = {n: recover(batch.inputs[n].numpy(), data.dials, i) for i, n in enumerate(names)}
    labels = batch.target.numpy()
    for subset in [c for size in range(1, len(names) + 1) for c in combinations(names, size)]:
        posterior: dict[tuple[int, ...], np.ndarray[Any, Any]] = {}
        for (label, symbols), probability in table.items():
            key = tuple(symbols[names.index(n)] for n in subset)
            posterior.setdefault(key, np.zeros(classes))[label] += probability
        decided = [int(posterior[key].argmax()) for key in zip(*(read[n].tolist() for n in subset), strict=True)]
        expected = data.bayes_accuracy(subset)
        error = (expected * (1 - expected) / len(labels)) ** 0.5
        assert float(np.mean(np.array(decided) == labels)) == pytest.approx(expected, abs=4 * error + 1e-9)


@pytest.mark.parametrize("speed", [1.0, 0.6, 0.3, 0.001])
def test_the_map_loses_nothing_at_any_speed(speed: float) -> None:
    data = synthetic(1, speed=speed, train=500, validation=10, test=10)
    x = data.train.batch().inputs["m1"].numpy()
    assert np.array_equal(recover(x, data.dials, 0), data.symbols[:500, 0])
    assert x.dtype == np.float32
    assert np.array_equal(x, embed(data.symbols[:, 0], data.dials, 0)[:500])


def test_hand_computed_numbers() -> None:
    data = synthetic(["a", "b"], classes=4, information=[0.6, 0.5], redundancy=0.25, synergy=0.2, train=40)
    # 0.8 (0.6 + 0.4 / 4) + 0.2 / 4, and the same with 0.5
    assert data.bayes_accuracy(["a"]) == pytest.approx(0.61)
    assert data.bayes_accuracy(["b"]) == pytest.approx(0.55)
    # nobody shows the class with probability 0.25 * 0.4 + 0.75 * 0.4 * 0.5, a quarter
    assert data.bayes_accuracy() == pytest.approx(0.8 * (1 - 0.75 * 0.25) + 0.2)
    assert data.bayes_accuracy([]) == pytest.approx(0.25)
    assert set(data.bayes_accuracies()) == {("a",), ("b",), ("a", "b")}
    with pytest.raises(UnknownNameError):
        data.bayes_accuracy(["c"])


def fit(data: SyntheticDataset, name: str) -> float:
    """Training accuracy of a linear model after a few steps of plain gradient descent."""
    batch = data.train.batch()
    assert batch.target is not None
    x = batch.inputs[name].double().numpy()
    y = np.eye(4)[batch.target.numpy()]
    weight = np.zeros((x.shape[1], 4))
    for _ in range(15):
        p = np.exp(x @ weight)
        weight -= 0.05 * x.T @ (p / p.sum(1, keepdims=True) - y) / len(x)
    return float(((x @ weight).argmax(1) == batch.target.numpy()).mean())


def test_the_dial_of_speed_orders_what_is_learnt_first() -> None:
    scores = [
        fit(synthetic(1, information=0.9, speed=speed, train=1500, validation=10, test=10), "m1")
        for speed in (1.0, 0.5, 0.2)
    ]
    assert scores[0] > scores[1] + 0.05 > scores[2] + 0.1


def test_it_is_drawn_from_the_seed_alone() -> None:
    first, second, other = (synthetic(3, seed=s, train=50) for s in (1, 1, 2))
    assert first.fingerprint == second.fingerprint != other.fingerprint
    assert list(first.modalities) == ["m1", "m2", "m3"]
    assert first.parts == {"train": 50, "validation": 500, "test": 1000}
    assert max(first.train.class_counts.values()) - min(first.train.class_counts.values()) <= 1
    assert first.options["information"] == (0.7, 0.7, 0.7)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"modalities": 0}, "`modalities`"),
        ({"modalities": ["a", "a"]}, "`modalities`"),
        ({"modalities": "ab"}, "`modalities`"),
        ({"classes": 1}, "`classes`: expected a whole number of at least 2"),
        ({"features": 8}, "`features`: expected a whole number of at least 9"),
        ({"information": 1.2}, "`information`: expected a number from 0 to 1. Found 1.2"),
        ({"information": [0.1]}, "`information`: expected 2 values"),
        ({"information": {"m1": 0.1}}, "`information`: expected a value for each"),
        ({"speed": 0.0}, "`speed`"),
        ({"redundancy": -0.1}, "`redundancy`"),
        ({"modalities": 1, "synergy": 0.1}, "`synergy`: expected 0 with one modality"),
        ({"train": 0}, "`train`"),
        ({"train": 3}, "no training sample of 1 class"),
    ],
)
def test_wrong_dials(options: dict[str, Any], match: str) -> None:
    with pytest.raises(DataError, match=match):
        synthetic(**options)
