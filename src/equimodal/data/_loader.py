"""Batches of a split: whole-batch indexing, seeded order per epoch, a position that can be stored and resumed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Generic, TypeVar

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from equimodal.batch import Batch
from equimodal.data._splits import Split, TrainSplit
from equimodal.data.augment import Augmentation, Bound
from equimodal.errors import DataError

S = TypeVar("S", bound=Split)


class Loader(Generic[S]):
    """An iterable of :class:`Batch` over one split; made by :func:`loader`.

    The order of epoch e depends on ``seed`` and e alone. Iterating over it completely moves on to the next epoch;
    :meth:`set_epoch` chooses one. ``state_dict`` says which batch comes next, so a run that was interrupted in
    the middle of an epoch continues with the very batch it would have seen.
    """

    def __init__(
        self, split: S, batch_size: int, shuffle: bool, seed: int, drop_last: bool, num_workers: int, positions: Tensor,
        augment: Augmentation | None = None,
    ) -> None:  # fmt: skip
        self.split = split
        self.batch_size = batch_size
        self.shuffle = shuffle
        self.seed = seed
        self.num_workers = num_workers
        self.augment = augment
        self._bound = None if augment is None else augment.bind(split)
        self._positions = positions
        whole, rest = divmod(len(positions), batch_size)
        # batch normalisation cannot train on one sample, so a training epoch leaves a single remaining one out
        lone = rest == 1 and whole > 0 and isinstance(split, TrainSplit)
        self._length = whole + (rest > 0 and not drop_last and not lone)
        self._epoch = 0
        self._next = 0
        self._resume = 0

    def __len__(self) -> int:
        return self._length

    @property
    def epoch(self) -> int:
        """The epoch of the batch that comes next."""
        return self._epoch

    def set_epoch(self, epoch: int) -> None:
        """Choose the order of epoch ``epoch``; a resumed position is kept only if it is in that epoch."""
        if epoch != self._epoch:
            self._epoch, self._next, self._resume = epoch, 0, 0

    def order(self, epoch: int) -> Tensor:
        """(n,) positions in the split in the order of ``epoch``."""
        if not self.shuffle:
            return self._positions
        # two numbers are mixed into one seed, so that (seed 0, epoch 1) differs from (seed 1, epoch 0)
        state = np.random.SeedSequence([self.seed, epoch]).generate_state(1, np.uint64)[0]
        generator = torch.Generator().manual_seed(int(state) >> 1)
        return self._positions[torch.randperm(len(self._positions), generator=generator)]

    def __iter__(self) -> Iterator[Batch]:
        epoch, start = self._epoch, self._resume
        self._resume = 0
        order = self.order(epoch)
        size = self.batch_size
        work = [(n, order[n * size : (n + 1) * size]) for n in range(start, self._length)]
        view = _Batches(self.split, work, self._bound, self.seed, epoch)
        # batches are made whole, hence batch_size=None: the workers only run `view`
        batches = (
            DataLoader(view, batch_size=None, num_workers=self.num_workers) if self.num_workers and work else iter(view)
        )
        for n, batch in zip(range(start, self._length), batches, strict=True):
            self._epoch, self._next = (epoch, n + 1) if n + 1 < self._length else (epoch + 1, 0)
            yield batch

    def state_dict(self) -> dict[str, Any]:
        """Which batch comes next (plain numbers), with what the order depends on."""
        return {"epoch": self._epoch, "position": self._next, **self._identity()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from :meth:`state_dict` of a loader over the same samples with the same batch size, order and seed.

        Raises:
            DataError: the state is of a loader with other settings, so its position means other samples.
        """
        own = self._identity()
        if set(state) != {"epoch", "position", *own}:
            raise DataError(f"`state`: expected the keys {sorted({'epoch', 'position', *own})}. Found {sorted(state)}.")
        differing = {k: (own[k], state[k]) for k in own if state[k] != own[k]}
        if differing:
            shown = ", ".join(f"{k} {mine!r} (stored: {stored!r})" for k, (mine, stored) in differing.items())
            raise DataError(f"`state`: expected the position of an equal loader. Found other settings: {shown}.")
        self._epoch, self._next = int(state["epoch"]), int(state["position"])
        self._resume = self._next

    def _identity(self) -> dict[str, Any]:
        return {
            "samples": len(self._positions),
            "batch_size": self.batch_size,
            "shuffle": self.shuffle,
            "seed": self.seed,
            "batches": self._length,
            **({} if self.augment is None else {"augment": self.augment.plain()}),
        }

    def __repr__(self) -> str:
        return f"Loader({self.split!r}, batch_size={self.batch_size}, {len(self)} batches)"


