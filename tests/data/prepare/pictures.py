"""Pictures as the image-text datasets have them, and what their tests share."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from equimodal import MultimodalModel, PlainEngine
from equimodal.data import Dataset, load, loader
from equimodal.encoders import TextTransformer, for_modality
from equimodal.fusion import Concat
from equimodal.methods import Joint

Array = npt.NDArray[Any]
Colour = tuple[int, int, int]


def encoded(colour: Colour = (10, 200, 30), size: tuple[int, int] = (20, 12), form: str = "JPEG") -> bytes:
    """Bytes of a picture of noise around one colour."""
    noise = np.random.default_rng(sum(colour)).integers(-8, 9, (size[1], size[0], 3))
    pixels = (np.array(colour) + noise).clip(0, 255).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, form, **({"quality": 95} if form == "JPEG" else {}))
    return buffer.getvalue()


def picture(path: Path, colour: Colour = (10, 200, 30), **options: Any) -> Path:
    """A real picture file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(encoded(colour, **options))
    return path


def cut(path: Path, share: float = 0.6) -> Path:
    """Leave the first part of a file, as an interrupted download does."""
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    return path


def manifest(folder: Path) -> dict[str, Any]:
    """The manifest of a bundle."""
    value: dict[str, Any] = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    return value


def rows(folder: Path, name: str) -> Array:
    """An array of a bundle."""
    values: Array = np.load(folder / f"{name}.npy", allow_pickle=False)
    return values


def vocabulary(folder: Path) -> list[str]:
    """The words of a bundle, by id."""
    return (folder / "vocabulary.txt").read_text(encoding="utf-8").split("\n")[:-1]


def words_of(folder: Path, key: str) -> list[str]:
    """The text of one sample, read back from its ids and its length."""
    row = rows(folder, "key").tolist().index(key)
    known = vocabulary(folder)
    ids = rows(folder, "text")[row]
    length = int(rows(folder, "text_length")[row])
    assert (ids[length:] == 0).all()
    return [known[i] for i in ids[:length]]


def train_one_step(folder: Path, ids: int) -> Dataset:
    """One step of joint training on the first training batch; returns the dataset."""
    data = load(folder)
    modality = data.modalities
    encoders = {
        "image": for_modality(modality["image"], out_features=4),
        "text": TextTransformer(ids, out_features=4, width=8, layers=1, heads=2),
    }
    torch.manual_seed(0)
    model = MultimodalModel(encoders, Concat(dict.fromkeys(encoders, 4)), torch.nn.Linear(8, len(data.classes)))
    method = Joint(model, data.task)
    before = [p.detach().clone() for p in method.parameters()]
    batch = next(iter(loader(data.train, batch_size=4, seed=0)))
    report = method.training_step(batch, PlainEngine(torch.optim.SGD(method.parameters(), lr=0.1)))
    assert torch.isfinite(report.losses["joint"])
    assert any(not torch.equal(old, new) for old, new in zip(before, method.parameters(), strict=True))
    return data
