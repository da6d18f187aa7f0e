"""Imperfections of one modality's inputs, at levels that share their random numbers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, cast, get_args

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from equimodal._utils.shapes import line_up
from equimodal.batch import Batch, Tokens, Tree, tree_map, tree_tensors
from equimodal.diagnostics.noise._images import IMAGE_NOISES, blur
from equimodal.diagnostics.noise._steps import BLOCKS, dropped, repeated, replaced, steps_of, swapped, warped
from equimodal.errors import BatchError, MethodError, UnsupportedError
from equimodal.methods import BatchLike

Noise = Literal[
    "gaussian",
    "salt_and_pepper",
    "drop_entries",
    "swap_entries",
    "gaussian_steps",
    "drop_steps",
    "drop_blocks",
    "drop_segments",
    "swap_steps",
    "repeat_steps",
    "replace_words",
    "time_warp",
    "blur",
    "grayscale",
    "contrast",
    "inversion",
    "white_balance",
    "tint",
    "rotation",
    "flip",
    "crop",
]
NOISES: tuple[str, ...] = get_args(Noise)
ENDLESS = ("gaussian", "gaussian_steps")
"""Kinds whose level is in deviations, without a largest one; of all others 1 is the largest."""
MEASURED = ("gaussian", "gaussian_steps", "salt_and_pepper", "replace_words", *IMAGE_NOISES)
"""Kinds that need statistics of the training data."""
_STEPS = ("gaussian_steps", *BLOCKS, "swap_steps", "repeat_steps", "replace_words", "time_warp")
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

    Of token ids, the numbers themselves: the smallest and the largest id of a word.

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
            if own is None:
                continue
            known = sums.setdefault(m, [])
            for position, values in enumerate(_columns(own.inputs[m])):
                if position == len(known):
                    known.append(_Sums(values))
                known[position].add(values)
    missing = [m for m in names if m not in sums]
    if missing or not sums:
        raise BatchError(f"`batches`: expected training samples that have {missing or 'modalities'}. Found none.")
    return {m: [s.result() for s in found] for m, found in sums.items()}


def _columns(x: Tree) -> list[Tensor]:
    """Each floating-point tensor, or the token ids, as (numbers, features); only real steps of tokens."""
    if isinstance(x, Tokens):
        real = x.values[x.mask]
        return [real[:, None] if real.ndim == 1 else real]
    if _are_ids(x):
        return [x[x != 0][:, None]]
    found = []
    for t in tree_tensors(x):
        if t.is_floating_point():
            last = t.movedim(1, -1) if t.ndim > 3 else t
            found.append(last.reshape(-1, last.shape[-1]) if t.ndim > 1 else last[:, None])
    return found


def _are_ids(x: Tree) -> bool:
    return isinstance(x, Tensor) and x.ndim == 2 and x.dtype in (torch.int16, torch.int32, torch.int64)


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
    r"""One kind of noise on the inputs of one modality, at a level s from 0 (nothing changes) upwards.

    Numbers, of any shape:

    ===================== ============================================================================================
    ``gaussian``          :math:`x + s d \epsilon`, d the training deviation (:class:`Spread`), :math:`\epsilon`
                          standard normal per number
    ``salt_and_pepper``   with probability s a number (of an image: a pixel, in all channels) becomes the smallest or
                          the largest one of the training data, equally likely
    ``drop_entries``      each number becomes 0 with probability s
    ``swap_entries``      of a vector: neighbours, paired from the first or second number on, change places with
                          probability s
    ===================== ============================================================================================

    Sequences; words are token ids, of which 0 is padding:

    ===================== ============================================================================================
    ``gaussian_steps``    :math:`x_t + s d \epsilon_t`, one number per step for all features
    ``drop_steps``        each step becomes 0, padding or (a word) nothing with probability s
    ``drop_blocks``       each step starts, with probability s, a block of 3 steps that are dropped
    ``drop_segments``     the same with 10 steps
    ``swap_steps``        neighbours, paired from the first or second step on, change places with probability s
    ``repeat_steps``      each step is there twice with probability s; what then no longer fits is lost
    ``replace_words``     each word becomes, with probability s, any id from the smallest to the largest of training
    ``time_warp``         read at :math:`t + \frac{s a}{2\pi} \sin 2\pi t`, t in [0, 1], a uniform in [-1, 1] per sample
    ===================== ============================================================================================

    Images (and the frames of videos) with :math:`v = (x - l) / (h - l)`, where l and h are the smallest and largest
    training values of a channel, that is black and white. All but ``blur`` befall a whole image with probability s; the
    first three need red, green and blue:

    ===================== ============================================================================================
    ``grayscale``         :math:`v' = \bar v`, the lightness 0.299 red + 0.587 green + 0.114 blue
    ``white_balance``     :math:`v_c' = g_c v_c`, g the colour of a black body at 1000, 1500 ... or 10000 K
    ``tint``              :math:`v_c' = 0.7 v_c + 0.3 f_c`, f red, blue or green
    ``contrast``          :math:`v' = (v + m) / 2`, m the mean lightness of the image
    ``inversion``         :math:`v' = 1 - v`
    ``rotation``          turned by a uniform angle up to 20 degrees to either side, black corners
    ``flip``              left and right exchanged
    ``crop``              a part of 80 % of each side, from anywhere, enlarged to the full size
    ``blur``              convolved with a Gaussian of deviation 0.05 s times the shorter side
    ===================== ============================================================================================

    ``drop_steps`` on token ids (B, T) removes words: the others move up, and id 0 fills the end; of a sequence with a
    mask (:class:`~equimodal.batch.Tokens`) they leave the mask, and the last one that would go stays.

    Kinds and strengths are those of MultiBench (Liang et al., NeurIPS 2021), but for ``time_warp`` and ``blur``, which
    are ours. Deviations: it chooses blocks once for all samples and modalities of a batch, here every sample is drawn
    on its own; its exchange of neighbours writes the left one over the right one and puts nothing back; it adds noise
    to bytes of 0 to 255, without a unit; it spoils letters (exchanged, repeated, left out, mistyped) before words get
    ids, which here happens to the words; its image kinds follow one another, here each is a kind. 0 is the mean of
    standardised inputs.

    Args:
        kind: one of the above.
        modality: its name, for messages.
        spread: of :func:`input_spread`, for the kinds that speak of training data.

    Raises:
        UnsupportedError: (when drawing) the kind does not fit the inputs.
        MethodError: (when applied) it needs ``spread``.
        MissingExtraError: (when applied) ``blur`` without kornia.

    Example:
        >>> x = torch.tensor([[[[0.0, 0.25], [0.5, 1.0]]]])
        >>> noise = Corruption("inversion", "image", [Spread(torch.ones(1), torch.zeros(1), torch.ones(1))])
        >>> noise.apply(x, noise.draw(x, np.random.default_rng(0)), level=1.0).flatten().tolist()
        [1.0, 0.75, 0.5, 0.0]
    """

    def __init__(self, kind: Noise, modality: str, spread: Sequence[Spread] = ()) -> None:
        self.kind = kind
        self.modality = modality
        self.spread = spread

    def draw(self, x: Tree, rng: np.random.Generator) -> list[Array]:
        """Random numbers for a batch, the same for every level; samples follow each other in the stream."""
        if self.kind in _STEPS:
            size, steps = self._steps(x)
            if self.kind == "gaussian_steps":
                return [rng.standard_normal((size, steps), dtype=np.float32)]
            extra: dict[str, tuple[int, ...]] = {
                "swap_steps": (1 + max(1, steps // 2),), "replace_words": (steps, 2), "time_warp": (1,)
            }  # fmt: skip
            return [rng.random((size, *extra.get(self.kind, (steps,))), dtype=np.float32)]
        if self.kind == "blur" or self.kind in IMAGE_NOISES:
            self._check_image(x)
            if self.kind == "blur":
                return []
            return [rng.random((len(x), 1 + IMAGE_NOISES[self.kind].numbers), dtype=np.float32)]
        tensors = [t for t in tree_tensors(x) if t.is_floating_point()]
        if not tensors:
            raise UnsupportedError(
                f"`noise`: {self.kind} needs numbers. Modality {self.modality!r} holds token ids. Use drop_steps."
            )
        if self.kind == "swap_entries":
            if any(t.ndim != 2 for t in tensors):
                raise self._refused(x, "a vector (B, F)", "swap_steps for a sequence")
            return [rng.random((len(t), 1 + max(1, t.shape[1] // 2)), dtype=np.float32) for t in tensors]
        if self.kind == "gaussian":
            return [rng.standard_normal(tuple(t.shape), dtype=np.float32) for t in tensors]
        return [rng.random(_places(t, self.kind), dtype=np.float32) for t in tensors]

    def _steps(self, x: Tree) -> tuple[int, int]:
        found = steps_of(x)
        if found is None:
            raise self._refused(x, "a sequence (B, T, F), Tokens or token ids (B, T)", "gaussian or drop_entries")
        words = not found[0].is_floating_point()
        if self.kind in ("gaussian_steps", "time_warp") and words:
            raise UnsupportedError(
                f"`noise`: {self.kind} needs numbers. Modality {self.modality!r} holds token ids. Use drop_steps."
            )
        if self.kind == "replace_words" and not words:
            raise self._refused(x, "token ids (B, T), or Tokens of them", "gaussian or drop_steps")
        return found[1].shape[0], found[1].shape[1]

    def _check_image(self, x: Tree) -> None:
        if not (isinstance(x, Tensor) and x.is_floating_point() and x.ndim in (4, 5)):
            raise self._refused(x, "images (B, C, H, W) or videos (B, C, T, H, W)", "gaussian or drop_steps")
        if self.kind in IMAGE_NOISES and IMAGE_NOISES[self.kind].colours and x.shape[1] != 3:
            raise self._refused(x, "three channels: red, green and blue", "contrast or inversion")

    def _refused(self, x: Tree, needed: str, instead: str) -> UnsupportedError:
        found = f"a tensor {tuple(x.shape)}" if isinstance(x, Tensor) else type(x).__name__
        return UnsupportedError(
            f"`noise`: {self.kind} needs {needed}. Modality {self.modality!r} is {found}. Use {instead}."
        )

    def apply(self, x: Tree, drawn: Sequence[Array], level: float) -> Tree:
        """``x`` at this level; 0 is ``x`` itself."""
        if level == 0:
            return x
        if self.kind in MEASURED and not self.spread:
            raise MethodError(f"`spread`: expected statistics of {self.modality!r} from input_spread(). Found none.")
        if self.kind == "blur":
            return blur(x, level)
        device = tree_tensors(x)[0].device
        numbers = [torch.from_numpy(values).to(device) for values in drawn]
        if self.kind in IMAGE_NOISES:
            return self._image(x, numbers[0], level)
        if self.kind in _STEPS:
            return self._sequence(x, numbers[0], level)
        # numbers in the order of the tree's tensors, as they were drawn
        following, spreads = iter(numbers), iter(self.spread)

        def one(t: Tensor) -> Tensor:
            if not t.is_floating_point():
                return t
            number = next(following)
            if self.kind == "drop_entries":
                return torch.where(number < level, t.new_zeros(()), t)
            if self.kind == "swap_entries":
                return swapped(t, torch.ones_like(t, dtype=torch.bool), number, level)
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

    def _image(self, x: Tensor, numbers: Tensor, level: float) -> Tensor:
        black, white = (_like(v, x) for v in (self.spread[0].low, self.spread[0].high))
        width = torch.where(white > black, white - black, torch.ones_like(white))
        spoilt = IMAGE_NOISES[self.kind].spoil((x - black) / width, numbers[:, 1:].to(x.dtype)) * width + black
        return torch.where(line_up(numbers[:, 0] < level, x), spoilt, x)

    def _sequence(self, x: Tree, numbers: Tensor, level: float) -> Tree:
        if self.kind in BLOCKS:
            return dropped(x, numbers, level, BLOCKS[self.kind])
        values, real = x if isinstance(x, Tokens) else cast(tuple[Tensor, Tensor], steps_of(x))
        if self.kind == "repeat_steps":
            return repeated(x, values, real, numbers, level)
        if self.kind == "swap_steps":
            found = swapped(values, real, numbers, level)
        elif self.kind == "time_warp":
            found = warped(values, real, numbers, level)
        elif self.kind == "replace_words":
            low, high = int(self.spread[0].low[0]), int(self.spread[0].high[0])
            found = replaced(values, real, numbers, level, low, high)
        else:
            added = level * self.spread[0].deviation.to(values.device, values.dtype) * numbers[..., None]
            found = torch.where(real[..., None], values + added.to(values.dtype), values)
        return Tokens(found, real) if isinstance(x, Tokens) else found


def _places(t: Tensor, kind: str) -> tuple[int, ...]:
    return (t.shape[0], 1, *t.shape[2:]) if kind == "salt_and_pepper" and t.ndim > 3 else tuple(t.shape)


def _like(values: Tensor, t: Tensor) -> Tensor:
    """(F,) or (C,) statistics in the type and axes of ``t``."""
    wide = values.to(t.device, t.dtype)
    return wide.reshape(-1, *([1] * (t.ndim - 2))) if t.ndim > 3 else wide


def check_noises(given: Mapping[str, str | None]) -> None:
    """Refuse a kind of noise that is not known."""
    from equimodal.errors import unknown_name

    for kind in given.values():
        if kind is not None and kind not in NOISES:
            raise unknown_name("noise", kind, NOISES)


def noise_of(kind: str | None, x: Tree) -> Noise:
    """``kind``, or the usual one for such inputs."""
    return default_noise(x) if kind is None else cast(Noise, kind)
