"""Engines, batches in parts and a plain training loop, as every property uses them."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, cast

import torch
from torch import Tensor, nn

from equimodal.batch import Batch
from equimodal.engine import PlainEngine
from equimodal.methods import EpochContext, Method, Validation, measure


def train(
    method: Method,
    engine: PlainEngine,
    epochs: Iterable[int],
    batches: Sequence[Any],
    total: int = 10,
    after_step: Callable[[], None] | None = None,
) -> None:
    """Epochs with all the moments, as any loop would call them.

    Args:
        method: trained in place.
        engine: steps its parameters.
        epochs: numbers of the epochs.
        batches: of each epoch; a list is a batch in micro-batches.
        total: how many epochs are planned.
        after_step: called after every step.
    """
    plain = [b for entry in batches for b in (entry if isinstance(entry, list) else [entry])]
    parts = max((len(entry) for entry in batches if isinstance(entry, list)), default=1)
    for epoch in epochs:
        context = EpochContext(epoch, total, len(batches), plain, engine, plain, parts)
        method.train()
        method.on_train_epoch_start(context)
        for batch in batches:
            method.training_step(batch, engine)
            if after_step is not None:
                after_step()
        method.on_train_epoch_end(context)
        method.on_validation_end(validation_of(method, plain, 0.1 * ((epoch * 7) % 5)))


def validation_of(method: Method, batches: Sequence[Any], score: float) -> Validation | float:
    """The score alone; for a method that looks at validation, with the losses and the scores of a pass."""
    if type(method).on_validation_end is Method.on_validation_end:
        return score
    return replace(measure(method, batches), score=score)


def announce(
    method: Method,
    engine: PlainEngine | None = None,
    epoch: int = 0,
    epochs: int = 2,
    steps: int = 1,
    batches: Sequence[Batch] | None = None,
) -> None:
    """The moment before an epoch; ``batches`` are the training and the validation samples, if they are offered."""
    method.on_train_epoch_start(EpochContext(epoch, epochs, steps, batches, engine, batches))


def sgd(method: nn.Module, lr: float = 0.05, momentum: float = 0.9, **options: Any) -> PlainEngine:
    """Engine with SGD over everything trainable."""
    optimizer = torch.optim.SGD([p for p in method.parameters() if p.requires_grad], lr=lr, momentum=momentum)
    return PlainEngine(optimizer, **options)


def adamw(method: nn.Module, lr: float = 1e-2, **options: Any) -> PlainEngine:
    """Engine with AdamW (weight decay on) over everything trainable."""
    optimizer = torch.optim.AdamW([p for p in method.parameters() if p.requires_grad], lr=lr, weight_decay=0.1)
    return PlainEngine(optimizer, **options)


def split(batch: Batch, parts: int) -> list[Batch]:
    """The batch as consecutive micro-batches."""
    size = len(batch)
    edges = [round(i * size / parts) for i in range(parts + 1)]
    return [take(batch, torch.arange(a, b)) for a, b in itertools.pairwise(edges)]


def take(batch: Batch, rows: Tensor) -> Batch:
    """Some rows of a batch."""
    return batch.select(rows)


def single(batch: Batch) -> Batch:
    """The batch in float32."""
    return batch._map(lambda t: t.float() if t.is_floating_point() else t)


def weights(module: nn.Module) -> dict[str, Tensor]:
    """A copy of the parameters and buffers."""
    return {n: t.detach().clone() for n, t in (*module.named_parameters(), *module.named_buffers())}


def tensors(module: nn.Module) -> dict[str, Tensor]:
    """A copy of everything in the state that is a tensor, extra state included."""
    entries: dict[str, Tensor] = {}

    def walk(name: str, value: Any) -> None:
        if isinstance(value, Tensor):
            entries[name] = value.detach().clone()
        elif isinstance(value, Mapping):
            for key, part in value.items():
                walk(f"{name}/{key}", part)
        elif isinstance(value, (list, tuple)):
            for key, part in enumerate(value):
                walk(f"{name}/{key}", part)

    for name, value in module.state_dict().items():
        walk(name, value)
    return entries


def loss_of(method: Method, batch: Batch) -> float:
    """Loss of what the method predicts for the batch."""
    prediction = method.predict(batch.inputs, batch.present)
    return float(method.task.loss(prediction.output, cast(Tensor, batch.target)))
