"""A dataset with every kind of modality, and its batches."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from equimodal.batch import Tokens
from equimodal.data import Dataset, loader
from equimodal.data._card import parse_card
from equimodal.data._dataset import build

SIZE = 12


def arrays(n: int = 24) -> dict[str, Any]:
    rng = np.random.default_rng(0)
    return {
        "photo": rng.integers(0, 256, (n, 3, SIZE, SIZE), dtype=np.uint8),
        "film": rng.integers(0, 256, (n, 3, 2, SIZE, SIZE), dtype=np.uint8),
        "sound": rng.normal(size=(n, 1, 8, 10)).astype(np.float32),
        "walk": rng.normal(size=(n, 6, 4)).astype(np.float32),
        "steps": rng.integers(1, 7, n),
        "mri": rng.normal(size=(n, 1, SIZE, SIZE)).astype(np.float32),
        "pet": rng.normal(size=(n, 1, SIZE, SIZE)).astype(np.float32),
        "has": np.tile(np.array([[1, 0], [1, 1], [0, 1]], np.uint8), (n // 3, 1)),
        "mask": rng.integers(0, 3, (n, SIZE, SIZE), dtype=np.uint8),
        "y": np.arange(n) % 2,
        "part": np.repeat([0, 1, 2], [n // 2, n // 4, n // 4]),
    }


IMAGENET = {"normalise": {"mean": [123.675, 116.28, 103.53], "std": [58.395, 57.12, 57.375]}}


def dataset(*modalities: str, target: str = "y", **changed: Any) -> Dataset:
    kinds = {"photo": "image", "film": "video", "sound": "image", "walk": "sequence", "mri": "image", "pet": "image"}
    entries: dict[str, Any] = {name: {"array": name, "kind": kind} for name, kind in kinds.items()}
    entries["photo"]["transforms"] = entries["film"]["transforms"] = [IMAGENET]
    entries["walk"]["mask"] = "steps"
    for name, change in changed.items():
        entries[name] |= change
    card = {
        "name": "everything",
        "modalities": entries,
        "targets": {
            "y": {"array": "y", "task": "classification", "classes": ["a", "b"]},
            "mask": {"array": "mask", "task": "segmentation", "classes": ["none", "core", "rim"]},
        },
        "present": {"array": "has", "columns": ["mri", "pet"]},
        "protocols": {"p": {"array": "part", "train": 0, "validation": 1, "test": 2}},
    }
    return build(arrays(), parse_card(card, "card"), origin="everything", target=target, modalities=modalities)


def batches(data: Dataset, augment: Any, seed: int = 0, epoch: int = 0, **options: Any) -> list[Any]:
    made = loader(data.train, 5, seed=seed, augment=augment, **options)
    made.set_epoch(epoch)
    return list(made)


def values(x: Any) -> Any:
    return x.values if isinstance(x, Tokens) else x


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)
