"""The encoder that is chosen for a modality when the user brings none, or names one."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from equimodal.data import Modality
from equimodal.data._modality import Kind
from equimodal.encoders import (
    GRU,
    MLP,
    Columns,
    Conv1d,
    Conv2d,
    EncoderName,
    Size,
    TextTransformer,
    Transformer,
    VideoResNet,
    for_modality,
)
from equimodal.errors import ModelError, UnknownNameError
from tests.encoders.families import CLIP_LAYERS, LAYERS, RESNET

# the modalities of the benchmark
SHAPES: list[tuple[Kind, tuple[int, ...], type[nn.Module]]] = [
    ("image", (1, 28, 28), Conv2d),
    ("image", (1, 40, 64), Conv2d),
    ("image", (1, 48, 128), Conv2d),
    ("image", (3, 48, 48), Conv2d),
    ("sequence", (48, 60), Conv1d),
    ("sequence", (128, 6), Conv1d),
    ("vector", (35,), MLP),
    ("vector", (240,), MLP),
    ("video", (1, 16, 32, 32), VideoResNet),
    ("volume", (2, 16, 16, 16), VideoResNet),
]


@pytest.mark.parametrize(("size", "low", "high"), [("small", 5_000, 50_000), ("base", 20_000, 200_000)])
@pytest.mark.parametrize(("kind", "shape", "expected"), SHAPES)
def test_kind_decides(
    kind: Kind, shape: tuple[int, ...], expected: type[nn.Module], size: Size, low: int, high: int
) -> None:
    encoder = for_modality(Modality("m", shape, kind), out_features=48, size=size)
    assert isinstance(encoder, expected)
    assert encoder(torch.randn(2, *shape)).shape == (2, 48)
    assert encoder.out_features == 48
    assert low < sum(p.numel() for p in encoder.parameters()) < high


@pytest.mark.parametrize("name", ["conv1d", "gru"])
def test_an_image_can_be_read_column_by_column(name: str) -> None:
    inner = Conv1d(40, (8,), 5) if name == "conv1d" else GRU(40, 8, 5)
    encoder = Columns(inner)
    image = torch.randn(2, 1, 40, 64)
    assert torch.equal(encoder(image), inner(image[:, 0].transpose(1, 2)))
    assert torch.equal(encoder(image), encoder(image[:, 0]))


def test_another_encoder_by_name() -> None:
    image, sequence = Modality("a", (2, 20, 30), "image"), Modality("s", (30, 7), "sequence")
    assert isinstance(for_modality(sequence, encoder="gru"), GRU)
    columns = for_modality(image, encoder="gru")
    assert isinstance(columns, Columns)
    assert isinstance(columns.encoder, GRU)
    assert columns.encoder.in_features == 40  # channels times rows
    with pytest.raises(UnknownNameError, match="'vector'.*'gru'.*Known: mlp"):
        for_modality(Modality("v", (7,), "vector"), encoder="gru")


def test_options_win_over_size() -> None:
    encoder = for_modality(Modality("a", (1, 40, 64), "image"), channels=(4, 6), stride=1, dropout=0.5)
    assert isinstance(encoder, Conv2d)
    assert [m.out_channels for m in encoder.modules() if isinstance(m, nn.Conv2d)] == [4, 6]
    assert [m.stride for m in encoder.modules() if isinstance(m, nn.Conv2d)] == [(1, 1), (1, 1)]
    assert any(isinstance(m, nn.Dropout) and m.p == 0.5 for m in encoder.modules())


def test_tokens_have_a_small_transformer() -> None:
    words = Modality("words", (40,), "tokens", dtype="int64")
    encoder = for_modality(words, 32, vocabulary=100)
    assert isinstance(encoder, TextTransformer)
    assert encoder(torch.randint(0, 100, (3, 40))).shape == (3, 32)
    with pytest.raises(ModelError, match="`vocabulary`: expected the number of token ids"):
        for_modality(words)


@pytest.mark.parametrize(
    ("kind", "shape", "name", "options"),
    [
        ("image", (3, 32, 32), "resnet18", {"config": RESNET}),
        ("image", (1, 40, 32), "resnet50", {"config": RESNET, "tuning": "frozen"}),
        ("image", (2, 16, 24), "vit", {"config": LAYERS, "patch_size": 8, "pool": "mean"}),
        ("image", (1, 20, 30), "ast", {"config": LAYERS}),
        ("image", (3, 16, 16), "clip", {"config": CLIP_LAYERS, "patch_size": 8}),
        ("tokens", (12,), "bert", {"config": LAYERS, "vocabulary": 20}),
        ("tokens", (12,), "clip", {"config": CLIP_LAYERS, "vocabulary": 20}),
        ("video", (2, 4, 32, 32), "resnet18", {"config": RESNET}),
    ],
)
def test_backbones_by_name(kind: Kind, shape: tuple[int, ...], name: EncoderName, options: dict[str, Any]) -> None:
    pytest.importorskip("transformers")
    encoder = for_modality(Modality("m", shape, kind), 7, encoder=name, **options)
    x = torch.full((2, *shape), 19) if kind == "tokens" else torch.randn(2, *shape)
    assert encoder(x).shape == (2, 7)


@pytest.mark.parametrize(
    ("kind", "shape", "name"),
    [("sequence", (30, 7), "transformer"), ("video", (2, 8, 16, 16), "r3d"), ("video", (2, 8, 16, 16), "r2plus1d")],
)
def test_other_encoders_of_torch_alone(kind: Kind, shape: tuple[int, ...], name: EncoderName) -> None:
    encoder = for_modality(Modality("m", shape, kind), 7, encoder=name)
    assert isinstance(encoder, (Transformer, VideoResNet))
    assert encoder(torch.randn(2, *shape)).shape == (2, 7)


def test_what_has_no_encoder_is_refused_with_the_next_step() -> None:
    class Graph:
        kind = "graph"
        shape = (3,)

    with pytest.raises(ModelError, match="'graph'.*module of your own"):
        for_modality(Graph())
    with pytest.raises(ModelError, match="one channel for the encoder 'ast'"):
        for_modality(Modality("a", (2, 40, 64), "image"), encoder="ast")
    with pytest.raises(ModelError, match="square images for the encoder 'clip'"):
        for_modality(Modality("a", (3, 40, 64), "image"), encoder="clip")
    with pytest.raises(UnknownNameError, match="'vector'.*'resnet18'.*Known: mlp"):
        for_modality(Modality("v", (7,), "vector"), encoder="resnet18")
    with pytest.raises(ModelError, match="`size`.*'huge'"):
        for_modality(Modality("v", (7,), "vector"), size="huge")  # type: ignore[arg-type]
    with pytest.raises(ModelError, match="`options` for the encoder 'mlp'.*kernel"):
        for_modality(Modality("v", (7,), "vector"), kernel=3)


def test_a_shape_that_does_not_fit_the_kind_is_refused() -> None:
    class Loose:
        kind = "image"
        shape = (28, 28)

    with pytest.raises(ModelError, match=r"expected \(C, H, W\).*Found \(28, 28\)"):
        for_modality(Loose())
