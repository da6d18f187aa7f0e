"""The formulas that other tests compare with are SciPy's."""

from __future__ import annotations

import numpy as np
import pytest

from tests import formulas

X = np.random.default_rng(0).normal(0, 4, (5, 3))


def test_they_are_those_of_scipy() -> None:
    special = pytest.importorskip("scipy.special")
    p = special.softmax(X, axis=1)
    for axis in (0, 1):
        assert np.abs(formulas.softmax(X, axis) - special.softmax(X, axis=axis)).max() < 1e-15
        assert np.abs(formulas.log_softmax(X, axis) - special.log_softmax(X, axis=axis)).max() < 1e-14
    assert np.abs(formulas.expit(X) - special.expit(X)).max() < 1e-15
    assert np.abs(formulas.logit(p) - special.logit(p)).max() < 1e-13
    with_zero = np.append(p.ravel(), 0.0)
    assert np.abs(formulas.entr(with_zero) - special.entr(with_zero)).max() < 1e-15
    assert np.abs(formulas.entropy(p, 1) - special.entr(p).sum(1)).max() < 1e-15


def test_they_do_not_overflow() -> None:
    large = np.array([[1000.0, 0.0], [-1000.0, 0.0]])
    assert np.array_equal(formulas.softmax(large, 1), [[1.0, 0.0], [0.0, 1.0]])
    assert np.array_equal(formulas.expit(large[:, 0]), [1.0, 0.0])
