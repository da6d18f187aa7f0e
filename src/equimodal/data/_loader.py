"""Batches of a split: whole-batch indexing, seeded order or a plan per epoch, a position that can be stored."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Generic, TypeVar

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from equimodal.batch import Batch
from equimodal.data._cuts import Cuts, shuffled
from equimodal.data._plan import Plan, Positions, checked, plan_of
from equimodal.data._splits import Split, TrainSplit, require
from equimodal.data._workers import OrderedBatches, Orders, Workers
from equimodal.data.augment import Augmentation
from equimodal.engine import is_distributed
from equimodal.errors import DataError

S = TypeVar("S", bound=Split)


class Loader(Generic[S]):
    """An iterable of :class:`Batch` over one split; made by :func:`loader`.

    The order of epoch e depends on ``seed`` and e alone. Iterating over it completely moves on to the next epoch;
    :meth:`set_epoch` chooses one, :meth:`plan` says what an epoch of training consists of. ``state_dict`` says which
    batch comes next, so a run that was interrupted in the middle of an epoch continues with the very batch it would
    have seen.
    """

    def __init__(
        self, split: S, batch_size: int, shuffle: bool, seed: int, drop_last: bool, num_workers: int, positions: Tensor,
        augment: Augmentation | None = None, pin_memory: bool = False, share: tuple[int, int] = (0, 1),
    ) -> None:  # fmt: skip
        self.split = split
        self.batch_size = batch_size
        self.shuffle = shuffle
        self.seed = seed
        self.drop_last = drop_last
        self.num_workers = num_workers
        self.augment = augment
        self._bound = None if augment is None else augment.bind(split)
        self.pin_memory = pin_memory
        self._workers = Workers()
        self._rank, self._processes = share
        self._positions = positions
        # batch normalisation cannot train on one sample, so a training epoch leaves a single remaining one out
        alone = not isinstance(split, TrainSplit)
        self._length = _count(len(positions), batch_size * self._processes, drop_last, alone)
        self._epoch = 0
        self._next = 0
        self._resume = 0
        self._plan: Plan | None = None  # of the epoch that `_next` is in
        self._next_plan: Plan | None = None  # of the epoch that starts next

    def __len__(self) -> int:
        plan = self._plan if self._resume else self._next_plan
        return self._length if plan is None else plan.count(self.batch_size, self.drop_last)

    @property
    def epoch(self) -> int:
        """The epoch of the batch that comes next."""
        return self._epoch

    def set_epoch(self, epoch: int) -> None:
        """Choose the order of epoch ``epoch``; a resumed position is kept only if it is in that epoch."""
        if epoch != self._epoch:
            self._epoch, self._next, self._resume = epoch, 0, 0

    def plan(
        self,
        rows: Mapping[str, Positions] | None,
        target: Positions | None = None,
        groups: Positions | None = None,
        *,
        blocks: bool = False,
    ) -> None:
        """Say what every epoch consists of from the next one on, until the next plan.

        Row i of an epoch has modality m of the sample at ``rows[m][i]``, so an epoch may repeat samples, leave some
        out, take modalities away or put modalities of different samples together. Rows are shuffled and cut into
        batches as samples are. ``Batch.index`` is of the samples whose targets count. A running epoch is not changed.

        Several processes give the same plan and share it: of a batch of ``batch_size`` on each of P processes, every
        process reads each P-th row, also of samples outside its ``indices``. An incomplete batch is left out if one of
        them would get fewer than two rows.

        Args:
            rows: modality -> (n,) positions in the split, -1 where the row lacks the modality, which then is not read
                and is ``present=False``. ``None`` takes the plan back.
            target: (n,) positions whose targets count. Default: those of the rows, where all modalities of a row are
                from one sample; otherwise it is required.
            groups: (n,) numbers; a batch has rows of one group only. A last row that would be alone in its batch is
                left out.
            blocks: all batches of a group follow each other, lowest number first; otherwise batches are shuffled.

        Raises:
            SplitError: the split is not for training.
            DataError: positions out of range or not among ``indices``, different lengths, a row without any modality,
                no batch at all, or processes whose plans differ or whose loaders share samples.
            UnknownNameError: no such modality.

        Example:
            >>> from equimodal.data import load_avdigits, loader
            >>> batches = loader(load_avdigits().train, 4)
            >>> batches.plan({"image": [0, 1, 2, 3, 3], "audio": [0, 1, -1, -1, 3]}, groups=[0, 0, 1, 1, 0])
            >>> sorted(batch.present["audio"].tolist() for batch in batches)
            [[False, False], [True, True, True]]
        """
        if rows is None:
            if target is not None or groups is not None:
                raise DataError("`target`, `groups`: expected None with `rows=None`, which takes the plan back.")
            self._next_plan = None
            return
        require(self.split, TrainSplit, "plan")
        settings = (self.batch_size, self.shuffle, self.seed, self.drop_last)
        plan = plan_of(self.split, self._own, settings, rows, target, groups, blocks)
        if not plan.count(self.batch_size, self.drop_last):
            short = "of one group, with `drop_last`" if self.drop_last else "for each process"
            raise DataError(f"`rows`: expected enough rows for a batch {short}. Found {len(plan)} rows.")
        self._next_plan = plan

    @property
    def planned(self) -> bool:
        """Whether epochs follow a plan from the next one on."""
        return self._next_plan is not None

    def full_pass(self) -> Loader[S]:
        """A loader of every sample once, in order: not shuffled, augmented or planned; this one stays where it is.

        For methods that look at their training samples between epochs. With several processes: of this one's samples.
        """
        other = Loader(self.split, self.batch_size, False, self.seed, False, self.num_workers, self._own)
        other._length = _count(len(self._own), self.batch_size, drop_last=False, alone=True)
        other.pin_memory, other._workers = self.pin_memory, self._workers
        return other

    @property
    def shared(self) -> bool:
        """Whether several processes share the batches."""
        return self._processes > 1

    @property
    def _own(self) -> Tensor:
        """Positions of this process, of those that share them all."""
        return self._positions[self._rank :: self._processes]

    def order(self, epoch: int) -> Tensor:
        """(n,) positions in the split in the order of ``epoch``, without a plan."""
        if not self.shuffle:
            return self._positions
        return self._positions[self._shuffled(epoch).long()]

    def _shuffled(self, epoch: int) -> Tensor:
        """(n,) places in the positions, in the order of ``epoch``."""
        generator, blocks = self._generator(epoch), self.split._store.blocks
        order = shuffled(len(self._positions), generator)
        return order if blocks is None else blocks.order(self.split._rows[self._positions], order, generator)

    def _generator(self, epoch: int) -> torch.Generator:
        # two numbers are mixed into one seed, so that (seed 0, epoch 1) differs from (seed 1, epoch 0)
        state = np.random.SeedSequence([self.seed, epoch]).generate_state(1, np.uint64)[0]
        return torch.Generator().manual_seed(int(state) >> 1)

    def __iter__(self) -> Iterator[Batch]:
        epoch, start = self._epoch, self._resume
        self._resume = 0
        if not start:
            self._plan = self._next_plan
        cuts, share = self._cuts(epoch)
        orders = Orders(cuts, self._plan, epoch, start, share)
        source = OrderedBatches(self.split, self._bound, self.seed)
        with self._workers.batches(source, orders, self.num_workers, self.pin_memory) as batches:
            for n, batch in zip(orders.numbers, batches, strict=True):
                self._epoch, self._next = (epoch, n + 1) if n + 1 < len(cuts) else (epoch + 1, 0)
                yield batch.pin_memory() if self.pin_memory and not self.num_workers else batch

    def _cuts(self, epoch: int) -> tuple[Cuts, tuple[int, int]]:
        """Positions (or rows of the plan) of each batch; this process, and how many share the batches."""
        if self._plan is not None:
            rank = dist.get_rank() if self._plan.processes > 1 else 0
            generator = self._generator(epoch) if self.shuffle else None
            cuts = self._plan.batches(self.batch_size, self.drop_last, generator, rank, self.split)
            return cuts, (rank, self._plan.processes)
        count, share = len(self._positions), (self._rank, self._processes)
        whole = self.batch_size * self._processes
        starts = torch.arange(self._length) * whole
        order = self._shuffled(epoch) if self.shuffle else torch.arange(count)
        return Cuts(order, starts, (starts + whole).clamp_max(count), share, self._positions), share

    def state_dict(self) -> dict[str, Any]:
        """Which batch comes next, with what the order depends on: plain numbers, and the tensors of a plan."""
        state = {"epoch": self._epoch, "position": self._next, **self._identity()}
        plan = self._plan if self._next else self._next_plan
        if plan is not None:
            state["plan"] = plan.state_dict()
        if self._next_plan is not plan:
            state["next_plan"] = None if self._next_plan is None else self._next_plan.state_dict()
        return state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from :meth:`state_dict` of a loader over the same samples with the same batch size, order and seed.

        The batch size is that of all processes that share batches: one process with 64 samples continues as two with
        32 each. Without ``shared`` each process has samples of its own, and another number of them is refused.

        Raises:
            DataError: the state is of a loader with other settings, so its position means other samples.
        """
        own, known = _joint(self._identity()), {"epoch", "position", *_joint(self._identity())}
        if set(state) - {"plan", "next_plan", "processes"} != known:
            raise DataError(f"`state`: expected the keys {sorted(known)}. Found {sorted(state)}.")
        stored = _joint(state)
        differing = {k: (own[k], stored[k]) for k in own if stored[k] != own[k]}
        if differing:
            shown = ", ".join(f"{k} {mine!r} (stored: {other!r})" for k, (mine, other) in differing.items())
            raise DataError(f"`state`: expected the position of an equal loader. Found other settings: {shown}.")
        plan = self._stored(state.get("plan"))
        next_plan = self._stored(state["next_plan"]) if "next_plan" in state else plan
        self._plan, self._next_plan = plan, next_plan
        self._epoch, self._next = int(state["epoch"]), int(state["position"])
        self._resume = self._next

    def _stored(self, state: Mapping[str, Any] | None) -> Plan | None:
        """The plan of a checkpoint, checked as a new one."""
        if state is None:
            return None
        if set(state) != {"rows", "target", "groups", "blocks", "processes"}:
            raise DataError(f"`state`: expected a plan as `state_dict` writes it. Found the entries {sorted(state)}.")
        processes = dist.get_world_size() if is_distributed() else 1
        if state["processes"] != processes:
            raise DataError(
                f"`state`: expected a plan shared by {processes} process(es). Found one of {state['processes']}. "
                "Continue with as many processes as before."
            )
        return checked(self.split, **state)

    def _identity(self) -> dict[str, Any]:
        blocks = self.split._store.blocks
        return {
            "samples": len(self._positions),
            "batch_size": self.batch_size,
            "shuffle": self.shuffle,
            "seed": self.seed,
            "batches": self._length,
            **({"processes": self._processes} if self.shared else {}),
            **({} if blocks is None else {"blocks": len(blocks.starts) - 1, "window": blocks.window}),
            **({} if self.augment is None else {"augment": self.augment.plain()}),
        }

    def __repr__(self) -> str:
        planned = "" if self._next_plan is None else f", plan of {len(self._next_plan)} rows"
        return f"Loader({self.split!r}, batch_size={self.batch_size}, {len(self)} batches{planned})"


