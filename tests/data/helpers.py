"""A small bundle with everything a card can say, as arrays and as a card."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]


def arrays(seed: int = 0) -> dict[str, Array]:
    """24 samples, 3 classes: 12 of people 0 to 2 (train), 6 of person 3 (validation), 6 of person 4 (test)."""
    rng = np.random.default_rng(seed)
    person = np.repeat([0, 1, 2, 3, 4], [4, 4, 4, 6, 6])
    return {
        "walk": rng.normal(3.0, 2.0, (24, 5, 4, 3)).astype(np.float16),
        "face": rng.integers(0, 256, (8, 2, 6, 6), dtype=np.uint8),
        "pair_face": np.arange(24, dtype=np.int32) % 8,
        "has": np.tile(np.array([[1, 1], [1, 1], [1, 0]], np.uint8), (8, 1)),
        "y": (np.arange(24) % 3).astype(np.uint8),
        "score": rng.normal(size=24).astype(np.float32),
        "person": person,
        "part": np.select([person < 3, person == 3], ["train", "validation"], "test"),
    }


CARD: dict[str, Any] = {
    "format": 1,
    "name": "small",
    "licence": "CC0",
    "modalities": {
        "walk": {
            "array": "walk",
            "kind": "sequence",
            "shape": [5, 12],
            "units": "m",
            "transforms": [{"centre_on": {"axis": 1, "index": 2}}, {"flatten": 1}],
            "standardise": "per-feature",
        },
        "face": {"array": "face", "index": "pair_face", "kind": "image", "standardise": "per-channel"},
    },
    "targets": {
        "y": {"array": "y", "task": "classification", "classes": ["a", "b", "c"]},
        "score": {"array": "score", "task": "regression"},
    },
    "present": {"array": "has", "columns": ["walk", "face"]},
    "groups": {"person": "person"},
    "protocols": {
        "people": {"array": "part", "train": "train", "validation": "validation", "test": "test", "groups": ["person"]},
        "carved": {
            "array": "person",
            "train": [0, 1, 2],
            "validation": {"carve": 0.3, "seed": 5, "by": "person"},
            "test": [3, 4],
            "groups": ["person"],
        },
    },
}


def card(**changes: Any) -> dict[str, Any]:
    """A copy of ``CARD`` in which ``a__b__c=value`` sets a nested field; ``None`` removes it."""
    out = copy.deepcopy(CARD)
    for path, value in changes.items():
        *parents, last = path.split("__")
        node = out
        for key in parents:
            node = node[key]
        if value is None:
            del node[last]
        else:
            node[last] = value
    return out


def save(folder: Path, own: dict[str, Array] | None = None, name: str = "small.npz") -> Path:
    """The arrays as an .npz, or, without a suffix, as a folder of .npy files."""
    own = arrays() if own is None else own
    path = folder / name
    if path.suffix:
        np.savez_compressed(path, **own)  # type: ignore[arg-type]
        return path
    path.mkdir()
    for key, array in own.items():
        np.save(path / f"{key}.npy", array)
    return path
