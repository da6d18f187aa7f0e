from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from equimodal.data import DEFAULT_NOISE, Dataset, load_avdigits
from equimodal.errors import DataError, UnknownNameError


@pytest.fixture(scope="module")
def data() -> Dataset:
    return load_avdigits()


def test_counts_and_groups(data: Dataset) -> None:
    assert data.parts == {"train": 3000, "validation": 600, "test": 1000}
    assert set(data.train.class_counts.values()) == {300}
    assert set(data.test.class_counts.values()) == {100}
    assert data.protocol.verified
    assert data.protocol.shared == {"speaker": 0, "image": 0}
    assert data.protocol.unused == 0


def test_it_is_small(root: Path) -> None:
    assert (root / "src/equimodal/data/embedded/avdigits.npz").stat().st_size < 4e6


def test_standardised_on_training_data_when_the_noise_is_off() -> None:
    clean = load_avdigits(noise={"image": 0, "audio": 0})
    for values in clean.train.batch().inputs.values():
        assert values.mean().abs() < 1e-4
        assert (values.std() - 1).abs() < 1e-3


def test_the_dial_adds_noise_of_the_given_size_drawn_once() -> None:
    clean = load_avdigits(noise={"image": 0, "audio": 0}).train.batch()
    noisy = load_avdigits(noise={"image": 2.0, "audio": 0}).train.batch()
    again = load_avdigits(noise={"image": 2.0}).train.batch()
    other = load_avdigits(noise={"image": 2.0}, seed=1).train.batch()
    difference = noisy.inputs["image"] - clean.inputs["image"]
    assert difference.mean().abs() < 0.05
    assert abs(difference.std() - 2.0) < 0.05
    assert torch.equal(noisy.inputs["audio"], clean.inputs["audio"])
    assert torch.equal(noisy.inputs["image"], again.inputs["image"])
    assert not torch.equal(noisy.inputs["image"], other.inputs["image"])


def test_noise_of_the_modalities_is_independent() -> None:
    one = load_avdigits(noise={"image": 1.0, "audio": 1.0}).train.batch().inputs
    none = load_avdigits(noise={"image": 0, "audio": 0}).train.batch().inputs
    a = (one["image"] - none["image"])[:1000, 0, 0, 0]
    b = (one["audio"] - none["audio"])[:1000, 0, 0, 0]
    assert torch.corrcoef(torch.stack([a, b]))[0, 1].abs() < 0.15


def test_the_dial_and_seed_are_in_the_fingerprint(data: Dataset) -> None:
    assert data.fingerprint == load_avdigits(noise=DEFAULT_NOISE).fingerprint
    assert data.options["noise"] == DEFAULT_NOISE
    assert data.fingerprint != load_avdigits(noise={"audio": 0.71}).fingerprint
    assert data.fingerprint != load_avdigits(seed=1).fingerprint


def test_wrong_arguments() -> None:
    with pytest.raises(UnknownNameError, match="Did you mean 'image'"):
        load_avdigits(noise={"images": 1.0})
    with pytest.raises(DataError, match=r"`noise\['audio'\]`: expected a number of at least 0. Found -1"):
        load_avdigits(noise={"audio": -1})
    with pytest.raises(DataError, match="`seed`"):
        load_avdigits(seed=-1)
    with pytest.raises(UnknownNameError, match="protocol of avdigits"):
        load_avdigits(protocol="random")


def test_both_modalities_are_informative_and_the_image_is_quicker(data: Dataset) -> None:
    """Softmax regression by plain gradient descent: far above chance, the image ahead and not perfect."""
    train, held = data.train.batch(), data.validation.batch()
    assert train.target is not None
    assert held.target is not None
    wanted = torch.eye(10)[train.target]
    scores: dict[str, list[float]] = {}
    for name in data.modalities:
        x, z = train.inputs[name].flatten(1), held.inputs[name].flatten(1)
        weight = torch.zeros(x.shape[1], 10)
        for step in range(100):
            weight -= 0.02 * x.T @ ((x @ weight).softmax(1) - wanted) / len(x)
            if step in (9, 99):
                scores.setdefault(name, []).append(float(torch.eq((z @ weight).argmax(1), held.target).double().mean()))
    assert 0.3 < scores["audio"][1] < scores["image"][1] - 0.1
    assert scores["audio"][0] < scores["image"][0] - 0.1
    assert scores["image"][1] < 0.97


@pytest.mark.slow
def test_the_builder_is_deterministic(tmp_path: Path, root: Path) -> None:
    if shutil.which("espeak-ng") is None:
        pytest.skip("needs the program espeak-ng, which synthesises the speech")
    pytest.importorskip("sklearn")
    pytest.importorskip("scipy")
    hashes = set()
    for number in range(2):
        path = tmp_path / f"{number}.npz"
        command = [sys.executable, str(root / "scripts/build_avdigits.py"), str(path)]
        subprocess.run([*command, "--train", "40", "--validation", "20", "--test", "20"], check=True)
        hashes.add(hashlib.sha256(path.read_bytes()).hexdigest())
    assert len(hashes) == 1
    with np.load(tmp_path / "0.npz") as built:
        assert built["audio"].shape == (80, 32, 32)
        assert np.array_equal(np.bincount(built["digit"][:40]), [4] * 10)
        for group in ("speaker", "pair_image"):
            sides = [set(built[group][built["split"] == part].tolist()) for part in range(3)]
            assert len(set.union(*sides)) == sum(map(len, sides))
