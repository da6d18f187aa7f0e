"""What travels through a step: inputs per modality, target, presence, sample index and side information."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from equimodal._utils.shapes import line_up
from equimodal.errors import BatchError, NonFiniteError, did_you_mean

Tree = Any
"""A tensor, or any nesting of dicts, lists and tuples of tensors, with samples on the first axis."""


class Tokens(NamedTuple):
    """A sequence of vectors per sample, some of which may be padding.

    Args:
        values: (B, T, d).
        mask: (B, T) boolean, ``True`` where there is a real token. Values elsewhere are never used.

    Example:
        >>> Tokens.full(torch.zeros(2, 5, 3)).mask.shape
        torch.Size([2, 5])
    """

    values: Tensor
    mask: Tensor

    @classmethod
    def full(cls, values: Tensor) -> Tokens:
        """Every token of ``values`` (B, T, d) is real."""
        return cls(values, torch.ones(values.shape[:2], dtype=torch.bool, device=values.device))

    @classmethod
    def of_lengths(cls, values: Tensor, lengths: Tensor) -> Tokens:
        """The first ``lengths[b]`` tokens of sample b are real; ``lengths`` is (B,) integers."""
        position = torch.arange(values.shape[1], device=values.device)
        return cls(values, position < lengths.to(values.device)[:, None])


def tree_map(function: Callable[[Tensor], Any], tree: Tree) -> Tree:
    """Apply ``function`` to every tensor of ``tree``; other leaves stay as they are."""
    if isinstance(tree, Tensor):  # the common case, without the cost of flattening
        return function(tree)
    return pytree.tree_map(lambda leaf: function(leaf) if isinstance(leaf, Tensor) else leaf, tree)


def keep_rows(tree: Tree, mask: Tensor) -> Tree:
    """``tree`` with zeros (for masks of tokens: nothing) in the rows outside ``mask`` (B,)."""

    def kept(t: Tensor) -> Tensor:
        rows = line_up(mask, t)  # ONNX Runtime has no `where` of booleans
        return t & rows if t.dtype == torch.bool else torch.where(rows, t, torch.zeros_like(t))

    return tree_map(kept, tree)


def tree_tensors(tree: Tree) -> list[Tensor]:
    """The tensors of ``tree`` in a fixed order."""
    if isinstance(tree, Tensor):
        return [tree]
    return [leaf for leaf in pytree.tree_leaves(tree) if isinstance(leaf, Tensor)]


def batch_size_of(tree: Tree, name: str) -> int:
    """Number of samples of ``tree``; raises when its tensors disagree or there is none."""
    tensors = tree_tensors(tree)
    if not tensors:
        raise BatchError(f"`{name}`: expected a tensor or a nesting of tensors. Found {type(tree).__name__}.")
    sizes = {int(t.shape[0]) if t.ndim else -1 for t in tensors}
    if len(sizes) != 1 or -1 in sizes:
        shapes = [tuple(t.shape) for t in tensors]
        raise BatchError(f"`{name}`: expected tensors that share their first (sample) axis. Found shapes {shapes}.")
    return sizes.pop()


class Presence(Mapping[str, Tensor]):
    """Which samples have which modality: one boolean per sample and modality, and the row indices of the present ones.

    The rows are computed once, where the batch is collated on the host, so that gathering by them needs no device
    synchronisation in a training step. A modality without an entry is present in every sample.

    Args:
        masks: modality -> boolean tensor (B,). Must not leave a sample without any modality if ``modalities`` is given.
        modalities: all modality names of the batch; used to find samples without any modality.
        index: (B,) dataset indices, only used to name samples in errors.

    Raises:
        BatchError: a mask is no boolean vector, lengths differ, or a sample has no modality at all.

    Example:
        >>> presence = Presence({"audio": torch.tensor([True, False, True])})
        >>> presence.rows("audio"), presence.rows("video"), presence.count("audio")
        (tensor([0, 2]), None, 2)
    """

    def __init__(
        self, masks: Mapping[str, Tensor], modalities: Sequence[str] | None = None, index: Tensor | None = None
    ) -> None:
        self._masks: dict[str, Tensor] = {}
        self._rows: dict[str, Tensor | None] = {}
        size: int | None = None
        for name, mask in masks.items():
            if not isinstance(mask, Tensor) or mask.dtype != torch.bool or mask.ndim != 1:
                found = f"{mask.dtype} {tuple(mask.shape)}" if isinstance(mask, Tensor) else type(mask).__name__
                raise BatchError(f"`present[{name!r}]`: expected a boolean tensor of shape (B,). Found {found}.")
            if size is not None and mask.shape[0] != size:
                raise BatchError(f"`present[{name!r}]`: expected {size} samples as in the others. Found {len(mask)}.")
            size = int(mask.shape[0])
            rows = mask.nonzero(as_tuple=True)[0]
            self._masks[name] = mask
            self._rows[name] = None if rows.shape[0] == size else rows
        if modalities is not None and self._masks and set(modalities) <= set(self._masks):
            some = torch.stack([self._masks[m] for m in modalities]).any(0)
            if not bool(some.all()):
                bad = (~some).nonzero()[:, 0]
                name = "dataset index" if index is not None else "batch row"
                where = (index[bad] if index is not None else bad)[:8].tolist()
                raise BatchError(
                    f"`present`: expected at least one modality per sample. Found none for {name} {where}. "
                    "Remove these samples or mark one of their modalities as present."
                )

    @classmethod
    def of(cls, present: Mapping[str, Tensor] | None, modalities: Sequence[str] | None = None) -> Presence | None:
        """``present`` as a :class:`Presence`; one that already is comes back unchanged."""
        if present is None or isinstance(present, Presence):
            return present
        return cls(present, modalities)

    def __getitem__(self, modality: str) -> Tensor:
        return self._masks[modality]

    def __iter__(self) -> Iterator[str]:
        return iter(self._masks)

    def __len__(self) -> int:
        return len(self._masks)

    def rows(self, modality: str) -> Tensor | None:
        """Row indices of the samples that have ``modality``; ``None`` when all have it."""
        return self._rows.get(modality)

    def count(self, modality: str, batch_size: int | None = None) -> int:
        """How many samples have ``modality`` (a host number: no synchronisation)."""
        rows = self._rows.get(modality)
        if rows is not None:
            return int(rows.shape[0])
        mask = self._masks.get(modality)
        if mask is not None:
            return int(mask.shape[0])
        if batch_size is None:
            raise BatchError(f"`batch_size` is needed to count modality {modality!r}, which has no presence mask.")
        return batch_size

    def _map(self, function: Callable[[Tensor], Tensor]) -> Presence:
        new = object.__new__(Presence)
        new._masks = {m: function(t) for m, t in self._masks.items()}
        new._rows = {m: None if r is None else function(r) for m, r in self._rows.items()}
        return new


@dataclass(frozen=True)
class Batch:
    """Inputs, target, presence, index and side information of B samples.

    Args:
        inputs: modality -> tensor or nesting of tensors, samples on the first axis.
        target: tensor (B, ...) or ``None`` at prediction time.
        present: modality -> boolean (B,); ``None`` means that every sample has every modality. Content of absent
            rows is never read, so it may be NaN.
        index: (B,) indices into the dataset, for methods with a memory per sample and for error messages.
        extras: name -> tensor (B, ...), side information that travels with the samples: a weight per sample, what a
            method draws in ``prepare``. The model is not given it.

    Raises:
        BatchError: sample counts differ, ``present`` names an unknown modality, a sample has no modality, or an entry
            of ``extras`` is no tensor.

    Example:
        >>> batch = Batch({"audio": torch.zeros(2, 5), "video": torch.zeros(2, 3)}, torch.tensor([0, 1]))
        >>> len(batch), batch.modalities
        (2, ('audio', 'video'))
        >>> batch.with_extras(weight=torch.tensor([0.5, 2.0])).select(torch.tensor([1])).extras
        {'weight': tensor([2.])}
    """

    inputs: Mapping[str, Tree]
    target: Tensor | None = None
    present: Mapping[str, Tensor] | None = None
    index: Tensor | None = None
    extras: Mapping[str, Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not isinstance(self.inputs, Mapping) or not self.inputs:
            raise BatchError(
                "`inputs`: expected a mapping from modality name to tensors with at least one entry. "
                f"Found {type(self.inputs).__name__} of length "
                f"{len(self.inputs) if hasattr(self.inputs, '__len__') else 0}."
            )
        sizes = {f"inputs[{m!r}]": batch_size_of(x, f"inputs[{m!r}]") for m, x in self.inputs.items()}
        for name, tensor in (("target", self.target), ("index", self.index)):
            if tensor is not None:
                sizes[name] = batch_size_of(tensor, name)
        if not isinstance(self.extras, Mapping):
            raise BatchError(
                f"`extras`: expected a mapping from names to tensors (B, ...). Found {type(self.extras).__name__}."
            )
        for name, tensor in self.extras.items():
            if not isinstance(tensor, Tensor) or not tensor.ndim:
                kind = "a tensor without axes" if isinstance(tensor, Tensor) else type(tensor).__name__
                raise BatchError(f"`extras[{name!r}]`: expected a tensor of shape (B, ...). Found {kind}.")
            sizes[f"extras[{name!r}]"] = int(tensor.shape[0])
        if self.present is not None:
            unknown = sorted(set(self.present) - set(self.inputs))
            if unknown:
                raise BatchError(
                    f"`present`: expected the modalities of `inputs` {sorted(self.inputs)}. Found unknown {unknown}."
                    f"{did_you_mean(unknown, self.inputs)}"
                )
            if not isinstance(self.present, Presence):
                object.__setattr__(self, "present", Presence(self.present, tuple(self.inputs), self.index))
            sizes |= {f"present[{m!r}]": int(mask.shape[0]) for m, mask in self.present.items()}
        if len(set(sizes.values())) != 1:
            raise BatchError(f"Expected the same number of samples everywhere. Found {sizes}.")
        if next(iter(sizes.values())) == 0:
            raise BatchError("`inputs`: expected at least one sample. Found an empty batch.")

    @classmethod
    def of(cls, batch: Batch | Mapping[str, Any] | Sequence[Any]) -> Batch:
        """Accept what loaders usually yield.

        A :class:`Batch`, a mapping with the keys ``inputs``, ``target`` and optionally ``present``, ``index`` and
        ``extras``, or a pair ``(inputs, target)``.
        """
        if isinstance(batch, Batch):
            return batch
        if isinstance(batch, Mapping):
            unknown = sorted(set(batch) - {"inputs", "target", "present", "index", "extras"})
            if unknown or "inputs" not in batch:
                raise BatchError(
                    "`batch`: expected the keys inputs, target and optionally present, index, extras. "
                    f"Found {sorted(map(str, batch))}. Wrap yours as Batch(inputs={{...}}, target=...)."
                )
            return cls(**batch)
        if isinstance(batch, (tuple, list)) and len(batch) == 2 and isinstance(batch[0], Mapping):
            return cls(batch[0], cast(Tensor, batch[1]))
        raise BatchError(
            f"`batch`: expected a Batch, a mapping or a pair (inputs, target). Found {type(batch).__name__}."
        )

    def __len__(self) -> int:
        for tree in self.inputs.values():
            return int((tree if isinstance(tree, Tensor) else tree_tensors(tree)[0]).size(0))
        return 0

    @property
    def modalities(self) -> tuple[str, ...]:
        """Names of the modalities, in the order of ``inputs``."""
        return tuple(self.inputs)

    @property
    def presence(self) -> Presence | None:
        """``present`` with its row indices."""
        return cast("Presence | None", self.present)

    def rows(self, modality: str) -> Tensor | None:
        """Row indices of the samples that have ``modality``; ``None`` when all have it."""
        return None if self.present is None else cast(Presence, self.present).rows(modality)

    def count(self, modality: str) -> int:
        """How many samples have ``modality``."""
        rows = self.rows(modality)
        return len(self) if rows is None else int(rows.shape[0])

    def only(self, modality: str) -> Batch | None:
        """The samples that have ``modality``, with this input alone; ``None`` when no sample has it."""
        if modality not in self.inputs:
            raise BatchError(
                f"`modality`: expected one of {list(self.inputs)}. Found {modality!r}."
                f"{did_you_mean(modality, self.inputs)}"
            )
        rows = self.rows(modality)
        alone = self._like(inputs={modality: self.inputs[modality]}, present=None)
        if rows is None:
            return alone
        return alone.select(rows) if rows.shape[0] else None

    def select(self, rows: Tensor) -> Batch:
        """The samples at ``rows``, (n,) integers on the device of the batch; extras travel with their samples."""
        selected: Callable[[Tensor], Tensor] = lambda t: t.index_select(0, rows)  # noqa: E731
        return replace(
            self,
            inputs={m: tree_map(selected, x) for m, x in self.inputs.items()},
            target=None if self.target is None else selected(self.target),
            present=None if self.present is None else {m: selected(mask) for m, mask in self.present.items()},
            index=None if self.index is None else selected(self.index),
            extras={name: selected(t) for name, t in self.extras.items()},
        )

    def _like(self, **changes: Any) -> Batch:
        """A copy with fields that need no check, as they are parts of this batch."""
        if torch.compiler.is_compiling():  # a compiler follows constructors only
            return replace(self, **changes)
        new = object.__new__(type(self))
        new.__dict__.update(self.__dict__, **changes)
        return new

    def with_extras(self, **extras: Tensor) -> Batch:
        """The batch with further side information; entries of equal names are replaced."""
        return replace(self, extras={**self.extras, **extras})

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Batch:
        """The batch on ``device``; itself where it is there already."""
        place = torch.device(device)
        tensors = [t for x in self.inputs.values() for t in tree_tensors(x)]
        tensors += [t for t in (self.target, self.index, *self.extras.values()) if t is not None]
        if self.present is None and all(t.device == place for t in tensors):
            return self
        return self._map(lambda t: t.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> Batch:
        """The batch in page-locked memory (called by ``DataLoader(pin_memory=True)``)."""
        return self._map(lambda t: t.pin_memory())

    def _map(self, function: Callable[[Tensor], Tensor]) -> Batch:
        return replace(
            self,
            inputs={m: tree_map(function, x) for m, x in self.inputs.items()},
            target=None if self.target is None else function(self.target),
            present=None if self.presence is None else self.presence._map(function),
            index=None if self.index is None else function(self.index),
            extras={name: function(t) for name, t in self.extras.items()},
        )

    def check_finite(self, batch_number: int | None = None) -> Batch:
        """Raise :class:`NonFiniteError` if a PRESENT input or the target holds NaN or infinity; else return the batch.

        Meant for the host, where batches are collated; on a CUDA device it synchronises.
        """
        where = "" if batch_number is None else f" of batch {batch_number}"
        for modality in self.inputs:
            rows = self.rows(modality)
            _raise_if_not_finite(f"inputs[{modality!r}]{where}", self.inputs[modality], rows, self.index)
        if self.target is not None:
            _raise_if_not_finite(f"target{where}", self.target, None, self.index)
        return self


def _raise_if_not_finite(name: str, tree: Tree, rows: Tensor | None, index: Tensor | None) -> None:
    if isinstance(tree, Tokens):  # what stands in the padding is never used
        tree = torch.where(line_up(tree.mask, tree.values), tree.values, 0) if tree.values.is_floating_point() else ()
    for tensor in tree_tensors(tree):
        if not tensor.is_floating_point():
            continue
        values = tensor if rows is None else tensor.index_select(0, rows)
        # a finite sum has finite terms, and is quicker than a look at each; a sum may be infinite without any
        if bool(torch.isfinite(values.sum())) or bool(torch.isfinite(values).all()):
            continue
        bad = (~torch.isfinite(values.flatten(1) if values.ndim > 1 else values[:, None])).any(1).nonzero()[:, 0]
        bad = bad if rows is None else rows[bad]
        kind = "dataset indices" if index is not None else "batch rows"
        samples = (bad if index is None else index[bad])[:5].tolist()
        raise NonFiniteError(
            f"`{name}`: expected finite numbers. Found NaN or infinity in {len(bad)} sample(s), first {kind} "
            f"{samples}. "
            "Clean these samples, or mark this modality as absent for them with `present`."
        )
