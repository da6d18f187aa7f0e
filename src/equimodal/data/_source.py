"""Samples of one modality: raw array, pair index, transforms, and standardisation by the training rows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from equimodal._utils.shapes import line_up
from equimodal.batch import Tokens, Tree
from equimodal.data._card import ModalityCard, Part
from equimodal.data._precision import is_wide, lost_in_float32
from equimodal.data._rows import rows_of
from equimodal.data._transforms import apply, reduction_axes
from equimodal.errors import DataError, NonFiniteError

Array = npt.NDArray[Any]
Rows = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]

_SPLIT: Mapping[Part, str] = {"train": "training", "validation": "validation", "test": "test"}
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
        # the mean in two parts, one of them a sample, so that subtracting it is exact far from 0
        self._origin, self._rest = np.zeros(1), np.zeros(1)
        self._scale: Array | None = None
        self._mask = None if mask is None else torch.from_numpy(np.array(mask, dtype=np.bool_))
        # numbers that float32 rounds stay in float64 until their mean is subtracted
        self._type = np.dtype(np.int64 if card.kind == "tokens" else np.float64 if is_wide(array) else np.float32)
        self._mapped = mapped
        self.shape = tuple(int(n) for n in self._prepare(slice(0, 1)).shape[1:])
        self._small = bool(self.shape) and len(array) * int(np.prod(self.shape)) <= _IN_MEMORY

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
        return apply(self.card.transforms, chosen, self._type, own=isinstance(rows, np.ndarray))

    def statistics(self) -> tuple[Array, Array]:
        """Mean and 1 / deviation by which samples are standardised, in float64; 0 and 1 where they are not."""
        if self._scale is None:
            return np.zeros(1), np.ones(1)
        return self._origin + self._rest, self._scale.copy()

    def settle(self, parts: Mapping[Part, Rows], present: npt.NDArray[np.bool_] | None) -> None:
        """Check the samples of all parts, standardise by the training rows, and keep what fits into memory.

        Raises:
            NonFiniteError: NaN or infinity in a present sample of a part.
            DataError: token ids that are no whole numbers from 0; numbers that float32 cannot tell apart; no training
                sample has the modality.
        """
        own = {part: rows if present is None else rows[present[rows]] for part, rows in parts.items()}
        # of arrays on disk that are too large, what is not standardised is looked at when a batch asks for it
        if self._small or self.card.standardise != "none":
            for part, rows in own.items():
                self._check(part, rows)
        if self.card.standardise != "none":
            self._standardise(own["train"])
        elif self._small and self._type == np.float64:
            self._check_precision(own["train"])
        if self._small and not self._mapped:
            self._ready = torch.from_numpy(np.empty((len(self._raw), *self.shape), self.dtype))
            step = max(1, _CHUNK // max(1, int(np.prod(self.shape))))
            for start in range(0, len(self._raw), step):
                piece = slice(start, start + step)
                self._ready.numpy()[piece] = self._finish(self._prepare(piece), own=False)
            if self._type == np.float64:
                self._check_range(np.concatenate(list(own.values())))

    def _check(self, part: Part, rows: Rows) -> None:
        """Refuse samples that no training could use, and name them."""
        source = self._raw.dtype.kind
        if source not in "fiu" or (source != "f" and self.card.kind != "tokens" and not self.card.transforms):
            return
        for piece, values, real in self._pieces(rows, plain=self.card.kind == "tokens"):
            self._refuse(part, piece, values, real)

    def _refuse(self, part: Part, piece: Rows, values: Array, real: Mask | None) -> None:
        """Refuse a piece with numbers that cannot be used."""
        wrong = self._wrong(values, real)
        if not wrong.any():
            return
        bad = piece[wrong.reshape(len(wrong), -1).any(1)]
        if self.card.kind == "tokens":
            raise DataError(
                f"modality {self.card.name!r}: expected token ids, whole numbers from 0. Found "
                f"{np.unique(values[wrong])[:3].tolist()} in the {_SPLIT[part]} split, first dataset indices "
                f"{bad[:5].tolist()}. Give ids of a vocabulary; quantities are a `vector` or a `sequence`."
            )
        raise NonFiniteError(
            f"modality {self.card.name!r}: expected finite numbers after `transforms` in the {_SPLIT[part]} split. "
            f"Found NaN or infinity, first dataset indices {bad[:5].tolist()}{self._places(wrong)}. Fill them "
            "(a gap in one feature for example with the feature's mean over the training samples), leave these "
            "samples out, or, where all of the modality is missing, mark it as absent for them with `present`."
        )

    def _wrong(self, values: Array, real: Mask | None) -> Array:
        """Which of the numbers cannot be used; padding may hold anything."""
        if self.card.kind == "tokens":
            limit = np.iinfo(np.int64).max
            wrong = np.asarray((values < 0) | (values > limit) | (values != np.floor(values)))
        else:
            # a number that is finite before, but not in float32, is found after the standardisation
            small = self._type == np.float32 or self.card.standardise != "none"
            with np.errstate(over="ignore"):
                wrong = ~np.isfinite(values if small else values.astype(np.float32))
        if real is not None:
            wrong &= real.reshape(*real.shape, *(1,) * (wrong.ndim - 2))
        return wrong

    def _places(self, wrong: Array) -> str:
        """The features that have gaps, where they are few."""
        if self.card.kind not in ("vector", "sequence"):
            return ""
        features = np.flatnonzero(wrong.reshape(-1, wrong.shape[-1]).any(0))
        return "" if len(features) == wrong.shape[-1] else f", features {features[:5].tolist()}"

    def _standardise(self, rows: Rows) -> None:
        """Mean and deviation of the present training rows."""
        if len(rows) == 0:
            raise DataError(
                f"modality {self.card.name!r}: expected training samples that have it, for the statistics of "
                f"`standardise: {self.card.standardise}`. Found none."
            )
        origin, rest, variance = self._moments(rows, self.card.standardise)
        deviation = np.sqrt(variance)
        # a constant feature carries nothing; dividing by its rounding error would blow it up
        rounding = 2 * float(np.finfo(np.float64 if self._type == np.float64 else np.float32).eps)
        deviation[deviation <= rounding * np.abs(origin + rest)] = 1.0
        deviation[deviation == 0] = 1.0
        self._origin, self._rest, self._scale = origin, rest, 1.0 / deviation
        if self._raw.dtype.kind in "iu" and self._raw.dtype.itemsize == 8:
            self._check_counters(rows)

    def _check_counters(self, rows: Rows) -> None:
        """Refuse whole numbers beyond 2^53 whose differences float64 would round away."""
        own = rows_of(self._raw, rows if self._index is None else self._index[rows])
        mean = np.abs(own.astype(np.float64)).max()
        deviation = (own - own[:1]).astype(np.int64).astype(np.float64).std(0)
        lost = (np.finfo(np.float64).eps / 2 * mean > 1e-3 * deviation) & (deviation > 0)
        if lost.any():
            raise DataError(
                f"modality {self.card.name!r}: expected numbers that float64 can tell apart. Found whole numbers "
                f"around {mean:.3g} that differ by {float(deviation[lost].min()):.3g}. Subtract the smallest of them."
            )

    def _check_precision(self, rows: Rows) -> None:
        """Refuse numbers of float64 whose differences vanish in float32 when no mean is subtracted."""
        if not len(rows):
            return
        mode = "per-channel" if self.card.kind in ("image", "video", "volume") else "per-feature"
        origin, rest, variance = self._moments(rows, mode)
        mean = origin + rest
        if lost_in_float32(mean, np.sqrt(variance)).any():
            raise DataError(
                f"modality {self.card.name!r}: expected numbers that float32 can tell apart. Found values around "
                f"{float(mean.ravel()[np.abs(mean).argmax()]):g}, whose differences it would round away. Standardise "
                f"them (standardise: {mode}), or subtract a constant."
            )

    def _check_range(self, rows: Rows) -> None:
        """Refuse samples so far from the training samples that float32 cannot hold them."""
        if self._ready is None:
            return
        for start in range(0, len(rows), step := max(1, _CHUNK // max(1, int(np.prod(self.shape))))):
            piece = rows[start : start + step]
            wrong = ~np.isfinite(self._ready.numpy()[piece if self._index is None else self._index[piece]])
            if self._mask is not None:
                wrong &= np.asarray(line_up(self._mask[piece], torch.from_numpy(wrong)))
            if wrong.any():
                raise self._too_large(piece[wrong.reshape(len(wrong), -1).any(1)])

    def _too_large(self, bad: Rows) -> NonFiniteError:
        return NonFiniteError(
            f"modality {self.card.name!r}: expected numbers that float32 can hold. Found some that are too large, "
            f"first dataset indices {bad[:5].tolist()}. Correct them, or choose a larger unit."
        )

    def _finish(self, values: Array, own: bool) -> Array:
        """Samples after the transforms as they are given out: standardised, in float32 (or int64)."""
        with np.errstate(over="ignore", invalid="ignore"):  # absent rows may hold anything
            if self._scale is None:
                return values.astype(self.dtype, copy=False)
            values = values if own else values.copy()
            values -= self._origin.astype(values.dtype)
            values -= self._rest.astype(values.dtype)
            values *= self._scale.astype(values.dtype)
            return values.astype(np.float32, copy=False)

    def _moments(self, rows: Rows, mode: str) -> tuple[Array, Array, Array]:
        """A sample, the mean minus this sample, and the variance over ``rows``.

        In float64, merged piece by piece (Chan et al. 1979, equation 2.1); far from 0 only differences are exact.
        """
        axes = reduction_axes(mode, self.shape)
        first = tuple(slice(0, 1) if axis in axes else slice(None) for axis in range(len(self.shape) + 1))
        count, origin, mean, scatter = 0, None, np.zeros(1), np.zeros(1)
        for piece, values, real in self._pieces(rows):
            # padding says nothing about the data, and may hold anything
            wide = (values if real is None else values[real][:, None]).astype(np.float64)
            if not len(wide):
                continue
            origin = wide[first][0].copy() if origin is None else origin
            with np.errstate(over="ignore", invalid="ignore"):
                wide -= origin
                new_mean = wide.mean(axes, keepdims=True)[0]
                wide -= new_mean
                new_scatter = np.square(wide, out=wide).sum(axes, keepdims=True)[0]
            if not np.isfinite(new_scatter).all():  # finite numbers whose squares are not
                raise self._too_large(piece)
            new = wide.size // new_mean.size
            total, delta = count + new, new_mean - mean
            mean = mean + delta * (new / total)
            scatter = scatter + new_scatter + np.square(delta) * (count * new / total)
            count = total
        if origin is None:
            raise DataError(
                f"modality {self.card.name!r}: expected real steps in the training split. Found padding only."
            )
        return origin, mean, scatter / count

    @property
    def _step(self) -> int:
        """Samples per piece of a pass over the data."""
        return max(1, _CHUNK // max(1, int(np.prod(self.shape))))

    def _pieces(self, rows: Rows, plain: bool = False) -> Iterator[tuple[Rows, Array, Mask | None]]:
        """Rows, their samples after the transforms or (``plain``) as they are stored, and which steps are real."""
        for start in range(0, len(rows), self._step):
            piece = rows[start : start + self._step]
            own = piece if self._index is None else self._index[piece]
            real = None if self._mask is None else self._mask.numpy()[piece]
            yield piece, rows_of(self._raw, own) if plain else self._prepare(own), real

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
        return torch.from_numpy(np.ascontiguousarray(self._finish(self._prepare(own.numpy()), own=True)))
