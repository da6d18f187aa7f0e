"""The seven real datasets, found through the environment variable EQUIMODAL_DATA (fixture ``real_data``)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from equimodal.data import Dataset, load, loader

pytest.importorskip("yaml")

EXPECTED: dict[str, dict[str, Any]] = {
    "avdigits": {
        "shapes": {"image": (1, 28, 28), "audio": (1, 40, 64)},
        "parts": (5900, 1000, 2000),
        "classes": 10,
        "groups": ("speaker", "image"),
    },
    "ravdess": {
        "shapes": {"audio": (1, 48, 128), "visual": (35,)},
        "parts": (900, 240, 300),
        "classes": 8,
        "groups": ("actor",),
    },
    "utdmhad": {
        "shapes": {"skeleton": (48, 60), "inertial": (128, 6), "depth": (3, 48, 48)},
        "parts": (323, 108, 430),
        "classes": 27,
        "groups": ("subject",),
    },
    "mosi": {
        "shapes": {"text": (100,), "audio": (73,), "video": (100,)},
        "parts": (1444, 197, 554),
        "classes": 2,
        "groups": ("video",),
    },
    "mfeat": {
        "shapes": {"pix": (240,), "fou": (76,), "fac": (216,), "zer": (47,), "kar": (64,), "mor": (6,)},
        "parts": (1280, 320, 400),
        "classes": 10,
        "groups": (),
    },
    "wikidoc": {
        "shapes": {"image": (128,), "text": (10,)},
        "parts": (1738, 435, 693),
        "classes": 10,
        "groups": (),
    },
    "lggmri": {
        "shapes": {"t1": (1, 64, 64), "flair": (1, 64, 64), "t1gd": (1, 64, 64)},
        "parts": (1257, 287, 443),
        "classes": 0,
        "groups": ("patient",),
    },
}


@pytest.mark.parametrize("name", EXPECTED)
def test_each_set_is_what_its_card_says(real_data: Path, name: str) -> None:
    data, expected = load(real_data / f"{name}.npz"), EXPECTED[name]
    assert {n: m.shape for n, m in data.modalities.items()} == expected["shapes"]
    assert tuple(data.parts.values()) == expected["parts"]
    assert len(data.classes) == expected["classes"]
    assert data.protocol.groups == expected["groups"]
    assert data.protocol.verified == bool(expected["groups"])
    for split in (data.train, data.validation, data.test):
        assert sum(len(b) for b in loader(split, 128, shuffle=False)) in (len(split), len(split) - 1)
    batch = data.train.batch()
    for modality, values in batch.inputs.items():
        rows = batch.rows(modality)
        present = values if rows is None else values[rows]
        assert present.mean().abs() < 0.01, modality
        # a feature that is constant in training becomes zero, so the mean variance may be below one
        assert 0.6 < present.var() < 1.01, modality


def test_split_codes_agree_with_the_files(real_data: Path) -> None:
    for name, protocol in (("utdmhad", "cross-subject"), ("ravdess", "fold0")):
        data = load(real_data / f"{name}.npz", protocol=protocol)
        with np.load(real_data / f"{name}.npz") as raw:
            for code, split in enumerate((data.train, data.validation, data.test)):
                assert np.array_equal(np.flatnonzero(raw["split"] == code), split.rows.numpy())


def test_pairs_have_the_class_of_both_sides(real_data: Path) -> None:
    data = load(real_data / "avdigits.npz")
    with np.load(real_data / "avdigits.npz") as raw:
        rows = data.test.rows.numpy()
        assert np.array_equal(raw["image_label"][raw["pair_image"][rows]], data.test.target)
        assert np.array_equal(raw["audio_label"][raw["pair_audio"][rows]], data.test.target)
        image = raw["images"][raw["pair_image"][rows[7]]].astype(np.float64)
    own = data.test.batch([7]).inputs["image"][0, 0].double().numpy()
    assert np.corrcoef(image.ravel(), own.ravel())[0, 1] > 0.9999


def test_the_hip_is_the_origin(real_data: Path) -> None:
    skeleton = load(real_data / "utdmhad.npz").train.batch().inputs["skeleton"].reshape(-1, 48, 20, 3)
    assert skeleton[:, :, 3].abs().max() == 0
    assert skeleton[:, :, 7].std() > 0.5


def test_every_fold_of_ravdess(real_data: Path) -> None:
    tested: list[int] = []
    for fold in range(5):
        data = load(real_data / "ravdess.npz", protocol=f"fold{fold}")
        assert data.protocol.verified
        tested += data.test.rows.tolist()
    assert sorted(tested) == list(range(1440))


def test_missing_sequences_of_lggmri(real_data: Path) -> None:
    data = load(real_data / "lggmri.npz")
    assert set(data.train.present) == {"t1", "t1gd"}
    with np.load(real_data / "lggmri.npz") as raw:
        expected = raw["present"][data.train.rows.numpy()][:, 2]
    assert np.array_equal(data.train.present["t1gd"], expected.astype(bool))
    assert data.train.batch([0, 1]).target.shape == (2, 64, 64)  # type: ignore[union-attr]
    assert data.task.name == "segmentation"
    assert data.task.outputs == 2


def test_other_targets_and_protocols_of_mosi(real_data: Path) -> None:
    scores = load(real_data / "mosi.npz", target="score").train.target
    assert scores.dtype == torch.float32
    assert scores.abs().max() <= 3
    standard = load(real_data / "mosi.npz", protocol="standard")
    assert list(standard.modalities) == ["tokens", "audio"]
    assert standard.train.batch([0]).inputs["tokens"].dtype == torch.int64
    assert standard.protocol.verified


def correct(data: Dataset, name: str) -> float:
    """Nearest class mean of the training split, on test."""
    train, test = data.train.batch(), data.test.batch()
    assert train.target is not None
    assert test.target is not None
    x, z = train.inputs[name].flatten(1), test.inputs[name].flatten(1)
    means = torch.stack([x[train.target == c].mean(0) for c in range(len(data.classes))])
    return float(torch.eq(torch.cdist(z, means).argmin(1), test.target).double().mean())


def test_a_crude_classifier_is_far_above_chance(real_data: Path) -> None:
    """Labels and inputs belong together after pairing, transforms and splitting."""
    for name, modality, least in (
        ("avdigits", "image", 0.7),
        ("utdmhad", "skeleton", 0.4),
        ("ravdess", "visual", 0.3),
        ("mfeat", "fac", 0.85),
        ("wikidoc", "text", 0.5),
        ("mosi", "text", 0.65),
    ):
        assert correct(load(real_data / f"{name}.npz"), modality) > least, name
