"""Toy batches as a training set: a loader over the same samples, for methods that look at them or plan an epoch."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, cast

import torch
import torch.distributed as dist
from torch import Tensor
from torch.utils import _pytree as pytree

from equimodal.batch import Batch, tree_map
from equimodal.data import Loader, TrainSplit, loader
from equimodal.engine import Engine, is_distributed
from equimodal.methods import EpochContext

_LEAST = 4


class ToyData:
    """What an epoch consists of: the batches as they are, or, where a method has planned, those of its plan.

    The samples are numbered through all batches, and ``index`` of each batch holds these numbers, which are the rows of
    the loader's split. With several processes each gives its part of every batch.

    Args:
        batches: of an epoch; a list is a batch in micro-batches.

    Example:
        >>> from equimodal.testing import toy_batch
        >>> data = ToyData([toy_batch(2, 4), toy_batch(2, 4, seed=1)])
        >>> [batch.index.tolist() for batch in data.epoch()]
        [[0, 1, 2, 3], [4, 5, 6, 7]]
        >>> data.loader.plan(dict.fromkeys(data.loader.split.modalities, [0, 7, 7]))
        >>> [batch.index.tolist() for batch in data.epoch()]
        [[0, 7, 7]]
    """

    def __init__(self, batches: Sequence[Any]) -> None:
        own = [[Batch.of(b) for b in (entry if isinstance(entry, list) else [entry])] for entry in batches]
        rank, processes = (dist.get_rank(), dist.get_world_size()) if is_distributed() else (0, 1)
        self._processes = processes
        every: list[Any] = [own]
        if processes > 1:
            every = [None] * processes
            dist.all_gather_object(every, own)
        order = [  # batch by batch, in it process by process
            (process, entry, part)
            for entry in range(len(own))
            for process in range(processes)
            for part in range(len(every[process][entry]))
        ]
        found = [every[process][entry][part] for process, entry, part in order]
        sizes = [len(batch) for batch in found]
        numbers = torch.split(torch.arange(sum(sizes)), sizes)
        self._entries: list[Any] = []
        for entry, given in enumerate(own):
            parts = [
                replace(batch, index=numbers[order.index((rank, entry, part))].to(_device(batch)))
                for part, batch in enumerate(given)
            ]
            self._entries.append(parts if isinstance(batches[entry], list) else parts[0])
        self._parts = max(len(given) for given in own)
        whole = max(sum(len(b) for process in every for b in process[entry]) for entry in range(len(own)))
        self.plain = [b for entry in self._entries for b in (entry if isinstance(entry, list) else [entry])]
        self.loader: Loader[TrainSplit] = loader(
            TrainSplit.of(joined(found), "toy data"), -(-whole // processes), shuffle=False,
            indices=torch.cat([cast(Tensor, b.index) for b in self.plain]).cpu(),
        )  # fmt: skip

    def context(self, epoch: int = 0, epochs: int | None = None, engine: Engine | None = None) -> EpochContext:
        """All that a method may be given between epochs; the validation samples are those that it trains on."""
        return EpochContext(epoch, epochs, len(self._entries), self.loader, engine, self.plain)  # of whole batches

    def epoch(self) -> list[Any]:
        """The batches of the next epoch; planned ones in as many micro-batches as were given."""
        if not self.loader.planned:
            return list(self._entries)
        # on two processes an incomplete batch of fewer than four rows is left out
        device = _device(self.plain[0])  # the loader's samples are on the host, as a dataset's are
        batches = [batch.to(device) for batch in self.loader]
        planned = [b for b in batches if len(b) * self._processes >= _LEAST] or batches
        return planned if self._parts == 1 else [split(batch, min(self._parts, len(batch))) for batch in planned]


def _device(batch: Batch) -> torch.device:
    return cast(Tensor, batch.target).device


def joined(batches: Sequence[Batch]) -> Batch:
    """Batches as one; a modality that one of them does not have is absent in its rows."""
    models = {m: x for batch in batches for m, x in batch.inputs.items()}
    inputs, present = {}, {}
    for m, model in models.items():
        inputs[m] = _cat([b.inputs[m] if m in b.inputs else _blank(model, len(b)) for b in batches])
        if any(m not in b.inputs or m in (b.present or {}) for b in batches):
            present[m] = torch.cat([_mask(b, m) for b in batches])
    return Batch(inputs, torch.cat([cast(Tensor, b.target) for b in batches]), present or None)


def split(batch: Batch, parts: int) -> list[Batch]:
    """The batch as consecutive micro-batches."""
    edges = [round(i * len(batch) / parts) for i in range(parts + 1)]
    return [batch.select(torch.arange(a, b)) for a, b in itertools.pairwise(edges)]


def _mask(batch: Batch, modality: str) -> Tensor:
    if modality not in batch.inputs:
        return torch.zeros(len(batch), dtype=torch.bool)
    mask = (batch.present or {}).get(modality)
    return torch.ones(len(batch), dtype=torch.bool) if mask is None else mask


def _blank(tree: Any, count: int) -> Any:
    return tree_map(lambda t: t.new_zeros((count, *t.shape[1:])), tree)


def _cat(trees: Sequence[Any]) -> Any:
    leaves, (spec, *_) = zip(*map(pytree.tree_flatten, trees), strict=True)
    return pytree.tree_unflatten([torch.cat(column) for column in zip(*leaves, strict=True)], spec)
