from __future__ import annotations

from typing import Any, Literal, Protocol, get_args

from torch import Tensor, nn

from equimodal.encoders._conv1d import Conv1d
from equimodal.encoders._conv2d import Conv2d
from equimodal.encoders._gru import GRU
from equimodal.encoders._mlp import MLP
from equimodal.errors import ModelError, unknown_name

Size = Literal["small", "base"]
EncoderName = Literal["mlp", "conv1d", "conv2d", "gru"]

_BY_KIND: dict[str, EncoderName] = {"image": "conv2d", "sequence": "conv1d", "vector": "mlp"}
_FITTING: dict[str, tuple[EncoderName, ...]] = {
    "image": ("conv2d", "conv1d", "gru"),
    "sequence": ("conv1d", "gru"),
    "vector": ("mlp",),
}
_AXES = {"image": "(C, H, W)", "sequence": "(T, F)", "vector": "(F,)"}
# "base" is about 100,000 parameters for the inputs of the benchmark, "small" about a quarter of it.
_WIDTHS: dict[tuple[EncoderName, Size], dict[str, Any]] = {
    ("mlp", "small"): {"hidden": (64,)},
    ("mlp", "base"): {"hidden": (256,)},
    ("conv1d", "small"): {"channels": (32, 64)},
    ("conv1d", "base"): {"channels": (64, 128)},
    ("conv2d", "small"): {"channels": (8, 16, 32)},
    ("conv2d", "base"): {"channels": (24, 48, 96)},
    ("gru", "small"): {"hidden": 32},
    ("gru", "base"): {"hidden": 96},
}
_LARGE_IMAGE = 1024  # positions; above it the first convolution takes every second one, which costs a quarter


class Spec(Protocol):
    """What is asked of the description of a modality (:class:`equimodal.data.Modality` has it)."""

    @property
    def kind(self) -> str:
        """``"image"``, ``"sequence"`` or ``"vector"``."""

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of one sample."""


class Columns(nn.Module):
    """Reads an image as the sequence of its columns, so that a sequence encoder runs over a spectrogram's time.

    Args:
        encoder: a module for (B, W, C * H), such as :class:`Conv1d` or :class:`GRU`.

    Shapes: (B, C, H, W), or (B, H, W), to whatever ``encoder`` gives.

    Example:
        >>> Columns(Conv1d(40))(torch.zeros(3, 1, 40, 64)).shape
        torch.Size([3, 64])
    """

    def __init__(self, encoder: Conv1d | GRU) -> None:
        super().__init__()
        self.encoder = encoder
        self.out_features = encoder.out_features

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to (B, d)."""
        features: Tensor = self.encoder(x.flatten(1, -2).transpose(1, 2))
        return features


def for_modality(
    spec: Spec, out_features: int = 64, size: Size = "small", encoder: EncoderName | None = None, **options: Any
) -> MLP | Conv1d | Conv2d | GRU | Columns:
    """A small encoder for a modality: :class:`Conv2d` for images, :class:`Conv1d` for sequences, else :class:`MLP`.

    Args:
        spec: anything with ``kind`` and ``shape``, such as :class:`equimodal.data.Modality`.
        out_features: width d of the feature vector.
        size: ``"small"`` (about 25,000 parameters, for CPU) or ``"base"`` (about 100,000).
        encoder: another encoder than the usual one for this kind: ``"gru"`` for a sequence; ``"conv1d"`` or ``"gru"``
            for an image read column by column (:class:`Columns`).
        **options: further arguments of that encoder's class, such as ``dropout=0.5``; they win over ``size``.

    Raises:
        ModelError: a kind without an encoder (tokens), a shape that does not fit the kind, or an unknown option.
        UnknownNameError: an encoder that does not fit the kind.

    Example:
        >>> from equimodal.data import Modality
        >>> for_modality(Modality("audio", (1, 40, 64), "image"), dropout=0.5).out_features
        64
    """
    kind, shape = spec.kind, tuple(spec.shape)
    if kind not in _BY_KIND:
        raise ModelError(
            f"`spec.kind`: expected one of {list(_BY_KIND)}. Found {kind!r}. Give MultimodalModel a module of your own "
            "for this modality (for tokens: an embedding followed by a recurrent network or a transformer)."
        )
    if len(shape) != _AXES[kind].count(",") + (kind != "vector"):
        raise ModelError(f"`spec.shape`: expected {_AXES[kind]} for the kind {kind!r}. Found {shape}.")
    if size not in get_args(Size):
        raise ModelError(f"`size`: expected one of {list(get_args(Size))}. Found {size!r}.")
    name = _BY_KIND[kind] if encoder is None else encoder
    if name not in _FITTING[kind]:
        raise unknown_name(f"encoder for the kind {kind!r}", name, _FITTING[kind])
    arguments = {**_WIDTHS[name, size], "out_features": out_features, **options}
    try:
        return _build(name, kind, shape, arguments)
    except TypeError as error:
        raise ModelError(f"`options` for the encoder {name!r}: {error}. Found {options}.") from error


def _build(
    name: EncoderName, kind: str, shape: tuple[int, ...], arguments: dict[str, Any]
) -> MLP | Conv1d | Conv2d | GRU | Columns:
    if name == "mlp":
        return MLP(shape[0], **arguments)
    if name == "conv2d":
        channels, height, width = shape
        return Conv2d(channels, **{"stride": 2 if height * width > _LARGE_IMAGE else 1, **arguments})
    features = shape[1] if kind == "sequence" else shape[0] * shape[1]
    recurrent = Conv1d(features, **arguments) if name == "conv1d" else GRU(features, **arguments)
    return recurrent if kind == "sequence" else Columns(recurrent)
