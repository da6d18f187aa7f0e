"""Affine encoders, Concat and an affine head with absent rows, for trajectories that tests write out by hand."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from equimodal import Batch, Classification, MultimodalModel, PlainEngine
from equimodal.fusion import Concat
from equimodal.methods import EpochContext, Method
from equimodal.tasks import Task

INPUTS = {"audio.raw": 5, "the keys": 3, "depth": 4}
WIDTH, CLASSES, SIZE, LR = 4, 3, 12, 0.1

Encoders = dict[str, Any]
"""Modality -> affine encoder."""


def model_of(count: int, outputs: int = CLASSES, seed: int = 3) -> MultimodalModel:
    """In float64, the same for a seed."""
    torch.manual_seed(seed)
    encoders: dict[str, nn.Module] = {m: nn.Linear(INPUTS[m], WIDTH) for m in list(INPUTS)[:count]}
    fusion = Concat(dict.fromkeys(encoders, WIDTH))
    return MultimodalModel(encoders, fusion, nn.Linear(WIDTH * count, outputs)).double()


def make(method: Callable[..., Method], count: int, task: Task | None = None, **options: Any) -> Any:
    """The method on :func:`model_of`."""
    task = Classification(CLASSES) if task is None else task
    return method(model_of(count, task.outputs), task, **options).double().train()


def batch_of(count: int, seed: int = 0, absent: bool = True, size: int = SIZE) -> Batch:
    """Random inputs; the first modality is absent in every fourth row, the second in every fifth, with NaN there."""
    g = torch.Generator().manual_seed(seed + 50)
    names = list(INPUTS)[:count]
    inputs = {m: torch.randn(size, INPUTS[m], generator=g, dtype=torch.float64) for m in names}
    target = torch.randint(0, CLASSES, (size,), generator=g)
    rows = torch.arange(size)
    present = {names[0]: rows % 4 != 1, names[1]: (rows % 5 != 0) | (rows % 4 == 1)} if absent else None
    for m, mask in (present or {}).items():
        inputs[m][~mask] = torch.nan
    return Batch(inputs, target, present, rows + 100)


def masks_of(batch: Batch) -> dict[str, Tensor]:
    """Modality -> which samples have it."""
    everyone = torch.ones(len(batch), dtype=torch.bool)
    return {m: (batch.present or {}).get(m, everyone) for m in batch.inputs}


def features_of(encoders: Encoders, batch: Batch) -> dict[str, Tensor]:
    """Features, zero where absent."""
    found = {}
    for m, mask in masks_of(batch).items():
        x = torch.where(mask[:, None], batch.inputs[m], 0.0)
        found[m] = (x @ encoders[m].weight.T + encoders[m].bias) * mask[:, None]
    return found


def encoders_of(method: Method) -> Encoders:
    """The encoders by name."""
    model = cast(MultimodalModel, method.model)
    return {m: model.encoder(m) for m in model.modalities}


def head_of(method: Method) -> Any:
    """The affine head."""
    return method.multimodal.head


def cross_entropy(logits: Tensor, target: Tensor) -> Tensor:
    """The mean of -log p[y], without torch's function for it."""
    log_p = logits - logits.logsumexp(1, keepdim=True)
    return -log_p[torch.arange(len(target)), target].mean()


def descend(parameters: Sequence[Any], gradients: Sequence[Tensor | None], rate: float = LR) -> None:
    """A step of plain gradient descent."""
    with torch.no_grad():
        for p, g in zip(parameters, gradients, strict=True):
            if g is not None:
                p -= rate * g


def steps(method: Method, batches: Sequence[Batch], epoch: int = 0, epochs: int = 1) -> list[Any]:
    """Train for an epoch with plain gradient descent; the reports."""
    engine = PlainEngine(torch.optim.SGD(method.parameters(), lr=LR))
    context = EpochContext(epoch, epochs, len(batches), batches, engine)
    method.on_train_epoch_start(context)
    reports = [method.training_step(b, engine) for b in batches]
    method.on_train_epoch_end(context)
    return reports
