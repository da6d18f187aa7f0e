"""Samples of one modality: raw array, pair index, transforms, and standardisation by the training rows."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from equimodal._utils.shapes import line_up
from equimodal.batch import Tokens, Tree
from equimodal.data._card import ModalityCard
from equimodal.data._rows import rows_of
from equimodal.data._transforms import apply, reduction_axes
from equimodal.errors import DataError, NonFiniteError

Array = npt.NDArray[Any]
Rows = npt.NDArray[np.int64]

_CHUNK = 1 << 22  # numbers per piece when a pass over the data is made; 16 MB as float32
_IN_MEMORY = 1 << 28  # numbers above which prepared arrays are not kept; 1 GiB as float32


class Source:
    """Prepared samples of one modality, addressed by rows of the dataset.

    Args:
        card: the modality's entry of the card.
        array: raw samples (K, ...).
        index: rows of ``array`` for each sample of the dataset (N,), or ``None`` when K = N.
        mapped: the array lives on disk, so that samples are prepared when they are asked for.
        mask: (N, T) booleans, ``True`` at the real steps of a sequence or tokens; ``None``: every step is real.
    """

    def __init__(
        self, card: ModalityCard, array: Array, index: Rows | None, mapped: bool, mask: Array | None = None
    ) -> None:
        self.card = card
        self._raw = array
        self._index = index
        self._ready: Tensor | None = None
        self._mean: Array | None = None
        self._scale: Array | None = None
        self._mask = None if mask is None else torch.from_numpy(np.array(mask, dtype=np.bool_))
        self.shape = tuple(int(n) for n in self._prepare(slice(0, 1)).shape[1:])
        if not mapped and self.shape and len(array) * int(np.prod(self.shape)) <= _IN_MEMORY:
            self._ready = torch.from_numpy(np.ascontiguousarray(self._prepare(slice(None))))
            if not self._ready.numel() or np.shares_memory(self._ready.numpy(), array):
                self._ready = self._ready.clone()  # standardisation works in place

    def __getstate__(self) -> dict[str, Any]:
        """The state for another process; an array on disk is opened there again instead of being copied."""
        state = dict(self.__dict__)
        if isinstance(self._raw, np.memmap):
            state["_raw"] = str(self._raw.filename)
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__ |= state
        if isinstance(state["_raw"], str):
            self._raw = np.load(state["_raw"], mmap_mode="r", allow_pickle=False)

    @property
    def dtype(self) -> str:
        """Type of the prepared samples."""
        return "int64" if self.card.kind == "tokens" else "float32"

    def _prepare(self, rows: Rows | slice) -> Array:
        chosen = rows_of(self._raw, rows)
        # an index array makes a copy, a slice does not
        return apply(self.card.transforms, chosen, self.card.kind == "tokens", own=isinstance(rows, np.ndarray))

    def statistics(self) -> tuple[Array, Array]:
        """Mean and 1 / deviation by which samples are standardised, in float32; 0 and 1 where they are not."""
        if self._mean is None or self._scale is None:
            return np.zeros(1, np.float32), np.ones(1, np.float32)
        return self._mean.copy(), self._scale.copy()

    def standardise(self, train: Rows, present: npt.NDArray[np.bool_] | None) -> None:
        """Standardise every sample with the mean and deviation of the present training rows."""
        if self.card.standardise == "none":
            return
        rows = train if present is None else train[present[train]]
        if len(rows) == 0:
            raise DataError(
                f"modality {self.card.name!r}: expected training samples that have it, for the statistics of "
                f"`standardise: {self.card.standardise}`. Found none."
            )
        mean, variance = self._moments(rows)
        deviation = np.sqrt(variance)
        # a constant feature carries nothing; dividing by its rounding error would blow it up
        deviation[deviation <= 1e-6 * np.maximum(np.abs(mean), 1e-6)] = 1.0
        self._mean, self._scale = mean.astype(np.float32), (1.0 / deviation).astype(np.float32)
        if self._ready is not None:
            self._ready.sub_(torch.from_numpy(self._mean)).mul_(torch.from_numpy(self._scale))

    def _moments(self, rows: Rows) -> tuple[Array, Array]:
        """Mean and variance over ``rows`` in float64, merged piece by piece (Chan et al. 1979, equation 2.1)."""
        axes = reduction_axes(self.card.standardise, self.shape)
        count, mean, scatter = 0, np.zeros(1), np.zeros(1)
        for piece, values in self._pieces(rows):
            real = None if self._mask is None else self._mask.numpy()[piece]
            if real is not None:  # padding says nothing about the data, and may hold anything
                values = np.where(real[..., None], values, np.float32(0))
            if not np.isfinite(values).all():
                bad = piece[~np.isfinite(values.reshape(len(values), -1)).all(1)]
                raise NonFiniteError(
                    f"modality {self.card.name!r}: expected finite numbers after `transforms` in the training split. "
                    f"Found NaN or infinity, first dataset indices {bad[:5].tolist()}. "
                    "Clean these samples, or mark this modality as absent for them with `present`."
                )
            wide = (values if real is None else values[real][:, None]).astype(np.float64)
            if not len(wide):
                continue
            new_mean = wide.mean(axes, keepdims=True)[0]
            new_scatter = np.square(wide - new_mean).sum(axes, keepdims=True)[0]
            new = wide.size // new_mean.size
            total, delta = count + new, new_mean - mean
            mean = mean + delta * (new / total)
            scatter = scatter + new_scatter + np.square(delta) * (count * new / total)
            count = total
        if not count:
            raise DataError(
                f"modality {self.card.name!r}: expected real steps in the training split. Found padding only."
            )
        return mean, scatter / count

    def _pieces(self, rows: Rows) -> Iterator[tuple[Rows, Array]]:
        step = max(1, _CHUNK // max(1, int(np.prod(self.shape))))
        for start in range(0, len(rows), step):
            piece = rows[start : start + step]
            own = piece if self._index is None else self._index[piece]
            yield piece, self._prepare(own) if self._ready is None else self._ready.numpy()[own]

    def add_noise(self, deviation: float, generator: np.random.Generator) -> None:
        """Add Gaussian noise, drawn once per stored sample, to samples that are kept in memory."""
        if self._ready is None:
            raise DataError(
                f"modality {self.card.name!r}: expected samples in memory for the noise. Found mapped ones."
            )
        drawn = generator.standard_normal(tuple(self._ready.shape), dtype=np.float32)
        self._ready.add_(torch.from_numpy(drawn), alpha=deviation)

    def fetch(self, rows: Tensor) -> Tree:
        """Prepared samples (B, ...) of the dataset's ``rows`` (B,); a sequence with a mask as :class:`Tokens`."""
        values = self._values(rows)
        if self._mask is None:
            return values
        mask = self._mask.index_select(0, rows)
        return Tokens(values.masked_fill(~line_up(mask, values), 0), mask)

    def blank(self, count: int) -> Tree:
        """``count`` rows of what :meth:`fetch` returns, with nothing in them: zeros, and no real step."""
        values = torch.zeros((count, *self.shape), dtype=getattr(torch, self.dtype))
        return values if self._mask is None else Tokens(values, self._mask.new_zeros((count, *self._mask.shape[1:])))

    def _values(self, rows: Tensor) -> Tensor:
        own = rows if self._index is None else torch.from_numpy(self._index[rows.numpy()])
        if self._ready is not None:
            return self._ready.index_select(0, own)
        values = self._prepare(own.numpy())
        if self._mean is not None and self._scale is not None:
            values -= self._mean
            values *= self._scale
        return torch.from_numpy(np.ascontiguousarray(values))
