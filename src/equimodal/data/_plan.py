"""The plan of an epoch: which sample each modality of each row is from, and which rows may share a batch."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from equimodal.batch import Batch, Presence, Tree, tree_map
from equimodal.data._cuts import Cuts, bounds, shuffled
from equimodal.data._source import Source
from equimodal.data._splits import Split
from equimodal.engine import is_distributed
from equimodal.errors import DataError, EquimodalError, unknown_name

Positions = Tensor | Sequence[int]
_SHOWN = 5
_LEAST = 2  # fewest samples of an incomplete batch: batch normalisation cannot train on one


@dataclass(frozen=True)
class Plan:
    """The rows of an epoch, checked; made by :meth:`Loader.plan`.

    Args:
        rows: modality -> (n,) positions in the split; -1 where the row lacks the modality.
        target: (n,) positions whose target counts.
        groups: (n,) numbers of groups, or ``None``.
        blocks: the batches of a group follow each other.
        processes: how many processes share the rows.
    """

    rows: Mapping[str, Tensor]
    target: Tensor
    groups: Tensor | None
    blocks: bool
    processes: int

    def __len__(self) -> int:
        return len(self.target)

    @cached_property
    def masked(self) -> frozenset[str]:
        """Modalities that some row lacks."""
        return frozenset(m for m, positions in self.rows.items() if bool((positions < 0).any()))

    def batches(
        self, size: int, drop_last: bool, generator: torch.Generator | None, rank: int = 0, split: Split | None = None
    ) -> Cuts:
        """Rows of each batch of this process, as many batches on each.

        The rows are shuffled together; a batch of ``size`` on each of P processes is a run of ``size * P`` rows (of one
        group), of which every process takes each P-th. An incomplete batch is left out if ``drop_last``, or if a
        process would get fewer than two of its rows and there are other batches.

        Args:
            size: rows per batch and process.
            drop_last: leave out incomplete batches.
            generator: shuffles rows and batches; ``None`` keeps the order of the rows, group after group.
            rank: number of this process.
            split: whose samples are meant; where they are read in blocks, rows follow the blocks of their targets.
        """
        order = torch.arange(len(self)) if generator is None else shuffled(len(self), generator).long()
        if generator is not None and split is not None and split._store.blocks is not None:
            order = split._store.blocks.order(split._rows[self.target], order, generator)
        if self.groups is not None:
            order = order[self.groups[order].argsort(stable=True)]
        starts, stops = self._bounds(size, drop_last)
        if generator is not None and self.groups is not None and not self.blocks:
            mixed = torch.randperm(len(starts), generator=generator)
            starts, stops = starts[mixed], stops[mixed]
        return Cuts(order, starts, stops, (rank, self.processes))

    def count(self, size: int, drop_last: bool) -> int:
        """How many batches :meth:`batches` has."""
        return len(self._bounds(size, drop_last)[0])

    def _bounds(self, size: int, drop_last: bool) -> tuple[Tensor, Tensor]:
        """Where batches begin and end in the rows, group after group."""
        sizes = torch.tensor([len(self)])
        if self.groups is not None:
            sizes = torch.unique(self.groups, return_counts=True)[1]
        whole = size * self.processes
        starts, stops = bounds(sizes, whole)
        lengths = stops - starts
        kept = lengths == whole
        if not drop_last:
            kept |= lengths // self.processes >= _LEAST
            kept = kept if bool(kept.any()) else lengths >= self.processes  # single samples are all there is
        return starts[kept], stops[kept]

    def state_dict(self) -> dict[str, Any]:
        """Tensors and plain values, for a checkpoint."""
        return {"rows": dict(self.rows), "target": self.target, "groups": self.groups, "blocks": self.blocks,
                "processes": self.processes}  # fmt: skip

    def digest(self, settings: object) -> str:
        """Equal for equal plans of loaders with equal ``settings``."""
        tensors = [*self.rows.values(), self.target, *(() if self.groups is None else (self.groups,))]
        known = hashlib.sha256(repr((list(self.rows), self.groups is None, self.blocks, settings)).encode())
        for tensor in tensors:
            known.update(tensor.numpy().tobytes())
        return known.hexdigest()


def checked(
    split: Split,
    rows: Mapping[str, Positions],
    target: Positions | None,
    groups: Positions | None,
    blocks: bool,
    processes: int,
) -> Plan:
    """A plan whose rows can be made of the samples of ``split``.

    Raises:
        DataError: see :meth:`Loader.plan`.
        UnknownNameError: ``rows`` names a modality that the data do not have.
    """
    if not isinstance(rows, Mapping):
        raise DataError(f"`rows`: expected modality -> positions. Found {type(rows).__name__}.")
    for name in rows:
        if name not in split.modalities:
            raise unknown_name("modality in `rows`", name, split.modalities)
    left_out = [m for m in split.modalities if m not in rows]
    if left_out:
        raise DataError(
            f"`rows`: expected positions for every modality, {list(split.modalities)}. Found none for {left_out}. "
            "Where a row shall lack a modality, give -1."
        )
    known = {m: _positions(f"rows[{m!r}]", rows[m], -1, len(split) - 1, repr(split)) for m in split.modalities}
    sizes = {m: len(p) for m, p in known.items()}
    if len(set(sizes.values())) != 1:
        raise DataError(f"`rows`: expected equally many positions for each modality. Found {sizes}.")
    count = next(iter(sizes.values()))
    if count == 0:
        raise DataError("`rows`: expected at least one row. Found none.")
    _refuse_empty(split, known)
    targets = _one_sample(known) if target is None else _positions("target", target, 0, len(split) - 1, repr(split))
    numbers = None if groups is None else _integers("groups", groups)
    for name, values in (("target", targets), ("groups", numbers)):
        if values is not None and len(values) != count:
            raise DataError(f"`{name}`: expected {count} entries, one per row. Found {len(values)}.")
    return Plan(known, targets, numbers, bool(blocks), processes)


def plan_of(
    split: Split,
    positions: Tensor,
    settings: object,
    rows: Mapping[str, Positions],
    target: Positions | None,
    groups: Positions | None,
    blocks: bool,
) -> Plan:
    """A plan for a loader over ``positions``, the same one on every process.

    Args:
        split: whose samples are meant.
        positions: those of this process's loader.
        settings: what else the batches depend on; equal on every process.
        rows: see :meth:`Loader.plan`.
        target: the same.
        groups: the same.
        blocks: the same.

    Raises:
        DataError: see :meth:`Loader.plan`; raised on every process if it is on one.
    """
    processes = dist.get_world_size() if is_distributed() else 1
    plan: Plan | None = None
    failure: EquimodalError | None = None
    try:
        plan = checked(split, rows, target, groups, blocks, processes)
    except EquimodalError as error:
        failure = error
    if processes > 1:  # also where this process has failed: the others wait
        positions = _of_all_processes(None if plan is None else plan.digest(settings), positions, processes, failure)
    if plan is None:
        raise failure or DataError("`rows`: expected a plan.")
    for name, own in (*((f"rows[{m!r}]", p) for m, p in plan.rows.items()), ("target", plan.target)):
        strange = own[~torch.isin(own, positions) & (own >= 0)]
        if len(strange):
            raise DataError(
                f"`{name}`: expected positions among the {len(positions)} that the loader was made of (`indices`). "
                f"Found {strange[:_SHOWN].tolist()}."
            )
    return plan


def _of_all_processes(digest: str | None, positions: Tensor, processes: int, failure: EquimodalError | None) -> Tensor:
    """The samples of all processes' loaders; refuses plans that differ and loaders that overlap."""
    every: list[Any] = [None] * processes
    dist.all_gather_object(every, (digest, positions.numpy()))
    if failure is not None:
        raise failure
    digests = {other for other, _ in every}
    if None in digests:
        raise DataError("`rows`: the plan was refused on another process; the reason is in its error.")
    if len(digests) > 1:
        raise DataError(
            "`rows`: expected the same plan, batch size, seed and order on every process. Found different ones. Make "
            "the plan from statistics that are summed over processes (engine.all_sum) and from a seed of your own."
        )
    joined = torch.cat([torch.from_numpy(own) for _, own in every])
    if len(torch.unique(joined)) != len(joined):
        raise DataError(
            "`rows`: expected loaders of different samples on every process, which share the plan. Found samples that "
            "several have. Make each with indices=range(rank, n, processes)."
        )
    return joined


