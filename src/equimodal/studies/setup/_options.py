"""The options of a method, as its constructor declares them."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from equimodal.engine import Sharpness
from equimodal.methods import get

_SHARED = {"model", "task", "self"}


def method_options(name: str) -> dict[str, inspect.Parameter]:
    """The hyperparameters of a method, as its constructor declares them."""
    signature = inspect.signature(get(name).__init__)
    return {n: p for n, p in signature.parameters.items() if n not in _SHARED}


def companion_options(name: str) -> list[str]:
    """The options of a method that take :class:`~equimodal.methods.parts.Companions`, and so finished runs."""
    return [n for n, p in method_options(name).items() if "Companions" in str(p.annotation)]


def resolved_options(name: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """``options`` with the constructor's defaults for all others; modules and sharpness that are off are left out.

    Example:
        >>> resolved_options("PretrainFinetune", {"pretrain": 0.25})["inference"]
        'fused'
    """
    known = method_options(name)
    given = {n: p.default for n, p in known.items() if p.default is not p.empty} | dict(options)
    sharpness = given.get("sharpness")
    if isinstance(sharpness, Mapping):
        parts = inspect.signature(Sharpness).parameters
        given["sharpness"] = {n: p.default for n, p in parts.items()} | dict(sharpness)
    return {n: v for n, v in given.items() if v is not None or n in options or not _is_object(known[n])}


def _is_object(option: inspect.Parameter) -> bool:
    return any(kind in str(option.annotation) for kind in ("Module", "Sharpness", "Companions"))