def _joint(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings with the batch size of all processes that share batches."""
    joint = {k: v for k, v in settings.items() if k != "processes"}
    return {**joint, "batch_size": settings["batch_size"] * settings.get("processes", 1)}


def _count(samples: int, size: int, drop_last: bool, alone: bool) -> int:
    """How many batches ``samples`` make; a single remaining one is a batch of its own if it may be ``alone``."""
    whole, rest = divmod(samples, size)
    lone = rest == 1 and whole > 0 and not alone
    return whole + (rest > 0 and not drop_last and not lone)


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
    pin_memory: bool = False,
    shared: bool = False,
) -> Loader[S]:
    """A :class:`Loader` over ``split``: batches by whole-array indexing, checked for NaN and infinity.

    Args:
        split: a part of a dataset.
        batch_size: samples per batch.
        shuffle: a new order each epoch; by default for the training split only.
        seed: with the epoch, decides the order; no global random state is touched.
        drop_last: leave out an incomplete last batch. A training epoch leaves out a last batch of ONE sample in any
            case (batch normalisation cannot train on it), unless it is the only batch.
        num_workers: processes that prepare batches ahead and stay from epoch to epoch; 0 prepares them in place, which
            is best for data in memory.
        indices: positions in the split (0 to len - 1) to use; all by default.
        augment: augmentations of a training split: modality -> operations (:mod:`equimodal.data.augment`). Their random
            numbers depend on ``seed``, the epoch and the number of the batch alone.
        pin_memory: batches in page-locked memory, from which copies to an accelerator need not be waited for.
        shared: with P processes, each reads every P-th sample of batches of ``batch_size`` P samples, which are those
            that one process would read in batches of this size. On one process it changes nothing.

    Raises:
        DataError: a batch size below 1, positions out of range, no batch at all, an augmentation that does not fit, or
            ``shared`` with an incomplete batch that has less than two samples for a process.
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
    share = (dist.get_rank(), dist.get_world_size()) if shared and is_distributed() else (0, 1)
    made = Loader(
        split, batch_size, shuffled, seed, drop_last, num_workers, positions, changed, pin_memory, share
    )  # fmt: skip
    if made.shared and not drop_last:
        rest = len(positions) % (batch_size * share[1])
        if 0 < rest < 2 * share[1]:
            raise DataError(
                f"`batch_size`: expected a last batch with at least two samples for each of {share[1]} processes. "
                f"Found {rest}. Choose another batch size, or drop_last."
            )
    if len(made) == 0:
        raise DataError(
            f"`batch_size`: expected at most {len(positions)}, the number of samples, with `drop_last`. Found "
            f"{batch_size}."
        )
    return made
