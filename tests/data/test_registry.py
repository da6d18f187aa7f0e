from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from equimodal.data import Modality, available, describe, load, synthetic
from equimodal.errors import DataError, UnknownNameError
from tests.data.helpers import card, save


def test_every_built_in_dataset_loads_and_is_described() -> None:
    for name in available():
        data = load(name)
        assert data.name == name
        text = describe(data)
        assert data.fingerprint in text
        assert data.protocol.name in text
        for part, count in data.parts.items():
            assert f"{part} {count}" in text
        for modality in data.modalities:
            assert f"modality {modality}:" in text


def test_options_reach_the_dataset() -> None:
    assert list(load("synthetic", modalities=3, train=20).modalities) == ["m1", "m2", "m3"]
    assert load("avdigits", noise={"audio": 0.0}).options["noise"]["audio"] == 0.0
    with pytest.raises(UnknownNameError, match=r"option of dataset avdigits: 'noize'. Did you mean 'noise'"):
        load("avdigits", noize={})
    with pytest.raises(DataError, match="`card`: expected no card for the built-in"):
        load("avdigits", card="ravdess")


def test_an_unknown_name_is_suggested() -> None:
    with pytest.raises(UnknownNameError, match="Did you mean 'avdigits'"):
        load("avdigit")


def test_anything_that_looks_like_a_path_is_a_path(tmp_path: Path) -> None:
    path = save(tmp_path)
    assert load(path, card=card()).name == "small"
    assert load(str(path), card=card(), protocol="carved").protocol.name == "carved"
    save(tmp_path, name="folder")  # the working folder of a test is its own
    assert load("folder", card=card()).name == "small"
    with pytest.raises(DataError, match=r"avdigits.npz: expected a .npz file"):
        load("avdigits.npz")
    with pytest.raises(DataError, match="Found nothing there"):
        load(Path("avdigits"))


def test_a_described_dataset_is_plain_text() -> None:
    text = describe(synthetic(2, train=40))
    assert re.fullmatch(r"[ -~\n]+", text)


def test_what_is_absent_is_described(tmp_path: Path) -> None:
    assert "absent in 4 training samples" in describe(load(save(tmp_path), card=card()))
    assert "target score: regression" in describe(load(save(tmp_path), card=card(), target="score"))


def test_a_modality_checks_its_shape() -> None:
    assert Modality("a", (2, 3), "sequence").size == 6
    with pytest.raises(DataError, match=r"expected one image of shape \(C, H, W\)"):
        Modality("a", (2, 3), "image")
    with pytest.raises(DataError, match="`kind`: expected one of"):
        Modality("a", (2,), "sound")  # type: ignore[arg-type]


def test_built_in_datasets_need_torch_and_numpy_only(root: Path) -> None:
    code = (
        "import sys\n"
        "for name in ('yaml', 'scipy', 'sklearn', 'lightning', 'torchmetrics'): sys.modules[name] = None\n"
        "from equimodal.data import describe, load, loader\n"
        "for name in ('avdigits', 'synthetic'):\n"
        "    data = load(name)\n"
        "    next(iter(loader(data.train, 8)))\n"
        "    describe(data)\n"
        "from equimodal.errors import MissingExtraError\n"
        "from equimodal.data import load_card\n"
        "try:\n"
        "    load_card('mosi')\n"
        "except MissingExtraError as error:\n"
        "    print(error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": str(root / "src")},
    )
    assert done.returncode == 0, done.stderr
    assert 'pip install "equimodal[cli]"' in done.stdout
