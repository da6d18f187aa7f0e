"""The three parts of a dataset as types of their own, so that the test part cannot be used for fitting or choosing."""

from __future__ import annotations

import operator
from abc import ABC
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Self, TypeVar, cast

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset as TorchDataset

from equimodal.batch import Batch, Presence, Tree, tree_map
from equimodal.data._errors import SplitError
from equimodal.data._source import Rows, Source
from equimodal.errors import BatchError, DataError


@dataclass(frozen=True)
class Blocks:
    """Rows that are read at once, as the row groups of a Parquet file.

    Args:
        starts: (B + 1,) sorted; block b has the rows from ``starts[b]`` to ``starts[b + 1]``.
        window: how many blocks are shuffled together.
    """

    starts: Rows
    window: int

    def order(self, rows: Tensor, order: Tensor, generator: torch.Generator) -> Tensor:
        """A random ``order`` (n,) of ``rows`` (n,), block after block.

        The blocks are put in a random order, and ``window`` of them that follow each other are read together; their
        rows keep the order that they have in ``order``.
        """
        count = len(self.starts) - 1
        place = torch.randperm(count, generator=generator).numpy() // self.window
        block = np.searchsorted(self.starts, rows.numpy(), side="right") - 1
        window = place[block].astype(np.uint16 if count < 1 << 16 else np.int64)[order.numpy()]
        return order[torch.from_numpy(np.argsort(window, kind="stable"))]


@dataclass(frozen=True)
class Store:
    """What the splits of one dataset share: prepared inputs, target and presence of all its samples."""

    name: str
    sources: Mapping[str, Source]
    target: Tensor
    classes: tuple[str, ...]
    present: Mapping[str, Tensor]
    size: int
    groups: Mapping[str, Tensor] = field(default_factory=dict)
    """Kind of group -> (size,) number of each sample's group."""
    blocks: Blocks | None = None
    """Rows that are read at once, where a random order over all rows would read everything again and again."""


class Tensors:
    """Samples of one modality that are in memory: a tensor, or any nesting of tensors, samples on the first axis."""

    def __init__(self, values: Tree) -> None:
        self._values = values

    def fetch(self, rows: Tensor) -> Tree:
        """The samples at ``rows``."""
        return tree_map(lambda t: t.index_select(0, rows), self._values)

    def blank(self, count: int) -> Tree:
        """As many samples of zeros."""
        return tree_map(lambda t: t.new_zeros((count, *t.shape[1:])), self._values)