class _Batches(Dataset[Batch]):
    """Item i is the i-th batch, checked; module-level so that worker processes can receive it."""

    def __init__(
        self, split: Split, work: list[tuple[int, Tensor]], augment: Bound | None, seed: int, epoch: int
    ) -> None:
        self._split = split
        self._work = work
        self._augment = augment
        self._seed, self._epoch = seed, epoch

    def __len__(self) -> int:
        return len(self._work)

    def __getitem__(self, item: int) -> Batch:
        number, positions = self._work[item]
        batch = self._split.batch(positions).check_finite(number)
        return batch if self._augment is None else self._augment(batch, self._seed, self._epoch, number)

    def __iter__(self) -> Iterator[Batch]:
        return (self[i] for i in range(len(self)))


def loader(
    split: S,
    batch_size: int,
    *,
    shuffle: bool | None = None,
    seed: int = 0,
    drop_last: bool = False,
    num_workers: int = 0,
    indices: Tensor | Sequence[int] | None = None,
    augment: Augmentation | Mapping[str, Any] | None = None,
) -> Loader[S]:
    """A :class:`Loader` over ``split``: batches by whole-array indexing, checked for NaN and infinity.

    Args:
        split: a part of a dataset.
        batch_size: samples per batch.
        shuffle: a new order each epoch; by default for the training split only.
        seed: with the epoch, decides the order; no global random state is touched.
        drop_last: leave out an incomplete last batch. A training epoch leaves out a last batch of ONE sample in any
            case (batch normalisation cannot train on it), unless it is the only batch.
        num_workers: processes that prepare batches ahead; 0 prepares them in place, which is best for data in memory.
        indices: positions in the split (0 to len - 1) to use; all by default.
        augment: augmentations of a training split: modality -> operations (:mod:`equimodal.data.augment`). Their random
            numbers depend on ``seed``, the epoch and the number of the batch alone.

    Raises:
        DataError: a batch size below 1, positions out of range, no batch at all, or an augmentation that does not fit.
        SplitError: augmentation of a split that is not for training.
        NonFiniteError: while iterating: NaN or infinity in a present input, with the batch number and sample indices.

    Example:
        >>> from equimodal.data import load_avdigits
        >>> batches = loader(load_avdigits().train, 64, seed=3)
        >>> batch = next(iter(batches))
        >>> len(batch), batch.modalities
        (64, ('image', 'audio'))
    """
    for name, value, least in (("batch_size", batch_size, 1), ("num_workers", num_workers, 0), ("seed", seed, 0)):
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise DataError(f"`{name}`: expected a whole number of at least {least}. Found {value!r}.")
    if not isinstance(split, Split):
        raise DataError(f"`split`: expected a part of a dataset, as dataset.train. Found {type(split).__name__}.")
    positions = torch.arange(len(split)) if indices is None else torch.as_tensor(indices, dtype=torch.int64)
    if positions.ndim != 1 or len(positions) == 0:
        raise DataError(f"`indices`: expected at least one position. Found shape {tuple(positions.shape)}.")
    if int(positions.min()) < 0 or int(positions.max()) >= len(split):
        raise DataError(
            f"`indices`: expected positions 0 to {len(split) - 1} in {split!r}. "
            f"Found {int(positions.min())} to {int(positions.max())}."
        )
    shuffled = isinstance(split, TrainSplit) if shuffle is None else shuffle
    changed = Augmentation.of(augment) if augment else None
    made = Loader(split, batch_size, shuffled, seed, drop_last, num_workers, positions, changed)
    if len(made) == 0:
        raise DataError(
            f"`batch_size`: expected at most {len(positions)}, the number of samples, with `drop_last`. Found "
            f"{batch_size}."
        )
    return made
