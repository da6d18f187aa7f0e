"""Processes that prepare batches ahead, and stay from epoch to epoch."""

from __future__ import annotations

import contextlib
import traceback
from collections.abc import Iterator
from typing import Any

from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from equimodal.batch import Batch
from equimodal.data._cuts import Cuts
from equimodal.data._plan import Plan, PlannedRows, planned_batch
from equimodal.data._splits import Split
from equimodal.data.augment import Bound
from equimodal.errors import EquimodalError

Order = tuple[int, int, int, Tensor | PlannedRows]
"""Number of the batch, number for its augmentation, epoch, and what it is made of."""


class Orders:
    """What the batches of an epoch are made of, one after the other; each is said when it is asked for.

    Args:
        cuts: positions, or rows of the plan, of every batch.
        plan: of the epoch, if it has one.
        epoch: its number.
        start: the first batch that is wanted.
        share: this process, and how many share the batches. They share their seed, too, but not the random numbers of
            an augmentation.
    """

    def __init__(self, cuts: Cuts, plan: Plan | None, epoch: int, start: int, share: tuple[int, int]) -> None:
        self._cuts, self._plan, self._epoch, self._share = cuts, plan, epoch, share
        self.numbers = range(start, len(cuts))

    def __len__(self) -> int:
        return len(self.numbers)

    def __iter__(self) -> Iterator[Order]:
        rank, processes = self._share
        for number in self.numbers:
            chosen = self._cuts[number]
            what = chosen if self._plan is None else PlannedRows.of(self._plan, chosen)
            yield number, number * processes + rank, self._epoch, what


class OrderedBatches(Dataset[Batch]):
    """Item ``order`` is the batch of these samples, checked; module-level so that worker processes can receive it."""

    def __init__(self, split: Split, augment: Bound | None, seed: int) -> None:
        self._split, self._augment, self._seed = split, augment, seed

    def __getitem__(self, order: Order) -> Batch:
        number, drawn, epoch, what = order
        batch = planned_batch(self._split, what) if isinstance(what, PlannedRows) else self._split.batch(what)
        batch.check_finite(number)
        return batch if self._augment is None else self._augment(batch, self._seed, epoch, drawn)


class _Attempts(Dataset[Batch | EquimodalError]):
    """Batches, or why there is none: PyTorch would make its own message of an error in a worker process."""

    def __init__(self, source: OrderedBatches) -> None:
        self._source = source

    def __getitem__(self, order: Order) -> Batch | EquimodalError:
        try:
            return self._source[order]
        except EquimodalError as error:
            if error.__cause__ is not None:  # which stays in this process
                error.add_note("".join(traceback.format_exception(error.__cause__)))
            return error


class _Now:
    """The orders of the running epoch, where the processes look for them."""

    def __init__(self) -> None:
        self.orders: Orders | tuple[()] = ()

    def __iter__(self) -> Iterator[Order]:
        return iter(self.orders)

    def __len__(self) -> int:
        return len(self.orders)


class Workers:
    """Worker processes of one loader; they start with the first epoch that uses them.

    A second pass inside a running one (a method that looks at its training samples) prepares its batches in place.
    """

    def __init__(self) -> None:
        self._loader: DataLoader[Batch | EquimodalError] | None = None
        self._now = _Now()
        self._busy = False

    @contextlib.contextmanager
    def batches(self, source: OrderedBatches, orders: Orders, count: int, pinned: bool) -> Iterator[Iterator[Batch]]:
        """The batches of ``orders``, one after the other."""
        if self._busy or not count or not orders:
            yield (source[order] for order in orders)
            return
        if self._loader is None:
            sampler: Any = self._now
            self._loader = DataLoader(
                _Attempts(source), batch_size=None, sampler=sampler, num_workers=count, persistent_workers=True,
                pin_memory=pinned,
            )  # fmt: skip
        self._busy, self._now.orders = True, orders
        try:
            yield self._counted(iter(self._loader), len(orders))
        except BaseException:
            if self._busy:  # what is still on its way belongs to no later pass
                self._loader = None
            raise
        finally:
            self._busy = False

    def _counted(self, batches: Iterator[Batch | EquimodalError], count: int) -> Iterator[Batch]:
        """The batches; whoever takes the last one need not ask for more."""
        for number, batch in enumerate(batches, 1):
            if isinstance(batch, EquimodalError):
                raise batch
            self._busy = number < count
            yield batch

    def __reduce__(self) -> tuple[Any, ...]:
        return Workers, ()  # processes cannot be copied; a copy starts its own
