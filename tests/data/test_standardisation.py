"""The statistics by which samples were standardised, as users may read them."""

from __future__ import annotations

import numpy as np
import pytest

from equimodal.data import from_arrays
from equimodal.errors import UnknownNameError


def test_standardisation_is_what_was_done() -> None:
    g = np.random.default_rng(0)
    raw = {"a": g.normal(3.0, 2.0, (30, 4)).astype(np.float32), "b": g.normal(0.0, 1.0, (30, 2)).astype(np.float32)}
    split = np.repeat(["train", "validation", "test"], 10)
    data = from_arrays(raw, np.arange(30) % 2, split, standardise={"a": "per-feature", "b": "none"})
    mean, scale = data.standardisation("a")
    assert np.allclose(mean, raw["a"][:10].mean(0), atol=1e-5)
    assert np.allclose(scale, 1 / raw["a"][:10].std(0), rtol=1e-4)
    assert np.allclose(data.test.batch().inputs["a"].numpy(), (raw["a"][20:] - mean) * scale, atol=1e-5)
    mean += 100  # a copy: the dataset stays as it is
    assert np.allclose(data.standardisation("a")[0], raw["a"][:10].mean(0), atol=1e-5)
    assert [v.tolist() for v in data.standardisation("b")] == [[0], [1]]
    with pytest.raises(UnknownNameError, match="modality of"):
        data.standardisation("c")
