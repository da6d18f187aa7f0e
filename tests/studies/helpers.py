"""Tiny runs for the tests of studies and of the command line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor

from equimodal.data import Dataset, from_arrays
from equimodal.studies import DataConfig, ModelConfig, RunConfig, TrainingConfig, run
from tests.trees import assert_same_tree

SIZES = {"train": 80, "validation": 24, "test": 24}
TINY: dict[str, Any] = {**SIZES, "classes": 3, "features": 7}


def config(
    method: str = "Joint", options: dict[str, Any] | None = None, seed: int = 0, probe: bool = False, **training: Any
) -> RunConfig:
    """Three epochs of five batches on synthetic data, with dropout so that random state matters."""
    return RunConfig(
        method,
        options or {},
        DataConfig("synthetic", options=dict(TINY)),
        ModelConfig(feature_size=6, size="small", encoders={"m1": {"dropout": 0.2}}),
        TrainingConfig(**{"epochs": 3, "batch_size": 16, "lr": 1e-2, "device": "cpu", **training}),
        seed,
        probe,
    )


def arrays(seed: int = 0, **changes: Any) -> Dataset:
    """In memory, not standardised, so that a test can spoil samples."""
    rng = np.random.default_rng(seed)
    count = sum(SIZES.values())
    target = np.arange(count) % 3
    inputs = {m: rng.standard_normal((count, 7)) + 2 * np.eye(7)[target] for m in ("m1", "m2")}
    split = np.repeat(["train", "validation", "test"], list(SIZES.values()))
    return from_arrays(inputs, target, split, standardise={"m1": "none", "m2": "none"}, **changes)


def as_of_the_first_version(folder: Path) -> Path:
    """Runs as version 0.1 left them, without hashes, so that a test can change their files."""
    for path in sorted(folder.rglob("content.json")):
        path.unlink()
    for path in folder.rglob("environment.json"):
        stored = json.loads(path.read_text())
        stored.pop("format", None)
        path.write_text(json.dumps(stored))
    return folder


class Whole:
    """Uninterrupted runs, each trained once; called with a configuration, it gives the folder, which is only read."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._made: dict[str, Path] = {}

    def __call__(self, settings: RunConfig) -> Path:
        key = json.dumps(settings.to_dict(), sort_keys=True)
        if key not in self._made:
            folder = self._folder / str(len(self._made))
            run(settings, folder, loggers=False)
            self._made[key] = folder
        return self._made[key]


def history(folder: Path) -> list[dict[str, Any]]:
    """The lines of ``history.jsonl``."""
    return [json.loads(line) for line in (folder / "history.jsonl").read_text().splitlines()]


def without_time(record: dict[str, Any]) -> dict[str, Any]:
    """What two equal runs share."""
    return {k: v for k, v in record.items() if k != "seconds"}


def weights(folder: Path) -> dict[str, Tensor]:
    """What a run saved."""
    return load_file(folder / "weights.safetensors")


def assert_same_run(a: Path, b: Path) -> None:
    """Weights, metrics, histories and last checkpoints equal to the last bit."""
    for name, tensor in weights(a).items():
        assert torch.equal(tensor, weights(b)[name]), name
    metrics = [without_time(json.loads((f / "metrics.json").read_text())) for f in (a, b)]
    assert metrics[0] == metrics[1]
    assert [without_time(r) for r in history(a)] == [without_time(r) for r in history(b)]
    last = [torch.load(f / "checkpoints" / "last.ckpt", weights_only=True) for f in (a, b)]
    assert_same_tree(last[0]["state_dict"], last[1]["state_dict"])
    assert_same_tree(last[0]["optimizer_states"], last[1]["optimizer_states"])
    assert torch.equal(last[0]["random_state"]["cpu"], last[1]["random_state"]["cpu"])