def _integers(name: str, values: Positions) -> Tensor:
    try:
        found = torch.as_tensor(values)
    except (TypeError, ValueError, RuntimeError) as error:
        raise DataError(f"`{name}`: expected integers, one per row. Found {type(values).__name__}.") from error
    if found.ndim != 1 or (found.numel() and (found.is_floating_point() or found.dtype == torch.bool)):
        raise DataError(f"`{name}`: expected integers (n,), one per row. Found {found.dtype} {tuple(found.shape)}.")
    return found.detach().to("cpu", torch.int64, copy=True)


def _positions(name: str, values: Positions, least: int, most: int, shown: str) -> Tensor:
    found = _integers(name, values)
    outside = ((found < least) | (found > most)).nonzero()[:, 0]
    if len(outside):
        absent = " or -1 (absent)" if least < 0 else ""
        raise DataError(
            f"`{name}`: expected positions 0 to {most} in {shown}{absent}. Found {found[outside][:_SHOWN].tolist()} in "
            f"rows {outside[:_SHOWN].tolist()}."
        )
    return found


def _refuse_empty(split: Split, rows: Mapping[str, Tensor]) -> None:
    """Refuse a row whose samples have nothing: every modality is -1, or absent in the data."""
    present = split.present
    there = [
        (p >= 0) & (present[m][p.clamp_min(0)] if m in present else torch.ones_like(p, dtype=torch.bool))
        for m, p in rows.items()
    ]
    empty = (~torch.stack(there).any(0)).nonzero()[:, 0]
    if len(empty):
        raise DataError(
            f"`rows`: expected at least one modality in every row. Found {len(empty)} row(s) without any, first "
            f"{empty[:_SHOWN].tolist()}: each modality is -1, or absent in the sample. Leave these rows out."
        )


