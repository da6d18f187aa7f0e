from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from equimodal.data import Dataset, from_arrays, load_bundle
from equimodal.data._card import parse_card
from equimodal.data._dataset import build
from equimodal.errors import DataError, UnknownNameError
from tests.data.helpers import arrays, card, save


def dataset(own: dict[str, Any] | None = None, changed: dict[str, Any] | None = None, **options: Any) -> Dataset:
    return build(arrays() | (changed or {}), parse_card(own or card(), "small.yaml"), origin="small.npz", **options)


def test_the_parts_are_the_samples_with_the_values_of_the_card() -> None:
    data = dataset()
    assert data.parts == {"train": 12, "validation": 6, "test": 6}
    assert data.validation.rows.tolist() == [12, 13, 14, 15, 16, 17]
    protocol = data.protocol
    assert (protocol.name, protocol.groups, protocol.disjoint, protocol.verified) == ("people", ("person",), True, True)
    assert protocol.shared == {"person": 0}
    assert protocol.validation == "the samples with `part` in ['validation']"
    assert str(protocol).startswith("people (disjoint in person (verified); validation: the samples")


def test_a_shared_group_is_an_error_that_names_it() -> None:
    person = arrays()["person"].copy()
    person[20] = 1
    with pytest.raises(DataError, match=r"no person in more than one split. Found 1: \[1\].*train and test"):
        dataset(changed={"person": person})


def test_a_declared_overlap_is_reported() -> None:
    person = arrays()["person"].copy()
    person[20] = 1
    data = dataset(card(protocols__people__overlapping=True), {"person": person})
    assert not data.protocol.disjoint
    assert not data.protocol.verified
    assert data.protocol.shared == {"person": 1}
    assert "OVERLAPPING: 1 person in more than one part" in str(data.protocol)


def test_validation_carved_from_training_by_group_is_recorded_and_repeatable() -> None:
    first, second = dataset(protocol="carved"), dataset(protocol="carved")
    assert first.validation.rows.tolist() == second.validation.rows.tolist()
    person = arrays()["person"]
    inside = set(person[first.validation.rows])
    assert len(inside) == 1
    assert not inside & set(person[first.train.rows])
    assert first.protocol.validation == ("4 of 12 training samples, whole values of group 'person' (share 0.3, seed 5)")
    others = {
        tuple(dataset(card(protocols__carved__validation__seed=s), protocol="carved").validation.rows.tolist())
        for s in range(8)
    }
    assert len(others) > 1


def test_validation_carved_by_class_is_stratified() -> None:
    target = np.array([0] * 40 + [1] * 20 + [2] * 10 + [0, 1, 2])
    data = from_arrays(
        {"x": np.random.default_rng(0).normal(size=(73, 2))},
        target,
        ["train"] * 70 + ["test"] * 3,
        validation={"carve": 0.2, "seed": 1, "by": "class"},
    )
    assert data.validation.class_counts == {"0": 8, "1": 4, "2": 2}
    assert data.train.class_counts == {"0": 32, "1": 16, "2": 8}
    assert "14 of 70 training samples, stratified by class (share 0.2, seed 1)" in data.protocol.validation


def test_a_carving_that_takes_nothing_is_refused() -> None:
    own = card(protocols__carved__validation={"carve": 0.01, "by": "class"}, protocols__carved__groups=None)
    with pytest.raises(DataError, match="samples on both sides"):
        dataset(own, protocol="carved")


def test_an_empty_part_is_refused_with_what_the_array_holds() -> None:
    with pytest.raises(DataError, match=r"split 'test' of protocol 'people'.*\['tset'\].*'test', 'train'"):
        dataset(card(protocols__people__test="tset"))


def test_unused_samples_are_counted() -> None:
    data = dataset(card(protocols__people__test=None))
    assert data.protocol.unused == 6
    assert "test" not in data.parts
    with pytest.raises(DataError, match="has no test split"):
        _ = data.test


def test_an_unknown_protocol_is_suggested() -> None:
    with pytest.raises(UnknownNameError, match="Did you mean 'people'"):
        dataset(protocol="poeple")


def test_a_class_absent_from_training_is_named() -> None:
    y = arrays()["y"].copy()
    y[:12][y[:12] == 2] = 0
    with pytest.raises(DataError, match=r"no training sample of 1 class\(es\): \['c'\] although validation and test"):
        dataset(changed={"y": y})


def test_a_class_absent_everywhere_is_named(tmp_path: Any) -> None:
    path = save(tmp_path)
    with pytest.raises(DataError, match=r"no training sample of 1 class\(es\): \['d'\]\."):
        load_bundle(path, card(targets__y__classes=["a", "b", "c", "d"]))
