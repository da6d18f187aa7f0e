"""One tiny encoder of each family with a batch of inputs for it; those from transformers only where it is installed."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor

from equimodal.batch import Tokens
from equimodal.encoders import (
    AST,
    BERT,
    GRU,
    MLP,
    CLIPText,
    CLIPVision,
    Conv1d,
    Conv2d,
    Encoder,
    Frozen,
    LoRA,
    ResNet,
    TextTransformer,
    Transformer,
    VideoResNet,
    ViT,
)

WIDTH = 6
LAYERS: dict[str, Any] = {
    "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 12,
}  # fmt: skip
CLIP_LAYERS: dict[str, Any] = {**LAYERS, "projection_dim": 10}
RESNET: dict[str, Any] = {"embedding_size": 4, "hidden_sizes": [4, 4, 8, 8], "depths": [1, 1, 1, 1]}
VOCABULARY = 20
END = VOCABULARY - 1


@dataclass(frozen=True)
class Family:
    """How to make the encoder, and inputs (B, ...) for it."""

    make: Callable[..., Encoder]
    inputs: Callable[[int], Any]
    needs: tuple[str, ...] = ()
    sequence: str | None = None  # the `pool` that gives Tokens


def images(size: int, channels: int = 3, height: int = 32, width: int = 32) -> Tensor:
    return torch.randn(size, channels, height, width)


def sequences(size: int, steps: int = 12, features: int = 5) -> Tokens:
    """Padded with NaN, which nobody may read."""
    lengths = 4 + torch.arange(size) % (steps - 3)
    tokens = Tokens.of_lengths(torch.randn(size, steps, features), lengths)
    return Tokens(tokens.values.masked_fill(~tokens.mask[..., None], float("nan")), tokens.mask)


def texts(size: int, steps: int = 7) -> Tensor:
    """Ids that end with END; what follows is 0, the padding."""
    ids = torch.randint(1, END, (size, steps))
    last = 2 + torch.arange(size) % (steps - 2)
    position = torch.arange(steps)
    return torch.where(position == last[:, None], END, torch.where(position > last[:, None], 0, ids))


def videos(size: int, channels: int = 2) -> Tensor:
    return torch.randn(size, channels, 4, 16, 16)


_VIT: dict[str, Any] = {"image_size": 16, "patch_size": 8, "config": LAYERS}
_CLIP_VISION: dict[str, Any] = {"image_size": 16, "patch_size": 8, "config": CLIP_LAYERS}
_T, _P = ("transformers",), ("transformers", "peft")

FAMILIES: dict[str, Family] = {
    "mlp": Family(lambda **o: MLP(5, (8,), WIDTH, **o), lambda n: torch.randn(n, 5)),
    "conv1d": Family(lambda **o: Conv1d(5, (6, 6), WIDTH, **o), sequences, sequence="tokens"),
    "conv2d": Family(lambda **o: Conv2d(1, (4, 4), WIDTH, **o), lambda n: images(n, 1, 8, 12)),
    "gru": Family(lambda **o: GRU(5, 6, WIDTH, **o), sequences, sequence="tokens"),
    "transformer": Family(lambda **o: Transformer(5, WIDTH, 8, 1, 2, **o), sequences, sequence="tokens"),
    "text transformer": Family(
        lambda **o: TextTransformer(VOCABULARY, WIDTH, width=8, layers=1, heads=2, **o), texts, sequence="tokens"
    ),
    "video": Family(
        lambda **o: VideoResNet(2, layers=(1,) * 4, widths=(4, 4, 4, 8), out_features=WIDTH, **o), videos,
        sequence="frames",
    ),
    "video, not split": Family(
        lambda **o: VideoResNet(1, "r3d", (1,) * 4, (4, 4, 4, 8), out_features=WIDTH, **o), lambda n: videos(n, 1),
        sequence="frames",
    ),
    "frozen": Family(lambda **o: Frozen(Conv2d(1, (4, 4), WIDTH, **o)), lambda n: images(n, 1, 8, 12)),
    "resnet": Family(
        lambda **o: ResNet(18, config=RESNET, out_features=WIDTH, **o), images, _T, "frames"
    ),
    "resnet50, spectrogram": Family(
        lambda **o: ResNet(50, 1, config=RESNET, out_features=WIDTH, **o), lambda n: images(n, 1, 40, 33), _T, "frames"
    ),
    "resnet, frames": Family(
        lambda **o: ResNet(18, 2, config=RESNET, out_features=WIDTH, **o), videos, _T, "frames"
    ),
    "vit": Family(lambda **o: ViT(**_VIT, out_features=WIDTH, **o), lambda n: images(n, 3, 16, 16), _T, "tokens"),
    "ast": Family(
        lambda **o: AST(20, 30, config=LAYERS, out_features=WIDTH, **o), lambda n: images(n, 1, 20, 30), _T, "tokens"
    ),
    "bert": Family(lambda **o: BERT(VOCABULARY, config=LAYERS, out_features=WIDTH, **o), texts, _T, "tokens"),
    "clip image": Family(
        lambda **o: CLIPVision(**_CLIP_VISION, out_features=WIDTH, **o), lambda n: images(n, 3, 16, 16), _T, "tokens"
    ),
    "clip text": Family(
        lambda **o: CLIPText(VOCABULARY, config=CLIP_LAYERS, out_features=WIDTH, **o), texts, _T, "tokens"
    ),
    "bert with adapters": Family(
        lambda **o: BERT(VOCABULARY, config=LAYERS, out_features=WIDTH, tuning=LoRA(rank=2), **o), texts, _P, "tokens"
    ),
    "clip image, frozen": Family(
        lambda **o: CLIPVision(**_CLIP_VISION, out_features=WIDTH, tuning="frozen", **o),
        lambda n: images(n, 3, 16, 16), _T, "tokens",
    ),
}  # fmt: skip
SEQUENCES = [name for name, family in FAMILIES.items() if family.sequence is not None]


def family(name: str) -> Family:
    """The family; the test is skipped where a package for it is missing."""
    found = FAMILIES[name]
    for package in found.needs:
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"needs {package}")
    return found


def values(feature: Any) -> Tensor:
    """The tensor of a vector or of Tokens."""
    tensor: Tensor = feature.values if isinstance(feature, Tokens) else feature
    return tensor
