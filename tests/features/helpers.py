"""Shared by the proofs of the engine features: the settings, what is claimed of each, small models."""

from __future__ import annotations

import pytest

from equimodal import Batch
from equimodal.methods import Method
from equimodal.testing import OPTIMIZERS, SIZES, Watched, single, tensors
from equimodal.testing import spoilt as nan_batch
from equimodal.testing._compiled import TWO as TWO
from tests.helpers import CLASSES, METHOD_SETTINGS, Setting, case_of, plain_batch, setting_id

__all__ = [
    "OPTIMIZERS", "SETTINGS", "SIZES", "Setting", "Watched", "data", "departure", "every_setting", "nan_batch",
    "plain_method", "single", "tensors",
]  # fmt: skip

SETTINGS: list[Setting] = METHOD_SETTINGS
"""Every method of the library at its defaults, and the options that the tests of the registry add."""

every_setting = pytest.mark.parametrize("setting", SETTINGS, ids=setting_id)


def departure(setting: Setting, feature: str) -> str | None:
    """``"refused"``, ``"differs"``, or ``None`` where the claim of the feature holds as it stands."""
    return case_of(setting).departure(feature)


def plain_method(setting: Setting, seed: int = 0, norm: bool = False, sizes: dict[str, int] = SIZES) -> Method:
    """The method on MLP encoders (which compile), with batch normalisation if asked for, in float64."""
    return case_of(setting).plain(seed, norm, sizes)


def data(size: int = 12, seed: int = 0, sizes: dict[str, int] = SIZES) -> Batch:
    """Random vectors and labels for :func:`plain_method`."""
    return plain_batch(sizes, CLASSES, size, seed)
