"""Datasets that can be prepared, by name."""

from __future__ import annotations

import importlib
from typing import Any

from equimodal.data.prepare._interface import Preparation
from equimodal.errors import unknown_name

# name -> (module of this package, class); imported when asked for
_DATASETS: dict[str, tuple[str, str]] = {
    "brats2021": ("_brats", "BraTS2021"),
    "cmu-mosei": ("_cmu", "Mosei"),
    "cmu-mosi": ("_cmu", "Mosi"),
    "crema-d": ("_cremad", "CremaD"),
    "iemocap": ("_iemocap", "Iemocap"),
    "iemocap-features": ("_iemocap_features", "IemocapFeatures"),
    "kinetics-sounds": ("_kinetics", "KineticsSounds"),
    "food101": ("_food101", "Food101"),
    "mmsd": ("_mmsd", "MMSD"),
    "mvsa-single": ("_mvsa", "MVSASingle"),
    "nvgesture": ("_nvgesture", "NVGesture"),
    "twitter2015": ("_twitter", "Twitter2015"),
    "twitter2017": ("_twitter", "Twitter2017"),
}


def available() -> list[str]:
    """Names of the datasets that :func:`prepare` knows.

    Example:
        >>> "crema-d" in available()
        True
    """
    return sorted(_DATASETS)


def get(name: str) -> type[Preparation[Any]]:
    """The preparation of the dataset ``name``.

    Raises:
        UnknownNameError: no such dataset; the message names near ones.

    Example:
        >>> get("crema-d").facts.title
        'CREMA-D'
    """
    if name not in _DATASETS:
        raise unknown_name("dataset to prepare", name, _DATASETS)
    module, attribute = _DATASETS[name]
    kind: type[Preparation[Any]] = getattr(importlib.import_module(f"{__package__}.datasets.{module}"), attribute)
    return kind
