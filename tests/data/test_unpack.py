"""From an .npz to a folder of .npy files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from equimodal.data import load, load_card, unpack_bundle
from equimodal.data.prepare import check
from equimodal.errors import DataError, StorageError
from tests.data.helpers import arrays, card

NAMES = ("avdigits", "lggmri", "mfeat", "mosi", "ravdess", "utdmhad", "wikidoc")


@pytest.fixture
def small(tmp_path: Path) -> Path:
    path = tmp_path / "small.npz"
    np.savez_compressed(path, allow_pickle=False, extra=np.zeros(3), **arrays())
    path.with_suffix(".yaml").write_text(yaml.safe_dump(card()))
    return path


def test_the_folder_holds_the_same_data(small: Path, tmp_path: Path) -> None:
    out = unpack_bundle(small, tmp_path / "folder" / "unpacked")
    assert not (out / "extra.npy").exists()
    for protocol in ("people", "carved"):
        one, other = load(small, protocol=protocol), load(out, protocol=protocol)
        assert one.fingerprint == other.fingerprint
        for name, x in one.train.batch().inputs.items():
            assert torch.allclose(x, other.train.batch().inputs[name], atol=1e-6)
    assert check(out).ok
    assert check(small).ok


def test_what_is_in_the_way_or_wrong_is_refused(small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = unpack_bundle(small, tmp_path / "unpacked")
    with pytest.raises(DataError, match="`out`: expected a new folder"):
        unpack_bundle(small, out)
    with pytest.raises(DataError, match="is unpacked already"):
        unpack_bundle(out, tmp_path / "again")
    with pytest.raises(DataError, match="Found nothing there"):
        unpack_bundle(tmp_path / "none.npz", tmp_path / "again", card=small.with_suffix(".yaml"))

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "save", full)
    with pytest.raises(StorageError, match="No space left on device"):
        unpack_bundle(small, tmp_path / "again")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["small.npz", "small.yaml", "unpacked"]


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_the_real_sets_are_checked_and_unpacked(real_data: Path, tmp_path: Path, name: str) -> None:
    path = real_data / f"{name}.npz"
    report = check(path)
    assert report.ok, str(report)
    out = unpack_bundle(path, tmp_path / name)
    assert check(out).ok
    for protocol in load_card(out / "card.yaml").protocols:
        one, other = load(path, protocol=protocol), load(out, protocol=protocol)
        assert one.fingerprint == other.fingerprint
        assert one.parts == other.parts
    batches = [data.train.batch([0, 3, 5]) for data in (one, other)]
    for modality, x in batches[0].inputs.items():
        assert torch.allclose(x.float(), batches[1].inputs[modality].float(), atol=1e-5)
    assert torch.equal(batches[0].target, batches[1].target)  # type: ignore[arg-type]


def test_spoilt_sets_are_found(real_data: Path, tmp_path: Path) -> None:
    content = (real_data / "mfeat.npz").read_bytes()
    cut = tmp_path / "mfeat.npz"
    cut.write_bytes(content[: len(content) // 2])
    report = check(cut)
    assert not report.ok
    assert "truncated, corrupt or foreign" in str(report)