def _one_sample(rows: Mapping[str, Tensor]) -> Tensor:
    """(n,) the sample that all modalities of a row are from."""
    table = torch.stack(list(rows.values()))
    most = table.amax(0)
    mixed = ((table >= 0) & (table != most)).any(0).nonzero()[:, 0]
    if len(mixed):
        raise DataError(
            "`target`: expected positions (n,) whose targets count, because modalities of one row are from different "
            f"samples. Found None, with {len(mixed)} such row(s), first {mixed[:_SHOWN].tolist()}."
        )
    return most


@dataclass(frozen=True)
class PlannedRows:
    """The rows of one batch of a plan.

    Args:
        rows: modality -> (B,) positions in the split; -1 where the row lacks the modality.
        target: (B,) positions whose target counts.
        masked: modalities that some row of the plan lacks, so that every batch has a mask for them.
    """

    rows: Mapping[str, Tensor]
    target: Tensor
    masked: frozenset[str]

    @classmethod
    def of(cls, plan: Plan, chosen: Tensor) -> PlannedRows:
        """The ``chosen`` (B,) rows of a plan."""
        rows = {m: positions.index_select(0, chosen) for m, positions in plan.rows.items()}
        return cls(rows, plan.target.index_select(0, chosen), plan.masked)


def planned_batch(split: Split, chosen: PlannedRows) -> Batch:
    """Some rows of a plan as one batch; ``index`` is of the samples whose targets count."""
    store = split._store
    inputs: dict[str, Tree] = {}
    masks: dict[str, Tensor] = {}
    for m, source in store.sources.items():
        positions = chosen.rows[m]
        there = positions >= 0
        samples = split._rows.index_select(0, positions.clamp_min(0))
        if m in store.present:
            masks[m] = there & store.present[m].index_select(0, samples)
        elif m in chosen.masked:
            masks[m] = there
        inputs[m] = _fetched(source, samples, there)
    index = split._rows.index_select(0, chosen.target)
    # rows without anything were refused when the plan was made
    return Batch(inputs, split._target(index), Presence(masks) if masks else None, index)


def _fetched(source: Source, samples: Tensor, there: Tensor) -> Tree:
    """The samples that are there, and zeros in the other rows: what nobody reads is not loaded."""
    if bool(there.all()):
        return source.fetch(samples)
    where = there.nonzero()[:, 0]
    if not len(where):
        return source.blank(len(samples))
    loaded = source.fetch(samples.index_select(0, where))
    return tree_map(lambda t: t.new_zeros((len(samples), *t.shape[1:])).index_copy_(0, where, t), loaded)
