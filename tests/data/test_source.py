from __future__ import annotations

import pickle
from typing import Any

import numpy as np
import pytest
import torch

from equimodal.data import Dataset, from_arrays, load_bundle, loader
from equimodal.data import _source as source_module
from equimodal.data._card import parse_card
from equimodal.data._dataset import build
from equimodal.errors import DataError, NonFiniteError
from tests.data.helpers import arrays, card, save


def dataset(changed: dict[str, Any] | None = None, own: dict[str, Any] | None = None) -> Dataset:
    return build(arrays() | (changed or {}), parse_card(own or card(), "small.yaml"), origin="small.npz")


def test_standardisation_by_train_statistics_of_present_samples_against_numpy() -> None:
    raw, data = arrays(), dataset()
    walk = raw["walk"].astype(np.float64)
    walk = (walk - walk[:, :, 2:3]).reshape(24, 5, 12)
    mean, std = walk[:12].mean((0, 1)), walk[:12].std((0, 1))
    std[std == 0] = 1  # the joint that everything is centred on
    np.testing.assert_allclose(data.test.batch().inputs["walk"], (walk[18:] - mean) / std, atol=2e-5)

    face = raw["face"].astype(np.float64)[raw["pair_face"]]
    used = face[:12][raw["has"][:12, 1] == 1]  # as often as the pairs of the training split use it
    expected = (face - used.mean((0, 2, 3), keepdims=True)) / used.std((0, 2, 3), keepdims=True)
    np.testing.assert_allclose(data.validation.batch().inputs["face"], expected[12:18], atol=2e-5)


@pytest.mark.parametrize(
    ("mode", "axes"), [("global", (0, 1, 2, 3)), ("per-channel", (0, 2, 3)), ("per-feature", (0, 1, 2))]
)
def test_modes_of_standardisation(mode: str, axes: tuple[int, ...]) -> None:
    x = np.random.default_rng(1).normal(5, [[[1.0]], [[9.0]]], (30, 2, 3, 4)).astype(np.float32)
    data = from_arrays({"x": x}, np.arange(30) % 2, [0] * 20 + [1] * 5 + [2] * 5, standardise={"x": mode})
    wide = x.astype(np.float64)
    expected = (wide - wide[:20].mean(axes, keepdims=True)) / wide[:20].std(axes, keepdims=True)
    np.testing.assert_allclose(data.train.batch().inputs["x"], expected[:20], atol=1e-5)
    np.testing.assert_allclose(data.test.batch().inputs["x"], expected[25:], atol=1e-5)


def test_statistics_do_not_depend_on_other_splits() -> None:
    first = dataset().train.batch().inputs["walk"]
    walk = arrays()["walk"].copy()
    walk[12:] = 1000
    assert torch.equal(dataset({"walk": walk}).train.batch().inputs["walk"], first)


def test_statistics_are_exact_far_from_zero_and_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    x = (4096 + np.random.default_rng(2).normal(0, 1, (50, 3))).astype(np.float32)
    monkeypatch.setattr(source_module, "_CHUNK", 12)  # four samples per piece
    data = from_arrays({"x": x}, np.arange(50) % 2, [0] * 40 + [1] * 5 + [2] * 5)
    out = data.train.batch().inputs["x"].double()
    assert out.mean(0).abs().max() < 1e-3
    assert (out.std(0, unbiased=False) - 1).abs().max() < 1e-3


def test_a_constant_feature_becomes_zero() -> None:
    x = np.random.default_rng(3).normal(size=(12, 3)).astype(np.float32)
    x[:, 1] = 0.1
    data = from_arrays({"x": x}, [0, 1] * 6, [0] * 4 + [1] * 4 + [2] * 4)
    assert torch.isfinite(data.test.batch().inputs["x"]).all()
    assert data.test.batch().inputs["x"][:, 1].abs().max() < 1e-6


def nan_where_absent() -> dict[str, Any]:
    """Rows without a face point to a picture of their own, whose content is NaN."""
    raw = arrays()
    face = np.concatenate([raw["face"].astype(np.float32), np.full((1, 2, 6, 6), np.nan, np.float32)])
    return {"face": face, "pair_face": np.where(raw["has"][:, 1] == 1, raw["pair_face"], 8)}


def test_absent_content_influences_nothing() -> None:
    plain, other = dataset(), dataset(nan_where_absent())
    for part in ("train", "validation", "test"):
        first, second = getattr(plain, part), getattr(other, part)
        mask = first.present["face"]
        assert torch.equal(mask, second.present["face"])
        assert torch.equal(first.batch().inputs["face"][mask], second.batch().inputs["face"][mask])
        assert second.batch().inputs["face"][~mask].isnan().all()
    seen = list(loader(other.train, 4))  # no complaint about the NaN either
    assert sum(len(b) for b in seen) == 12


def test_nan_in_a_present_training_sample_is_found_with_its_index() -> None:
    walk = arrays()["walk"].astype(np.float32)
    walk[7, 0, 0, 0] = np.nan
    with pytest.raises(NonFiniteError, match=r"modality 'walk'.*training split.*indices \[7\]"):
        dataset({"walk": walk})


def test_a_transform_that_makes_nan_is_found() -> None:
    own = card(modalities__walk__transforms=["log", "flatten"], modalities__walk__shape=None)
    own["modalities"]["walk"]["kind"] = "vector"
    with pytest.raises(NonFiniteError, match="after `transforms`"):
        dataset(own=own)


def test_a_modality_that_no_training_sample_has() -> None:
    has = arrays()["has"].copy()
    has[:12, 1] = 0
    with pytest.raises(DataError, match=r"modality 'face': expected training samples that have it"):
        dataset({"has": has})


def test_a_mapped_folder_gives_the_same_samples_as_an_npz(tmp_path: Any) -> None:
    own = card()
    first = load_bundle(save(tmp_path), own)
    second = load_bundle(save(tmp_path, name="folder"), own)
    assert isinstance(second._arrays["walk"], np.memmap)
    assert second._store.sources["walk"]._ready is None  # nothing is kept in memory
    for part in ("train", "validation", "test"):
        a, b = getattr(first, part).batch([3, 0, 5]), getattr(second, part).batch([3, 0, 5])
        for name in a.inputs:
            torch.testing.assert_close(a.inputs[name], b.inputs[name], atol=1e-6, rtol=1e-6)
    assert first.fingerprint == second.fingerprint
    sent = pickle.dumps(second.test)  # as to a worker process
    again = pickle.loads(sent)
    assert torch.equal(again.batch().inputs["walk"], second.test.batch().inputs["walk"])
    assert isinstance(again._store.sources["walk"]._raw, np.memmap)
    scores = load_bundle(tmp_path / "folder", own, target="score").train.target
    assert torch.equal(scores, load_bundle(tmp_path / "small.npz", own, target="score").train.target)


def test_large_arrays_are_prepared_when_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = dataset().train.batch()
    monkeypatch.setattr(source_module, "_IN_MEMORY", 10)
    data = dataset()
    assert data._store.sources["walk"]._ready is None
    torch.testing.assert_close(data.train.batch().inputs["walk"], whole.inputs["walk"], atol=1e-6, rtol=1e-6)


def test_the_caller_keeps_their_arrays() -> None:
    x = np.random.default_rng(0).normal(3, 1, (6, 2)).astype(np.float32)
    before = x.copy()
    data = from_arrays({"x": x}, [0, 1] * 3, [0, 0, 1, 1, 2, 2])
    data.train.batch().inputs["x"].zero_()
    assert np.array_equal(x, before)
    assert not torch.equal(data.train.batch().inputs["x"], torch.zeros(2, 2))
