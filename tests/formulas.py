"""Textbook formulas in NumPy, float64, for tests to compare with: they need no package beyond it."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]


def log_softmax(x: npt.ArrayLike, axis: int) -> Array:
    """x - log(sum(exp(x))) along an axis."""
    z = np.asarray(x, np.float64)
    z = z - z.max(axis=axis, keepdims=True)
    result: Array = z - np.log(np.exp(z).sum(axis=axis, keepdims=True))
    return result


def softmax(x: npt.ArrayLike, axis: int = -1) -> Array:
    """exp(x) / sum(exp(x)) along an axis."""
    result: Array = np.exp(log_softmax(x, axis))
    return result


def expit(x: npt.ArrayLike) -> Array:
    """1 / (1 + exp(-x))."""
    result: Array = np.exp(-np.logaddexp(0, -np.asarray(x, np.float64)))
    return result


def logit(p: npt.ArrayLike) -> Array:
    """log(p / (1 - p))."""
    p = np.asarray(p, np.float64)
    result: Array = np.log(p) - np.log1p(-p)
    return result


def entr(p: npt.ArrayLike) -> Array:
    """-p log p, and 0 at 0."""
    p = np.asarray(p, np.float64)
    result: Array = -p * np.log(np.where(p > 0, p, 1))
    return result


def entropy(p: npt.ArrayLike, axis: int) -> Any:
    """Entropy in nats along an axis."""
    return entr(p).sum(axis=axis)
