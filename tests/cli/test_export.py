"""``equimodal export``: a file that torch alone loads, and one line where something does not fit."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.cli.helpers import CLI, TINY


@pytest.mark.slow
def test_export_a_finished_run(cli: CLI) -> None:
    cli(["train", "--method", "MLA", *TINY, "--out", "a"])
    assert cli(["export", "a", "--out", "m.pt2", "--modalities", "m2", "--presence"]) == "m.pt2\n"
    files = {"equimodal.json": ""}
    model = torch.export.load("m.pt2", extra_files=files).module()
    found = model({"m2": torch.randn(3, 7)}, {"m2": torch.tensor([True, False, True])})
    assert torch.allclose(found["probabilities"].sum(1), torch.ones(3))
    assert torch.allclose(found["probabilities"][1], torch.full((3,), 1 / 3), atol=1e-6)  # nobody to ask
    assert '"classes": ["0", "1", "2"]' in files["equimodal.json"]
    assert "m9" in cli.error(["export", "a", "--modalities", "m9"], 2)
    assert not Path("model.pt2").exists()


def test_names_that_do_not_fit(cli: CLI) -> None:
    for arguments in (["--out", "m.bin"], ["--out", "m.pt2", "--format", "onnx"]):
        assert "name.pt2 (torch) or name.onnx (onnx)" in cli.error(["export", "a", *arguments], 2)
    assert "finished run" in cli.error(["export", "nowhere"], 1)
