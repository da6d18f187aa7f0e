"""Training in parts, and the mean of the last weights."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from equimodal.errors import CheckpointError, MethodError
from equimodal.studies import TrainingConfig, build_data, load_run, run
from equimodal.studies.runs import load_selected, train_part
from tests.studies.helpers import config, history, without_time


def tensors(folder: Path) -> dict[str, Tensor]:
    content = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)
    average: dict[str, Tensor] = content["callbacks"]["WeightAverage"]["mean"]
    state: dict[str, Tensor] = {k: v for k, v in content["state_dict"].items() if isinstance(v, Tensor)}
    return state | {f"average/{name}": v for name, v in average.items()}


def test_parts_are_the_whole_to_the_last_bit(tmp_path: Path) -> None:
    settings = config(epochs=5)
    data = build_data(settings.data)
    for until in (1, 2, 2, 5):
        _, found = train_part(settings, tmp_path / "parts", data, until)
        assert len(history(tmp_path / "parts")) == until
        if until < 5:
            assert found["epoch"] == until - 1  # nothing is chosen before the end
    train_part(settings, tmp_path / "whole", data, 5)
    ours, theirs = tensors(tmp_path / "parts"), tensors(tmp_path / "whole")
    assert set(ours) == set(theirs)
    assert not [name for name in ours if not torch.equal(ours[name], theirs[name])]
    shared = [[without_time(r) for r in history(tmp_path / name)] for name in ("parts", "whole")]
    assert shared[0] == shared[1]
    assert not (tmp_path / "parts" / "metrics.json").exists()  # no test sample was read


def test_the_average_is_the_mean_of_the_last_quarter(tmp_path: Path) -> None:
    settings = config(epochs=12, selection="average")  # epochs 10, 11 and 12
    data = build_data(settings.data)
    after = {}
    for until in (10, 11, 12):
        train_part(settings, tmp_path / "run", data, until)
        content = torch.load(tmp_path / "run" / "checkpoints" / "last.ckpt", weights_only=True)
        after[until] = {k.removeprefix("method."): v for k, v in content["state_dict"].items()}
    method, found = train_part(settings, tmp_path / "run", data, 12)
    assert found["by"] == "mean of the weights after the epochs of the last quarter"
    for name, value in method.named_parameters():
        torch.testing.assert_close(value.detach(), sum(after[k][name] for k in after) / 3)
    assert any(not torch.equal(after[11][name], after[12][name]) for name, _ in method.named_parameters())


def test_a_run_may_select_the_average(tmp_path: Path) -> None:
    metrics = run(config(selection="average"), tmp_path / "run", loggers=False)
    assert metrics["selection"]["score"] is None
    _, _, method = load_run(tmp_path / "run")
    mean = {k: v for k, v in tensors(tmp_path / "run").items() if k.startswith("average/")}
    for name, value in method.named_parameters():
        assert torch.equal(value.detach(), mean[f"average/{name}"])


def test_an_average_that_is_not_there_is_refused(tmp_path: Path) -> None:
    settings = config(epochs=4)
    data = build_data(settings.data)
    method, _ = train_part(settings, tmp_path / "run", data, 1)
    with pytest.raises(CheckpointError, match="expected an average of the weights.*Found none after epoch 1"):
        load_selected(method, tmp_path / "run", "average")
    with pytest.raises(MethodError, match=r"`training.patience`: expected null with selection 'average'"):
        TrainingConfig(selection="average", patience=3)
