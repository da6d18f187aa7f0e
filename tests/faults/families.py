"""Families of hostile inputs: how many are generated, and from which seeds."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import numpy as np

from equimodal.errors import EquimodalError

T = TypeVar("T")

TIMES = int(os.environ.get("EQUIMODAL_FAULTS", "1"))
"""How many times as many inputs as usual: `make test-faults` sets 20."""


def many(count: int, seed: int = 0) -> Iterator[np.random.Generator]:
    """A generator of random numbers for each input of a family."""
    for number in range(count * TIMES):
        yield np.random.default_rng([seed, number])


def attempt(build: Callable[..., T], *arguments: Any, **options: Any) -> tuple[T | None, str]:
    """What ``build`` makes, or the message with which it is refused; anything else than a refusal passes through."""
    try:
        return build(*arguments, **options), ""
    except EquimodalError as error:
        return None, str(error)