class Split(TorchDataset[dict[str, Any]], ABC):
    """One part of a dataset: a map-style PyTorch dataset that also returns whole batches.

    Users get one from :attr:`Dataset.train`, :attr:`Dataset.validation` or :attr:`Dataset.test`; the three have
    different types on purpose. ``split[i]`` is a mapping with ``inputs``, ``target``, ``index`` and, where something
    can be absent, ``present``; :meth:`batch` and :func:`loader` are the fast way.

    Example:
        >>> from equimodal.data import load_avdigits
        >>> split = load_avdigits().validation
        >>> split.batch([0, 5, 7]).inputs["image"].shape
        torch.Size([3, 1, 8, 8])
    """

    part: ClassVar[str] = ""

    def __init__(self, store: Store, rows: Rows) -> None:
        if not self.part:
            raise SplitError("`Split` is abstract: expected TrainSplit, ValidationSplit or TestSplit.")
        if len(rows) == 0:
            raise DataError(f"{store.name}: split {self.part!r}: expected at least one sample. Found an empty split.")
        self._store = store
        self._rows = torch.from_numpy(np.ascontiguousarray(rows, dtype=np.int64))
        self._sorted = bool((self._rows[1:] > self._rows[:-1]).all())

    @classmethod
    def of(cls, batch: Batch, name: str = "tensors") -> Self:
        """The samples of a batch as a split, for tensors that are in memory already; extras are left out.

        Args:
            batch: with a target. Inputs may be of any form; sample i is row i of the split.
            name: for messages.

        Raises:
            DataError: the batch has no target.

        Example:
            >>> batch = Batch({"audio": torch.zeros(3, 2)}, torch.tensor([0, 1, 1]))
            >>> TrainSplit.of(batch).batch([2, 0]).index
            tensor([2, 0])
        """
        if batch.target is None:
            raise DataError("`batch`: expected one with a target. Found None. Give Batch(inputs, target).")
        sources = cast("Mapping[str, Source]", {m: Tensors(x) for m, x in batch.inputs.items()})
        store = Store(name, sources, batch.target, (), dict(batch.present or {}), len(batch))
        return cls(store, np.arange(len(batch)))

    @property
    def dataset_name(self) -> str:
        """Name of the dataset this split belongs to."""
        return self._store.name

    @property
    def modalities(self) -> tuple[str, ...]:
        """Names of the modalities."""
        return tuple(self._store.sources)

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes; empty when the target is no class."""
        return self._store.classes

    @property
    def rows(self) -> Tensor:
        """(n,) rows of the dataset that form this split; ``Batch.index`` holds such rows."""
        return self._rows.clone()

    def positions(self, index: Tensor) -> Tensor:
        """Positions (0 to len - 1) in this split of rows of the dataset, as ``Batch.index`` holds them; (B,) integers.

        Raises:
            DataError: a row is not in this split.

        Example:
            >>> from equimodal.data import load_avdigits
            >>> split = load_avdigits().validation
            >>> split.positions(split.batch([5, 0]).index)
            tensor([5, 0])
        """
        index = index.cpu()
        if self._sorted:  # of a million rows no table is made for every batch
            found = torch.searchsorted(self._rows, index.long()).clamp_max(len(self) - 1)
            self._refuse_strange(index, self._rows[found] != index)
            return found
        table = torch.full((self._store.size,), -1)
        table[self._rows] = torch.arange(len(self))
        inside = (index >= 0) & (index < len(table))
        found = torch.where(inside, table[index.clamp(0, len(table) - 1)], -1)
        self._refuse_strange(index, found < 0)
        return found

    def _refuse_strange(self, index: Tensor, wrong: Tensor) -> None:
        if bool(wrong.any()):
            raise DataError(f"`index`: expected rows of {self!r}. Found {index[wrong][:5].tolist()}.")

    @property
    def target(self) -> Tensor:
        """(n, ...) targets of this split."""
        return self._target(self._rows)

    @property
    def present(self) -> dict[str, Tensor]:
        """Modality -> boolean (n,), for the modalities that some sample lacks."""
        return {m: mask.index_select(0, self._rows) for m, mask in self._store.present.items()}

    @property
    def class_counts(self) -> dict[str, int]:
        """Samples per class name; empty when the target is no class."""
        if not self.classes or self._store.target.ndim != 1:
            return {}
        counts = torch.bincount(self.target, minlength=len(self.classes)).tolist()
        return dict(zip(self.classes, counts, strict=True))

    @property
    def groups(self) -> dict[str, Tensor]:
        """Kind of group that the protocol names -> (n,) number of each sample's group, in the order of this split.

        Example:
            >>> from equimodal.data import load_avdigits
            >>> sorted(load_avdigits().test.groups)
            ['image', 'speaker']
        """
        return {kind: codes[self._rows] for kind, codes in self._store.groups.items()}

    @property
    def group_labels(self) -> Tensor | None:
        """Number of the group that each row of the dataset is in, by ``Batch.index``; ``None`` without groups.

        Samples of one group (speaker, patient, recording ...) are alike. Of several kinds of groups it is the coarsest
        that tells the samples of this split apart.

        Example:
            >>> from equimodal.data import load_avdigits
            >>> split = load_avdigits().validation
            >>> len(split.group_labels[split.rows].unique()) < len(split)
            True
        """
        counts = {g: len(np.unique(codes[self._rows].numpy())) for g, codes in self._store.groups.items()}
        kinds = [g for g, count in counts.items() if count > 1]
        return self._store.groups[min(kinds, key=lambda g: counts[g])] if kinds else None

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, position: int) -> dict[str, Any]:
        try:
            position = operator.index(position)
        except TypeError as error:
            text = f"position: expected a whole number. Found {position!r}. Of several: split.batch([...])."
            raise TypeError(text) from error
        if not -len(self) <= position < len(self):
            raise IndexError(f"position {position} of a split of {len(self)} samples")
        batch = self.batch([position % len(self)])
        sample: dict[str, Any] = {
            "inputs": {m: tree_map(lambda t: t[0], x) for m, x in batch.inputs.items()},
            "target": batch.target[0] if batch.target is not None else None,
            "index": batch.index[0] if batch.index is not None else None,
        }
        if batch.present is not None:
            sample["present"] = {m: mask[0] for m, mask in batch.present.items()}
        return sample

    def batch(self, positions: Tensor | Sequence[int] | None = None) -> Batch:
        """The samples at ``positions`` (0 to len - 1) of this split as one batch; all of them by default."""
        rows = self._rows if positions is None else self._rows_at(positions)
        store = self._store
        return Batch(
            inputs={m: source.fetch(rows) for m, source in store.sources.items()},
            target=self._target(rows),
            # absence of everything was refused when the dataset was built, so it is not looked for again
            present=Presence({m: mask.index_select(0, rows) for m, mask in store.present.items()})
            if store.present
            else None,
            index=rows,
        )

    def _rows_at(self, positions: Tensor | Sequence[int]) -> Tensor:
        try:
            return self._rows.index_select(0, torch.as_tensor(positions))
        except (TypeError, ValueError, RuntimeError, IndexError) as error:
            raise BatchError(
                f"`positions`: expected whole numbers from 0 to {len(self) - 1}, places in this split of {len(self)} "
                f"samples. Found {str(positions)[:80]}. They count from the beginning of the split; rows of the data "
                "are in `split.rows`."
            ) from error

    def _target(self, rows: Tensor) -> Tensor:
        target = self._store.target.index_select(0, rows)
        return target if target.is_floating_point() else target.long()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.dataset_name!r}, {len(self)} samples)"


class TrainSplit(Split):
    """The samples that parameters are fitted on."""

    part = "train"


class ValidationSplit(Split):
    """The samples that epochs, hyperparameters, temperatures and rules are chosen on."""

    part = "validation"


class TestSplit(Split):
    """The samples that are reported on, once, after every choice is made."""

    __test__ = False  # no pytest class
    part = "test"


S = TypeVar("S", bound=Split)
_WHY = {
    TrainSplit: "Parameters are fitted on training samples only; pass `dataset.train`.",
    ValidationSplit: "Choices are made on validation samples only; pass `dataset.validation`.",
    TestSplit: "Final numbers come from test samples only; pass `dataset.test`.",
}


def require(split: object, kind: type[S], name: str) -> S:
    """``split`` if it is a ``kind``; a loader of this library stands for its split.

    Args:
        split: what the caller passed.
        kind: :class:`TrainSplit`, :class:`ValidationSplit` or :class:`TestSplit`.
        name: the parameter's name, for the message.

    Raises:
        SplitError: (a ``TypeError``) anything else, for example the test split as training data.

    Example:
        >>> from equimodal.data import load_avdigits
        >>> require(load_avdigits().test, TrainSplit, "train")
        Traceback (most recent call last):
            ...
        equimodal.data._errors.SplitError: `train`: expected a TrainSplit. Found TestSplit of 'avdigits'. ...
    """
    found = getattr(split, "split", split)
    if isinstance(found, kind):
        return found
    shown = f"{type(found).__name__} of {found.dataset_name!r}" if isinstance(found, Split) else type(found).__name__
    raise SplitError(f"`{name}`: expected a {kind.__name__}. Found {shown}. {_WHY.get(kind, '')}".rstrip())
