"""``equimodal data unpack``."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from equimodal.data import write_bundle
from tests.cli.helpers import CLI


def test_an_npz_becomes_a_folder_that_can_be_checked(cli: CLI, tmp_path: Path) -> None:
    split = ["train"] * 2 + ["validation"] * 2 + ["test"] * 2
    path = write_bundle(tmp_path / "mine.npz", inputs={"a": np.eye(6)}, target=["no", "yes"] * 3, split=split)
    out = tmp_path / "folder"
    assert cli(["data", "unpack", str(path), str(out)]) == f"{out}\n"
    assert (out / "input_a.npy").is_file()
    for place in (path, out):
        assert "every protocol" in cli(["data", "check", str(place)])
    assert "expected a new folder" in cli.error(["data", "unpack", str(path), str(out)], 1)
