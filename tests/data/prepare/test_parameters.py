"""Parameters are of the type that they are declared with, and not too small."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pytest

from equimodal.data import prepare
from equimodal.data.prepare.datasets._parameters import check_parameters
from equimodal.errors import DataError

Way = Literal["none", "face"]


@dataclass(frozen=True)
class Parameters:
    count: int = 3
    rate: float = 1.0
    way: Way = "none"
    flag: bool = False
    place: str = ""
    names: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        check_parameters(self, count=1, rate=0)


@dataclass(frozen=True)
class Longer(Parameters):
    offset: int = 0
    share: float = 0.5
    other: Literal[2, 3] = 2


@pytest.mark.parametrize(
    "values",
    [
        {"count": 1, "rate": 1e-9, "way": "face", "flag": True},
        {"rate": 2, "offset": -5, "share": -1.0, "other": 3},
        {"place": Path("lists"), "names": ("a",)},  # a path is taken where a text is declared
    ],
)
def test_what_fits(values: dict[str, Any]) -> None:
    Longer(**values)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"count": 0}, "`count`: expected a whole number of at least 1. Found 0."),
        ({"count": 2.0}, "`count`: expected a whole number of at least 1. Found 2.0."),
        ({"count": True}, "`count`: expected a whole number of at least 1. Found True."),
        ({"count": "3"}, "`count`: expected a whole number of at least 1. Found '3'."),
        ({"offset": 0.5}, "`offset`: expected a whole number. Found 0.5."),
        ({"rate": 0}, "`rate`: expected a number above 0. Found 0."),
        ({"rate": float("nan")}, "`rate`: expected a number above 0. Found nan."),
        ({"rate": float("inf")}, "`rate`: expected a number above 0. Found inf."),
        ({"rate": "1"}, "`rate`: expected a number above 0. Found '1'."),
        ({"rate": True}, "`rate`: expected a number above 0. Found True."),
        ({"share": None}, "`share`: expected a number. Found None."),
        ({"way": "both"}, "`way`: expected one of ['none', 'face']. Found 'both'."),
        ({"way": ["face"]}, "`way`: expected one of ['none', 'face']. Found ['face']."),
        ({"other": 4}, "`other`: expected one of [2, 3]. Found 4."),
        ({"flag": 1}, "`flag`: expected true or false. Found 1."),
        ({"flag": 1, "count": 0}, "`count`: expected a whole number of at least 1. Found 0."),
    ],
)
def test_what_does_not(values: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError) as caught:
        Longer(**values)
    assert str(caught.value) == message


@pytest.mark.parametrize("name", prepare.available())
def test_no_dataset_takes_numbers_of_another_type(name: str) -> None:
    """Neither a text in place of a number, nor zero or less where something is counted."""
    kind = prepare.get(name).Parameters
    numbers = [field.name for field in dataclasses.fields(kind) if type(field.default) in (int, float)]
    for field in numbers:
        for value in ("2", None):
            with pytest.raises(DataError, match=f"`{field}`: expected"):
                kind(**{field: value})
