"""A memory over the training set: numbers per sample that all processes agree on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Sized
from typing import Any

import torch
from torch import Tensor

from equimodal._utils.precision import Float32Buffers
from equimodal.engine import SampleValues, gather_rows
from equimodal.errors import DataError, MethodError, did_you_mean
from equimodal.methods._base import EpochContext


class SampleTable(Float32Buffers):
    """One number per training sample and column, found by dataset index, equal on every process.

    A sample that was updated more than once in one call (drawn twice, or on two processes) has the mean of its numbers,
    whatever their order. The table is part of the ``state_dict``, in float32 at least.

    Args:
        columns: names, for example the modalities.
        size: samples that there is room for: the largest dataset index plus one. On a CPU, and with several processes,
            the table grows by itself. On another device alone that would wait for the device in every step: say the
            size, here or by :meth:`reserve` or :meth:`reserve_for`.

    Raises:
        MethodError: no columns, repeated ones, or a text instead of a list of names; (in an update) an unknown column,
            values that are not one number per sample, or no size on a device where the table does not grow.
        DataError: a negative index.

    Attributes:
        values: (N, C), 0 where nothing is known.
        seen: (N, C) booleans, where something is known.

    Example:
        >>> table = SampleTable(["audio", "video"])
        >>> table.update({"audio": SampleValues(torch.tensor([0.5, 1.0, 3.0]), torch.tensor([4, 2, 2]))})
        >>> len(table), table.values[:, 0].tolist(), table.seen.sum(0).tolist()
        (5, [0.0, 0.0, 2.0, 0.0, 0.5], [2, 0])
        >>> table.at(torch.tensor([4, 99]))
        (tensor([[0.5000, 0.0000],
                [0.0000, 0.0000]]), tensor([[ True, False],
                [False, False]]))
    """

    checkpoint_only = True
    """No prediction needs it: files of weights are without it."""
    values: Tensor
    seen: Tensor
    repeats: Tensor

    def __init__(self, columns: Sequence[str], size: int = 0) -> None:
        super().__init__()
        named = [] if isinstance(columns, str) else list(columns)
        if not named or not all(isinstance(c, str) and c for c in named) or len(set(named)) != len(named):
            raise MethodError(f"`columns`: expected a list of different names, at least one. Found {columns!r}.")
        self.columns = tuple(named)
        self.register_buffer("values", torch.zeros(size, len(self.columns)))
        self.register_buffer("seen", torch.zeros(size, len(self.columns), dtype=torch.bool))
        self.register_buffer("repeats", torch.zeros(size, len(self.columns)), persistent=False)  # 0 between updates

    def __len__(self) -> int:
        return len(self.values)

    def reserve(self, size: int) -> None:
        """Make room for samples 0 to ``size - 1``; what is known stays."""
        if size > len(self):
            self._resize(size)

    def reserve_for(self, context: EpochContext) -> None:
        """Make room for the samples of the context's loader, where it tells: a split's, or those of its dataset."""
        loader: Any = context.loader
        for source in (getattr(loader, "split", None), getattr(loader, "dataset", None)):
            rows = getattr(source, "rows", None)
            if isinstance(rows, Tensor) and rows.numel():
                self.reserve(int(rows.max()) + 1)
                return
            if isinstance(source, Sized):
                self.reserve(len(source))
                return

    def _resize(self, size: int) -> None:
        for name in ("values", "seen", "repeats"):
            old: Tensor = getattr(self, name)
            new = old.new_zeros(size, len(self.columns))
            new[: len(old)] = old[:size]
            setattr(self, name, new)

    @torch.no_grad()
    def update(self, rows: Mapping[str, SampleValues | None]) -> None:
        """Replace the numbers of some samples; every process must call it equally often.

        Args:
            rows: column -> numbers of samples of this process, as in ``Descent.rows``; one left out, or ``None``, has
                none here. All micro-batches of a step, or of an epoch, at once.
        """
        unknown = sorted(set(rows) - set(self.columns))
        if unknown:
            raise MethodError(
                f"`rows`: expected some of the columns {list(self.columns)}. Found unknown {unknown}."
                f"{did_you_mean(unknown, self.columns)}"
            )
        places, numbers = [self.seen.new_zeros(0, 2, dtype=torch.int64)], [self.values.new_zeros(0)]
        for column, name in enumerate(self.columns):
            entry = rows.get(name)
            if entry is None:
                continue
            if entry.values.ndim != 1:
                raise MethodError(
                    f"`rows[{name!r}]`: expected one number per sample, (n,). Found {tuple(entry.values.shape)}. Use a "
                    "column for each number."
                )
            index = entry.index.to(self.values.device)
            places.append(torch.stack([index, torch.full_like(index, column)], 1))
            numbers.append(entry.values.to(self.values))
        where, values = gather_rows([torch.cat(places), torch.cat(numbers)])
        if not len(where):
            return
        self._make_room(where[:, 0])
        flat = where[:, 0] * len(self.columns) + where[:, 1]
        repeats = self.repeats.view(-1).index_add_(0, flat, torch.ones_like(values))
        shares = values / repeats.index_select(0, flat)
        repeats.index_fill_(0, flat, 0)
        self.values.view(-1).index_fill_(0, flat, 0).index_add_(0, flat, shares)
        self.seen.view(-1).index_fill_(0, flat, True)

    def _make_room(self, index: Tensor) -> None:
        if index.is_cpu:  # where looking waits for nothing
            least, most = (int(x) for x in torch.stack(index.aminmax()).tolist())
            if least < 0:
                raise DataError(f"`index`: expected dataset indices of at least 0. Found {least}.")
            self.reserve(most + 1)
        elif not len(self):
            raise MethodError(
                f"`size`: expected the number of samples, as the table does not grow on {index.device}. Found 0. Call "
                "table.reserve_for(context) in on_train_epoch_start, or SampleTable(columns, size=len(dataset))."
            )

    def at(self, index: Tensor) -> tuple[Tensor, Tensor]:
        """Values and whether they are known, each (n, C), of the samples with these indices.

        Args:
            index: (n,), for example of :func:`~equimodal.engine.sample_index`; one that the table has no room for is
                not known.
        """
        if not len(self):
            empty = self.values.new_zeros(len(index), len(self.columns))
            return empty, empty.bool()
        inside = (index >= 0) & (index < len(self))
        position = torch.where(inside, index, 0)
        seen = self.seen[position] & inside[:, None]
        return torch.where(seen, self.values[position], 0), seen

    def bounds(self, column: int, now: Tensor, index: Tensor) -> tuple[Tensor, Tensor]:
        """Least and greatest number of a column once the samples with these indices have other ones; 0 of no sample.

        Args:
            column: its position.
            now: (n,), their new numbers.
            index: (n,), whose they are.
        """
        values, seen = self.values[:, column], self.seen[:, column]
        place = torch.where((index >= 0) & (index < len(seen)), index, len(seen))
        other = torch.cat([seen, seen.new_zeros(1)]).index_fill_(0, place, False)[:-1]
        least = torch.cat([now, torch.where(other, values, torch.inf)])
        most = torch.cat([now, torch.where(other, values, -torch.inf)])
        return (least.amin(), most.amax()) if len(least) else (now.sum(), now.sum())

    def _load_from_state_dict(self, state_dict: Mapping[str, Any], prefix: str, *arguments: Any) -> None:
        """Take the size of what is loaded, too."""
        stored = state_dict.get(f"{prefix}values")
        if isinstance(stored, Tensor) and stored.ndim == 2:
            self._resize(len(stored))
        super()._load_from_state_dict(state_dict, prefix, *arguments)
