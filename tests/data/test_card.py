from __future__ import annotations

from typing import Any

import pytest

from equimodal.data import load_card, shipped_cards
from equimodal.data._card import parse_card
from equimodal.errors import DataError, UnknownNameError
from tests.data.helpers import card


def test_a_full_card_is_read() -> None:
    own = parse_card(card(), "small.yaml")
    assert (own.name, own.licence, own.target, own.protocol) == ("small", "CC0", "y", "people")
    assert own.modalities["walk"].column.array == "walk"
    assert own.modalities["walk"].shape == (5, 12)
    assert own.modalities["face"].column.index == "pair_face"
    assert own.targets["y"].classes == ("a", "b", "c")
    assert own.present["face"][1] == 1
    assert own.protocols["people"].values == {"train": ("train",), "validation": ("validation",), "test": ("test",)}
    carve = own.protocols["carved"].carve
    assert carve is not None
    assert (carve.fraction, carve.seed, carve.by) == (0.3, 5, "person")


SCHEMA_ERRORS: list[tuple[dict[str, Any], str, str]] = [
    ({"name": None}, "field `name`", "required"),
    ({"modalities": None}, "field `modalities`", "required"),
    ({"targets": None}, "field `targets`", "required"),
    ({"protocols": None}, "field `protocols`", "required"),
    ({"modalities": {}}, "field `modalities`", "at least one entry"),
    ({"modalities": ["walk"]}, "field `modalities`", "Found list"),
    ({"modalties": {}}, "field `modalties`", "Did you mean 'modalities'?"),
    ({"format": 2}, "field `format`", "expected 1"),
    ({"name": True}, "field `name`", "expected a text"),
    ({"modalities__walk__kind": "sequenze"}, "field `modalities.walk.kind`", "Did you mean 'sequence'?"),
    ({"modalities__walk__kind": None}, "field `modalities.walk.kind`", "required"),
    ({"modalities__walk__array": None}, "field `modalities.walk.array`", "required"),
    ({"modalities__walk__unit": "m"}, "field `modalities.walk.unit`", "Did you mean 'units'?"),
    ({"modalities__walk__standardise": "per-pixel"}, "field `modalities.walk.standardise`", "per-channel"),
    ({"modalities__walk__default": "yes"}, "field `modalities.walk.default`", "true or false"),
    ({"modalities__walk__shape": "5x12"}, "field `modalities.walk.shape`", "expected a list"),
    ({"modalities__walk__shape": [5, 12.0]}, "field `modalities.walk.shape[1]`", "whole number"),
    ({"modalities__wal k": {}}, "field `modalities`", "'wal k'"),
    ({"modalities__walk__transforms": [{"sqroot": True}]}, "field `modalities.walk.transforms[0].sqroot`", "'sqrt'"),
    ({"modalities__walk__transforms": ["log2"]}, "field `modalities.walk.transforms[0]`", "log"),
    ({"modalities__walk__transforms": [{"scale": "2x"}]}, "transforms[0].scale`", "finite number"),
    ({"modalities__walk__transforms": [{"scale": float("nan")}]}, "transforms[0].scale`", "finite number"),
    ({"modalities__walk__transforms": [{"scale": 1, "offset": 2}]}, "transforms[0]`", "exactly one operation"),
    ({"modalities__walk__transforms": [{"sqrt": 3}]}, "transforms[0].sqrt`", "no value"),
    ({"modalities__walk__transforms": [{"clip": [3, 1]}]}, "transforms[0].clip`", "[lowest, highest]"),
    ({"modalities__walk__transforms": [{"cast": "float64"}]}, "transforms[0].cast`", "float32"),
    ({"modalities__walk__transforms": [{"cast": "int64"}]}, "transforms[0].cast`", "the type of this kind"),
    ({"modalities__walk__transforms": [{"centre_on": {"axis": 1}}]}, "centre_on.index`", "required"),
    ({"targets__y__task": "ranking"}, "field `targets.y.task`", "classification"),
    ({"targets__y__classes": None}, "field `targets.y.classes`", "at least two classes"),
    ({"targets__y__classes": ["a", "a", "b"]}, "field `targets.y.classes`", "differ"),
    ({"targets__y__classes": ["a", False]}, "field `targets.y.classes[1]`", "Put it in quotes."),
    ({"target": "z"}, "field `target`", "expected one of ['y', 'score']"),
    ({"protocol": "peple"}, "field `protocol`", "Did you mean 'people'?"),
    ({"present": {"wolk": "has"}}, "field `present.wolk`", "Did you mean 'walk'?"),
    ({"present__columns": ["walk", "voice"]}, "field `present.columns[1]`", "walk"),
    ({"protocols__people__train": None}, "field `protocols.people.train`", "required"),
    ({"protocols__people__train": []}, "field `protocols.people.train`", "at least one value"),
    ({"protocols__people__train": [1.5]}, "field `protocols.people.train[0]`", "whole number"),
    ({"protocols__people__validation": None}, "field `protocols.people.validation`", "carve: 0.2"),
    ({"protocols__people__test": "train"}, "field `protocols.people.test`", "also in `train`"),
    ({"protocols__people__groups": ["persons"]}, "field `protocols.people.groups[0]`", "Did you mean 'person'?"),
    ({"protocols__people__modalities": ["voice"]}, "field `protocols.people.modalities[0]`", "walk"),
    ({"protocols__carved__validation": {"carve": 1.0}}, "validation.carve`", "between 0 and 1"),
    ({"protocols__carved__validation": {"carve": 0.2, "by": "team"}}, "validation.by`", "person"),
    ({"protocols__carved__validation": {"carve": 0.2, "seed": "a"}}, "validation.seed`", "whole number"),
]


@pytest.mark.parametrize(("changes", "where", "what"), SCHEMA_ERRORS, ids=[str(i) for i in range(len(SCHEMA_ERRORS))])
def test_a_schema_error_names_file_and_field(changes: dict[str, Any], where: str, what: str) -> None:
    with pytest.raises(DataError) as caught:
        parse_card(card(**changes), "small.yaml")
    message = str(caught.value)
    assert message.startswith("small.yaml: ")
    assert where in message
    assert what in message
    assert "expected" in message
    assert "Found" in message


def test_a_card_that_is_no_mapping() -> None:
    with pytest.raises(DataError, match=r"small.yaml: the card: expected a mapping"):
        parse_card(["a"], "small.yaml")


def test_tokens_are_not_standardised() -> None:
    own = card(modalities__walk={"array": "walk", "kind": "tokens", "standardise": "global"})
    with pytest.raises(DataError, match="'none' for tokens"):
        parse_card(own, "small.yaml")


def test_every_shipped_card_is_valid_and_says_where_it_is_from() -> None:
    pytest.importorskip("yaml")
    for name in shipped_cards():
        own = load_card(name)
        assert own.licence, name
        assert own.source, name
        assert own.citation, name
        assert all(p.description for p in own.protocols.values()), name


def test_an_unknown_card_is_suggested() -> None:
    with pytest.raises(UnknownNameError, match="Did you mean 'ravdess'"):
        load_card("ravdes")
    with pytest.raises(DataError, match="no such file"):
        load_card("nowhere/card.yaml")
