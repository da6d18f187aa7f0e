from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from typing import Any, Literal, Protocol, get_args

from torch import Tensor

from equimodal.encoders._ast import AST
from equimodal.encoders._bert import BERT
from equimodal.encoders._clip import CLIPText, CLIPVision
from equimodal.encoders._conv1d import Conv1d
from equimodal.encoders._conv2d import Conv2d
from equimodal.encoders._encoder import Encoder, Tunable
from equimodal.encoders._gru import GRU
from equimodal.encoders._mlp import MLP
from equimodal.encoders._resnet import ResNet
from equimodal.encoders._sequence_transformer import TextTransformer, Transformer
from equimodal.encoders._text_conv import TextConv
from equimodal.encoders._unet import UNet
from equimodal.encoders._video import VideoResNet
from equimodal.encoders._vit import ViT
from equimodal.errors import ModelError, did_you_mean, unknown_name

Size = Literal["small", "base"]
EncoderName = Literal[
    "mlp",
    "conv1d",
    "conv2d",
    "gru",
    "transformer",
    "resnet18",
    "resnet50",
    "vit",
    "ast",
    "bert",
    "clip",
    "r2plus1d",
    "r3d",
    "unet",
]

_AXES = {
    "image": "(C, H, W)",
    "sequence": "(T, F)",
    "vector": "(F,)",
    "tokens": "(T,)",
    "video": "(C, T, H, W)",
    "volume": "(C, D, H, W)",
}
# the first is the usual one
FITTING: dict[str, tuple[EncoderName, ...]] = {
    "image": ("conv2d", "conv1d", "gru", "resnet18", "resnet50", "vit", "ast", "clip", "unet"),
    "sequence": ("conv1d", "gru", "transformer"),
    "vector": ("mlp",),
    "tokens": ("transformer", "conv1d", "bert", "clip"),
    "video": ("r2plus1d", "r3d", "resnet18", "resnet50"),
    "volume": ("r3d", "unet"),
}
# "base" is about 100,000 parameters for the inputs of the benchmark, "small" about a quarter of it; networks that are
# not listed have their published size
_WIDTHS: dict[tuple[EncoderName, Size], dict[str, Any]] = {
    ("mlp", "small"): {"hidden": (64,)},
    ("mlp", "base"): {"hidden": (256,)},
    ("conv1d", "small"): {"channels": (32, 64)},
    ("conv1d", "base"): {"channels": (64, 128)},
    ("conv2d", "small"): {"channels": (8, 16, 32)},
    ("conv2d", "base"): {"channels": (24, 48, 96)},
    ("gru", "small"): {"hidden": 32},
    ("gru", "base"): {"hidden": 96},
    ("transformer", "small"): {"width": 40, "layers": 1},
    ("transformer", "base"): {"width": 64, "layers": 2},
    ("unet", "small"): {"channels": (8, 16, 32)},
    ("unet", "base"): {"channels": (16, 32, 64)},
    ("r2plus1d", "small"): {"widths": (4, 8, 16, 24), "layers": (1, 1, 1, 1)},
    ("r2plus1d", "base"): {"widths": (8, 16, 24, 48), "layers": (1, 1, 1, 1)},
    ("r3d", "small"): {"widths": (4, 8, 16, 24), "layers": (1, 1, 1, 1)},
    ("r3d", "base"): {"widths": (8, 16, 24, 48), "layers": (1, 1, 1, 1)},
}
_LARGE_IMAGE = 1024  # positions; above it the first convolution takes every second one, which costs a quarter


class Spec(Protocol):
    """What is asked of the description of a modality (:class:`equimodal.data.Modality` has it)."""

    @property
    def kind(self) -> str:
        """``"image"``, ``"sequence"``, ``"vector"``, ``"tokens"``, ``"video"`` or ``"volume"``."""

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of one sample."""


class Columns(Encoder):
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
        if not isinstance(encoder, (Conv1d, GRU)):
            raise ModelError(f"`encoder`: expected a Conv1d or a GRU. Found {type(encoder).__name__}.")
        self.encoder = encoder
        self.out_features = encoder.out_features

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to (B, d)."""
        features: Tensor = self.encoder(x.flatten(1, -2).transpose(1, 2))
        return features


