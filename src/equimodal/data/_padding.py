"""Samples that a distributed sampler repeats, so that all processes have equally many, left out again."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, cast

import torch
from torch.utils.data import DistributedSampler

from equimodal.batch import Batch, tree_tensors


def real_samples(loader: Any) -> int | None:
    """How many of the samples that this process is given are its own; ``None`` where there is no padding.

    Args:
        loader: a ``DataLoader``, perhaps with a distributed sampler that keeps the order.
    """
    sampler = getattr(loader, "sampler", None)
    if not isinstance(sampler, DistributedSampler) or sampler.drop_last or sampler.shuffle:
        return None
    total = len(cast(Any, sampler.dataset))
    return len(range(sampler.rank, total, sampler.num_replicas))


def first_samples(batch: Batch, count: int) -> Batch:
    """The first ``count`` samples of a batch."""
    device = tree_tensors(next(iter(batch.inputs.values())))[0].device
    return batch.select(torch.arange(count, device=device))


class WithoutPadding:
    """The batches of a loader without the samples that are another process's own.

    Args:
        loader: as for :func:`real_samples`.
    """

    def __init__(self, loader: Any) -> None:
        self.dataset = getattr(loader, "dataset", None)  # says which part of a dataset it is
        self._loader = loader

    def __iter__(self) -> Iterator[Batch]:
        left = real_samples(self._loader)
        for raw in self._loader:
            batch = Batch.of(raw)
            count = len(batch) if left is None else min(left, len(batch))
            if count:
                yield batch if count == len(batch) else first_samples(batch, count)
            left = None if left is None else left - count
