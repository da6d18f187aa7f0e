"""Processes that prepare batches ahead, and stay from epoch to epoch."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from equimodal.batch import Batch
from equimodal.data._splits import Split
from equimodal.data.augment import Bound

Order = tuple[int, int, int, Tensor]
"""Number of the batch, number for its augmentation, epoch, positions of its samples."""


class OrderedBatches(Dataset[Batch]):
    """Item ``order`` is the batch of these samples, checked; module-level so that worker processes can receive it."""

    def __init__(self, split: Split, augment: Bound | None, seed: int) -> None:
        self._split, self._augment, self._seed = split, augment, seed

    def __getitem__(self, order: Order) -> Batch:
        number, drawn, epoch, positions = order
        batch = self._split.batch(positions)
        batch.check_finite(number)
        return batch if self._augment is None else self._augment(batch, self._seed, epoch, drawn)


class _Orders:
    """What the batches of the running epoch are made of."""

    def __init__(self) -> None:
        self.now: Sequence[Order] = ()

    def __iter__(self) -> Iterator[Order]:
        return iter(self.now)

    def __len__(self) -> int:
        return len(self.now)


class Workers:
    """Worker processes of one loader; they start with the first epoch that uses them.

    A second pass inside a running one (a method that looks at its training samples) prepares its batches in place.
    """

    def __init__(self) -> None:
        self._loader: DataLoader[Batch] | None = None
        self._orders = _Orders()
        self._busy = False

    @contextlib.contextmanager
    def batches(
        self, source: OrderedBatches, orders: Sequence[Order], count: int, pinned: bool
    ) -> Iterator[Iterator[Batch]]:
        """The batches of ``orders``, one after the other."""
        if self._busy or not count or not orders:
            yield (source[order] for order in orders)
            return
        if self._loader is None:
            sampler: Any = self._orders
            self._loader = DataLoader(
                source, batch_size=None, sampler=sampler, num_workers=count, persistent_workers=True, pin_memory=pinned
            )
        self._busy, self._orders.now = True, list(orders)
        try:
            yield self._counted(iter(self._loader), len(orders))
        except BaseException:
            if self._busy:  # what is still on its way belongs to no later pass
                self._loader = None
            raise
        finally:
            self._busy = False

    def _counted(self, batches: Iterator[Batch], count: int) -> Iterator[Batch]:
        """The batches; whoever takes the last one need not ask for more."""
        for number, batch in enumerate(batches, 1):
            self._busy = number < count
            yield batch

    def __reduce__(self) -> tuple[Any, ...]:
        return Workers, ()  # processes cannot be copied; a copy starts its own
