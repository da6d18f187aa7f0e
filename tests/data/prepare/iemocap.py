"""What the tests of IEMOCAP share: names, reading of bundles, a little training."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from equimodal import MultimodalModel, PlainEngine
from equimodal.data import load, loader
from equimodal.encoders import for_modality
from equimodal.fusion import Concat
from equimodal.methods import Joint

Array = npt.NDArray[Any]


def turn_name(session: int, marker: str, number: int) -> str:
    return f"Ses0{session}{marker}_impro01_{'FM'[number % 2]}{number:03d}"


def manifest(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "manifest.json").read_text())
    return found


def stored(folder: Path, name: str) -> Array:
    found: Array = np.load(folder / f"{name}.npy")
    return found


def train_a_little(folder: Path, modalities: list[str]) -> list[float]:
    data = load(folder, modalities=modalities)
    torch.manual_seed(0)
    encoders = {name: for_modality(spec, out_features=4) for name, spec in data.modalities.items()}
    model = MultimodalModel(encoders, Concat(dict.fromkeys(encoders, 4)), torch.nn.Linear(4 * len(encoders), 4))
    method = Joint(model, data.task)
    engine = PlainEngine(torch.optim.AdamW(method.parameters(), lr=0.01))
    losses = []
    for epoch in range(10):
        batches = loader(data.train, 5, seed=0)
        batches.set_epoch(epoch)
        losses += [float(method.training_step(batch, engine).losses["joint"]) for batch in batches]
    return losses
