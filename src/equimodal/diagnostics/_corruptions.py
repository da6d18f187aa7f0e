"""Imperfections of one modality's inputs, at levels that share their random numbers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, cast, get_args

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from equimodal.batch import Batch, Tokens, Tree, tree_map, tree_tensors
from equimodal.errors import BatchError, UnsupportedError
from equimodal.methods._base import BatchLike

Noise = Literal["gaussian", "salt_and_pepper", "drop_entries", "drop_steps", "drop_blocks"]
NOISES: tuple[str, ...] = get_args(Noise)
BLOCK = 3
"""Steps that a dropped block has, as in MultiBench."""
Array = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Spread:
    """Statistics of one tensor of a modality over training samples, broadcastable to (B, ...).

    Args:
        deviation: per feature of vectors and sequences, per channel of images, videos and volumes.
        low: smallest number, of the same shape.
        high: largest number.
    """

    deviation: Tensor
    low: Tensor
    high: Tensor


def input_spread(batches: Iterable[BatchLike], modalities: Iterable[str] | None = None) -> dict[str, list[Spread]]:
    """Modality -> statistics of its floating-point tensors over the samples that have it; padding does not count.

    Args:
        batches: of TRAINING data, in whose deviation noise is measured.
        modalities: all by default.

    Raises:
        BatchError: no sample has one of the modalities.

    Example:
        >>> found = input_spread([Batch({"a": torch.tensor([[0.0], [2.0]])})])
        >>> float(found["a"][0].deviation), float(found["a"][0].high)
        (1.0, 2.0)
    """
    sums: dict[str, list[_Sums]] = {}
    names: list[str] = [] if modalities is None else list(modalities)
    for item in batches:
        batch = Batch.of(item)
        for m in batch.inputs if modalities is None else names:
            own = batch.only(m)
            for position, values in enumerate([] if own is None else _columns(own.inputs[m])):
                known = sums.setdefault(m, [])
                if position == len(known):
                    known.append(_Sums(values))
                known[position].add(values)
    missing = [m for m in names if m not in sums]
    if missing or not sums:
        raise BatchError(f"`batches`: expected training samples that have {missing or 'modalities'}. Found none.")
    return {m: [s.result() for s in found] for m, found in sums.items()}


def _columns(x: Tree) -> list[Tensor]:
    """Each floating-point tensor as (numbers, features), only real steps of tokens; with its axes for the way back."""
    if isinstance(x, Tokens):
        return [x.values[x.mask]] if x.values.is_floating_point() else []
    found = []
    for t in tree_tensors(x):
        if t.is_floating_point():
            last = t.movedim(1, -1) if t.ndim > 3 else t
            found.append(last.reshape(-1, last.shape[-1]) if t.ndim > 1 else last[:, None])
    return found


class _Sums:
    """Moments per feature, merged batch by batch (Chan et al. 1979)."""

    def __init__(self, values: Tensor) -> None:
        zeros = torch.zeros(values.shape[1], dtype=torch.float64)
        self.count, self.mean, self.scatter = 0, zeros, zeros.clone()
        self.low, self.high = zeros + float("inf"), zeros - float("inf")

    def add(self, values: Tensor) -> None:
        if not len(values):
            return
        wide = values.detach().cpu().double()
        mean, total = wide.mean(0), self.count + len(wide)
        delta = mean - self.mean
        self.scatter += (wide - mean).square().sum(0) + delta.square() * (self.count * len(wide) / total)
        self.mean = self.mean + delta * (len(wide) / total)
        self.count = total
        self.low, self.high = torch.minimum(self.low, wide.amin(0)), torch.maximum(self.high, wide.amax(0))

    def result(self) -> Spread:
        return Spread((self.scatter / max(1, self.count)).sqrt(), self.low, self.high)


def default_noise(x: Tree) -> Noise:
    """``"drop_steps"`` for token ids, ``"gaussian"`` for everything else."""
    return "gaussian" if any(t.is_floating_point() for t in tree_tensors(x)) else "drop_steps"


class Corruption:
    r"""One kind of noise on the inputs of one modality.

    ===================== ============================================================================================
    ``gaussian``          :math:`x + \sigma s \epsilon`, s the training deviation (:class:`Spread`),
                          :math:`\epsilon` standard normal per number
    ``salt_and_pepper``   with probability :math:`\sigma` a number (of an image: a pixel, in all channels) becomes the
                          smallest or the largest one of the training data, equally likely
    ``drop_entries``      each number becomes 0 with probability :math:`\sigma`
    ``drop_steps``        each step of a sequence becomes 0, padding or nothing with probability :math:`\sigma`
    ``drop_blocks``       each step starts, with probability :math:`\sigma`, a block of 3 steps that are dropped
    ===================== ============================================================================================

    ``drop_steps`` on token ids (B, T) removes words: the others move up, and id 0 fills the end; of a sequence with a
    mask (:class:`~equimodal.batch.Tokens`) they leave the mask, and the last one that would go stays. White noise,
    dropped entries and blocks of 3 are those of MultiBench (Liang et al., NeurIPS 2021) for sequences. Deviations: they
    draw one number per step for all features, and choose blocks once for all samples and modalities of a batch; here
    every sample is drawn on its own. 0 is the mean of standardised inputs.

    Args:
        kind: one of the above.
        modality: its name, for messages.
        spread: of :func:`input_spread`, for the first two kinds.

    Raises:
        UnsupportedError: (when drawing) the kind does not fit the inputs.
    """

    def __init__(self, kind: Noise, modality: str, spread: Sequence[Spread] = ()) -> None:
        self.kind = kind
        self.modality = modality
        self.spread = spread

    def draw(self, x: Tree, rng: np.random.Generator) -> list[Array]:
        """Random numbers for a batch, the same for every level; samples follow each other in the stream."""
        if self.kind in ("drop_steps", "drop_blocks"):
            return [rng.random(self._steps(x), dtype=np.float32)]
        tensors = [t for t in tree_tensors(x) if t.is_floating_point()]
        if not tensors:
            raise UnsupportedError(
                f"`noise`: {self.kind} needs numbers. Modality {self.modality!r} holds token ids. Use drop_steps."
            )
        if self.kind == "gaussian":
            return [rng.standard_normal(tuple(t.shape), dtype=np.float32) for t in tensors]
        return [rng.random(_places(t, self.kind), dtype=np.float32) for t in tensors]

    def _steps(self, x: Tree) -> tuple[int, int]:
        ids = isinstance(x, Tensor) and x.ndim == 2 and not x.is_floating_point()
        if isinstance(x, Tokens) or ids or (isinstance(x, Tensor) and x.ndim == 3):
            first = tree_tensors(x)[0]
            return first.shape[0], first.shape[1]
        found = f"a tensor {tuple(x.shape)}" if isinstance(x, Tensor) else type(x).__name__
        raise UnsupportedError(
            f"`noise`: {self.kind} needs a sequence (B, T, F), Tokens or token ids (B, T). Modality {self.modality!r} "
            f"is {found}. Use gaussian or drop_entries."
        )

    def apply(self, x: Tree, drawn: Sequence[Array], level: float) -> Tree:
        """``x`` at this level; 0 is ``x`` itself."""
        if level == 0:
            return x
        if self.kind in ("drop_steps", "drop_blocks"):
            return self._drop(x, drawn[0] < np.float32(level))
        # numbers in the order of the tree's tensors, as they were drawn
        numbers, spreads = iter(drawn), iter(self.spread)

        def one(t: Tensor) -> Tensor:
            if not t.is_floating_point():
                return t
            number = torch.from_numpy(next(numbers)).to(t.device)
            if self.kind == "drop_entries":
                return torch.where(number < level, t.new_zeros(()), t)
            return self._spoil(t, number, level, next(spreads))

        spoilt = tree_map(one, x)
        if isinstance(x, Tokens):  # padding stays what it was
            return Tokens(torch.where(x.mask[..., None], spoilt.values, x.values), x.mask)
        return spoilt

    def _spoil(self, t: Tensor, number: Tensor, level: float, spread: Spread) -> Tensor:
        deviation, low, high = (_like(v, t) for v in (spread.deviation, spread.low, spread.high))
        if self.kind == "gaussian":
            return t + (level * deviation) * number.to(t.dtype)
        extreme = torch.where(number < level / 2, low, high)
        return torch.where(number < level, extreme, t)

    def _drop(self, x: Tree, starts: npt.NDArray[np.bool_]) -> Tree:
        gone = starts.copy()
        if self.kind == "drop_blocks":
            for shift in range(1, BLOCK):
                gone[:, shift:] |= starts[:, : starts.shape[1] - shift]
        first = tree_tensors(x)[0]
        lost = torch.from_numpy(gone).to(first.device)
        if isinstance(x, Tokens):
            left = x.mask & ~lost
            left = torch.where(left.any(1, keepdim=True), left, _first_of(x.mask))
            return Tokens(x.values.masked_fill(~_wide(left, x.values), 0), left)
        if first.is_floating_point():
            return x.masked_fill(lost[..., None], 0.0)
        real = x != 0
        left = real & ~lost
        left = torch.where(left.any(1, keepdim=True), left, _first_of(real))
        order = torch.argsort((~left).to(torch.int8), dim=1, stable=True)
        return torch.where(left, x, 0).gather(1, order)


def _places(t: Tensor, kind: str) -> tuple[int, ...]:
    return (t.shape[0], 1, *t.shape[2:]) if kind == "salt_and_pepper" and t.ndim > 3 else tuple(t.shape)


def _like(values: Tensor, t: Tensor) -> Tensor:
    """(F,) or (C,) statistics in the type and axes of ``t``."""
    wide = values.to(t.device, t.dtype)
    return wide.reshape(-1, *([1] * (t.ndim - 2))) if t.ndim > 3 else wide


def _wide(mask: Tensor, t: Tensor) -> Tensor:
    return mask.reshape(*mask.shape, *([1] * (t.ndim - 2)))


def _first_of(mask: Tensor) -> Tensor:
    """Only the first ``True`` of each row."""
    return mask & (mask.cumsum(1) == 1)


def check_noises(given: Mapping[str, str | None]) -> None:
    """Refuse a kind of noise that is not known."""
    from equimodal.errors import unknown_name

    for kind in given.values():
        if kind is not None and kind not in NOISES:
            raise unknown_name("noise", kind, NOISES)


def noise_of(kind: str | None, x: Tree) -> Noise:
    """``kind``, or the usual one for such inputs."""
    return default_noise(x) if kind is None else cast(Noise, kind)
