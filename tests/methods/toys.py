"""Small models and batches for loops that are written out in a test."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from equimodal import Batch, Classification, MultimodalModel
from equimodal.fusion import Concat
from equimodal.methods import Method, get

CLASSES, WIDTH, RATE = 3, 4, 0.1
SIZES = {"audio": 5, "video": 4, "text": 3}


def small_model(count: int, seed: int = 0) -> MultimodalModel:
    """Encoders of one layer and tanh, and a linear head on their concatenation."""
    torch.manual_seed(seed)
    sizes = dict(list(SIZES.items())[:count])
    encoders = {m: nn.Sequential(nn.Linear(n, WIDTH), nn.Tanh()) for m, n in sizes.items()}
    return MultimodalModel(encoders, Concat(dict.fromkeys(sizes, WIDTH)), nn.Linear(WIDTH * count, CLASSES)).double()


def small_batch(count: int, seed: int, absent: bool = True, size: int = 12) -> Batch:
    """Separable samples; with ``absent`` two modalities lack some, which hold NaN."""
    generator = torch.Generator().manual_seed(seed)
    target = torch.arange(size) % CLASSES
    inputs, present = {}, {}
    for i, (m, n) in enumerate(list(SIZES.items())[:count]):
        x = torch.randn(size, n, generator=generator, dtype=torch.float64)
        x[:, :CLASSES] += (2.0 - i) * torch.eye(CLASSES, dtype=torch.float64)[target]
        if absent and i < 2:
            present[m] = (torch.arange(size) + 3 * i) % (4 + i) != 0
            x[~present[m]] = math.nan
        inputs[m] = x
    return Batch(inputs, target, present or None, torch.arange(size))


def small_method(name: str, count: int, **options: object) -> Method:
    """The method on the small model, with SGD in mind."""
    return get(name)(small_model(count), Classification(CLASSES), **options).double().train()  # type: ignore[arg-type]


LINEAR_SIZES = {"a": 3, "b": 4, "c": 2}


def linear_model(count: int, seed: int = 3) -> MultimodalModel:
    """Linear encoders of one width and a linear head on their concatenation."""
    torch.manual_seed(seed)
    names = list(LINEAR_SIZES)[:count]
    encoders = {m: nn.Linear(LINEAR_SIZES[m], WIDTH) for m in names}
    return MultimodalModel(encoders, Concat(dict.fromkeys(names, WIDTH)), nn.Linear(WIDTH * count, CLASSES))


def random_batch(count: int, size: int, absent: bool = False, seed: int = 1) -> Batch:
    """Random inputs of :func:`linear_model`, classes in turn; with ``absent`` two modalities lack some samples."""
    generator = torch.Generator().manual_seed(seed)
    inputs = {
        m: torch.randn(size, n, generator=generator, dtype=torch.float64) for m, n in list(LINEAR_SIZES.items())[:count]
    }
    i = torch.arange(size)
    present = {"a": i % 3 != 0, "b": (i % 4 != 1) | (i % 3 == 0)} if absent else None
    return Batch(inputs, i % CLASSES, present)


def random_absence(batch: Batch, seed: int, rate: float = 0.4) -> Batch:
    """The batch where every modality is absent at random; each sample keeps one of the first two."""
    generator = torch.Generator().manual_seed(seed)
    masks = {m: torch.rand(len(batch), generator=generator) >= rate for m in batch.inputs}
    first, second = list(masks)[:2]
    masks[first] |= ~(masks[first] | masks[second])
    return Batch(batch.inputs, batch.target, masks)


def mask_of(batch: Batch, modality: str) -> Tensor:
    """(B,) who has the modality."""
    every = torch.ones(len(batch), dtype=torch.bool)
    return every if batch.present is None else batch.present.get(modality, every)


def features_of(model: MultimodalModel, batch: Batch) -> dict[str, Tensor]:
    """Encoded, with zeros where absent, written out."""
    features = {}
    for m, x in batch.inputs.items():
        mask = mask_of(batch, m)[:, None]
        features[m] = torch.where(mask, model.encoder(m)(torch.where(mask, x, 0.0)), 0.0)
    return features


def parameters_and_grads(module: nn.Module) -> list[tuple[nn.Parameter, Tensor]]:
    """Parameters with a gradient, and these."""
    return [(p, p.grad) for p in module.parameters() if p.grad is not None]
