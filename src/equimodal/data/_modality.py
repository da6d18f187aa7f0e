"""What one modality is, as far as a model builder needs to know."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import Literal, get_args

from equimodal.errors import DataError, did_you_mean

Kind = Literal["image", "sequence", "vector", "tokens", "video", "volume"]
KINDS: tuple[str, ...] = get_args(Kind)
_FORMS = {
    "image": "(C, H, W)", "sequence": "(T, F)", "vector": "(F,)", "tokens": "(T,)", "video": "(C, T, H, W)",
    "volume": "(C, D, H, W)",
}  # fmt: skip


@dataclass(frozen=True)
class Modality:
    """One modality of a dataset: its name, the shape of one sample and what the numbers mean.

    Args:
        name: key in ``Batch.inputs``.
        shape: shape of one sample: ``(C, H, W)`` for an image, ``(T, F)`` for a sequence, ``(F,)`` for a vector,
            ``(T,)`` for tokens, ``(C, T, H, W)`` for a video, ``(C, D, H, W)`` for a volume.
        kind: ``"image"``, ``"sequence"``, ``"vector"``, ``"tokens"``, ``"video"`` or ``"volume"``.
        units: units of the recording before standardisation.
        description: one sentence for people.
        dtype: ``"float32"``, or ``"int64"`` for tokens.

    Raises:
        DataError: unknown kind, or a shape that does not fit it.

    Example:
        >>> Modality("audio", (1, 40, 64), "image", units="dB").size
        2560
    """

    name: str
    shape: tuple[int, ...]
    kind: Kind
    units: str = ""
    description: str = ""
    dtype: str = "float32"

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise DataError(
                f"modality {self.name!r}: `kind`: expected one of {list(KINDS)}. Found {self.kind!r}."
                f"{did_you_mean(self.kind, KINDS)}"
            )
        form = _FORMS[self.kind]
        if len(self.shape) != len(form.strip("(,)").split(",")) or min(self.shape, default=0) < 1:
            raise DataError(
                f"modality {self.name!r}: expected one {self.kind} of shape {form}, no axis empty. "
                f"Found shape {self.shape}. Change `kind`, or reshape the samples (in a card: `transforms: "
                "[{reshape: [...]}]`)."
            )

    @property
    def size(self) -> int:
        """Numbers per sample."""
        return prod(self.shape)


def channels_last(shape: tuple[int, ...]) -> bool:
    """Whether the shape of an image looks like (H, W, C) instead of (C, H, W).

    Example:
        >>> channels_last((64, 64, 3)), channels_last((3, 64, 64)), channels_last((1, 40, 3))
        (True, False, False)
    """
    return len(shape) == 3 and shape[2] < shape[0] and (shape[2] <= 4 or shape[0] == shape[1])
