"""Engines, batches in parts and a plain training loop, as every property uses them."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, cast

import torch
from torch import Tensor, nn

from equimodal.batch import Batch
from equimodal.engine import PlainEngine
from equimodal.errors import SmallValidationWarning
from equimodal.methods import EpochContext, Method, Validation, measure
from equimodal.testing._data import ToyData
from equimodal.testing._data import split as split


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
        batches: of each epoch; a list is a batch in micro-batches. A method that plans its epochs gets those of its
            plan instead, see :class:`~equimodal.testing.ToyData`.
        total: how many epochs are planned.
        after_step: called after every step.
    """
    data = ToyData(batches)
    for epoch in epochs:
        context = data.context(epoch, total, engine)
        method.train()
        method.on_train_epoch_start(context)
        for batch in data.epoch():
            method.training_step(batch, engine)
            if after_step is not None:
                after_step()
        method.on_train_epoch_end(context)
        method.on_validation_end(validation_of(method, data.plain, 0.1 * ((epoch * 7) % 5)))


def fitted(method: Method, batches: Sequence[Any]) -> str:
    """The rule in force after ``fit_inference``, on fewer samples than anybody should fit on."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SmallValidationWarning)
        rule: str = method.fit_inference(batches)
    return rule


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
    batches: Sequence[Any] = (),
) -> None:
    """The moment before an epoch, with a loader and validation batches of the samples that are given."""
    data = ToyData(batches) if batches else None
    validation = None if data is None else data.plain
    loader = None if data is None else data.loader
    method.on_train_epoch_start(EpochContext(epoch, epochs, steps, loader, engine, validation))


def sgd(method: nn.Module, lr: float = 0.05, momentum: float = 0.9, **options: Any) -> PlainEngine:
    """Engine with SGD over everything trainable."""
    optimizer = torch.optim.SGD([p for p in method.parameters() if p.requires_grad], lr=lr, momentum=momentum)
    return PlainEngine(optimizer, **options)


def adamw(method: nn.Module, lr: float = 1e-2, **options: Any) -> PlainEngine:
    """Engine with AdamW (weight decay on) over everything trainable."""
    optimizer = torch.optim.AdamW([p for p in method.parameters() if p.requires_grad], lr=lr, weight_decay=0.1)
    return PlainEngine(optimizer, **options)


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