def for_modality(
    spec: Spec, out_features: int = 64, size: Size = "small", encoder: EncoderName | None = None, **options: Any
) -> Encoder:
    """An encoder for a modality: by default a small one that needs torch only, by name a backbone of the literature.

    ============ ================== ============================================================================
    kind         default            by name
    ============ ================== ============================================================================
    ``image``    :class:`Conv2d`    ``conv1d``, ``gru`` (by :class:`Columns`), ``resnet18``, ``resnet50``, ``vit``,
                                    ``ast`` (spectrograms), ``clip``, ``unet`` (one feature vector per pixel)
    ``sequence`` :class:`Conv1d`    ``gru``, ``transformer``
    ``vector``   :class:`MLP`
    ``tokens``   ``transformer``    ``conv1d``, ``bert``, ``clip``; give ``vocabulary=...``
    ``video``    ``r2plus1d``       ``r3d``, ``resnet18``, ``resnet50`` (features averaged over frames)
    ``volume``   ``r3d``            ``unet`` (one feature vector per voxel)
    ============ ================== ============================================================================

    Args:
        spec: anything with ``kind`` and ``shape``, such as :class:`equimodal.data.Modality`.
        out_features: width d of the features; backbones get a linear map to it.
        size: ``"small"`` (about 25,000 parameters, for CPU) or ``"base"`` (about 100,000). ``resnet18``, ``resnet50``,
            ``vit``, ``ast``, ``bert`` and ``clip`` have their published size whatever this says.
        encoder: a name from the table; ``None`` for the default.
        **options: further arguments of that encoder's class, such as ``dropout=0.5``, ``weights="folder"`` or
            ``tuning="frozen"``; they win over ``size``.

    Raises:
        ModelError: an unknown kind, a shape that does not fit the kind or the encoder, or an unknown option.
        UnknownNameError: an encoder that does not fit the kind.
        MissingExtraError: a backbone whose library is not installed.

    Example:
        >>> from equimodal.data import Modality
        >>> for_modality(Modality("audio", (1, 40, 64), "image"), dropout=0.5).out_features
        64
    """
    kind, shape = spec.kind, tuple(spec.shape)
    if kind not in FITTING:
        raise ModelError(
            f"`spec.kind`: expected one of {list(FITTING)}. Found {kind!r}."
            f"{did_you_mean(kind, FITTING)} Give MultimodalModel a module of your own "
            "for this modality."
        )
    if len(shape) != len(_AXES[kind].strip("(,)").split(",")):
        raise ModelError(f"`spec.shape`: expected {_AXES[kind]} for the kind {kind!r}. Found {shape}.")
    if size not in get_args(Size):
        raise ModelError(
            f"`size`: expected one of {list(get_args(Size))}. Found {size!r}.{did_you_mean(size, get_args(Size))}"
        )
    name = FITTING[kind][0] if encoder is None else encoder
    if name not in FITTING[kind]:
        raise unknown_name(f"encoder for the kind {kind!r}", name, FITTING[kind])
    if kind == "tokens" and name == "transformer" and "vocabulary" not in options:
        raise ModelError("`vocabulary`: expected the number of token ids, as for_modality(..., vocabulary=30522).")
    widths = {} if (kind, name) == ("tokens", "conv1d") else _WIDTHS.get((name, size), {})
    arguments = {**widths, "out_features": out_features, **options}
    try:
        return _BUILD[kind](name, shape, arguments)
    except TypeError as error:
        wrong = re.search(r"(\w+)\.__init__\(\) got an unexpected keyword argument '(\w+)'", str(error))
        hint = "" if wrong is None else did_you_mean(wrong[2], _options_of(wrong[1]))
        raise ModelError(f"`options` for the encoder {name!r}: {error}. Found {options}.{hint}") from error


def _options_of(kind: str) -> list[str]:
    """The options of an encoder of that class."""
    found = next((k for k in (*Encoder.__subclasses__(), *Tunable.__subclasses__()) if k.__name__ == kind), None)
    return [] if found is None else list(inspect.signature(found).parameters)


def _vector(_: EncoderName, shape: tuple[int, ...], arguments: dict[str, Any]) -> Encoder:
    return MLP(shape[0], **arguments)


def _sequence(name: EncoderName, shape: tuple[int, ...], arguments: dict[str, Any]) -> Encoder:
    kinds: dict[str, type[Conv1d] | type[GRU] | type[Transformer]] = {
        "conv1d": Conv1d, "gru": GRU, "transformer": Transformer
    }  # fmt: skip
    return kinds[name](shape[1], **arguments)


def _image(name: EncoderName, shape: tuple[int, ...], arguments: dict[str, Any]) -> Encoder:
    channels, height, width = shape
    if name == "conv2d":
        return Conv2d(channels, **{"stride": 2 if height * width > _LARGE_IMAGE else 1, **arguments})
    if name == "unet":
        return UNet(channels, **arguments)
    if name == "conv1d":
        return Columns(Conv1d(channels * height, **arguments))
    if name == "gru":
        return Columns(GRU(channels * height, **arguments))
    if name == "vit":
        return ViT((height, width), in_channels=channels, **arguments)
    if name == "ast":
        if channels != 1:
            raise ModelError(f"`spec.shape`: expected one channel for the encoder 'ast'. Found {shape}.")
        return AST(height, width, **arguments)
    if name == "clip":
        if height != width:
            raise ModelError(f"`spec.shape`: expected square images for the encoder 'clip'. Found {shape}.")
        return CLIPVision(height, in_channels=channels, **arguments)
    return ResNet(18 if name == "resnet18" else 50, channels, **arguments)


def _tokens(name: EncoderName, _: tuple[int, ...], arguments: dict[str, Any]) -> Encoder:
    kinds: dict[str, type[TextTransformer] | type[TextConv] | type[BERT] | type[CLIPText]] = {
        "transformer": TextTransformer, "conv1d": TextConv, "bert": BERT, "clip": CLIPText
    }  # fmt: skip
    return kinds[name](**arguments)


def _video(name: EncoderName, shape: tuple[int, ...], arguments: dict[str, Any]) -> Encoder:
    if name == "unet":
        return UNet(shape[0], axes=3, **arguments)
    if name in ("resnet18", "resnet50"):
        return ResNet(18 if name == "resnet18" else 50, shape[0], **arguments)
    return VideoResNet(shape[0], block="r3d" if name == "r3d" else "r2plus1d", **arguments)


_BUILD: dict[str, Callable[[EncoderName, tuple[int, ...], dict[str, Any]], Encoder]] = {
    "image": _image, "sequence": _sequence, "vector": _vector, "tokens": _tokens, "video": _video, "volume": _video
}  # fmt: skip
