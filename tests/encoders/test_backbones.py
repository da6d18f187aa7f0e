"""The backbones: published sizes, the same numbers as the libraries they come from, clear refusals."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from equimodal.encoders import AST, BERT, CLIPText, CLIPVision, Frozen, LoRA, ResNet, TextTransformer, VideoResNet, ViT
from equimodal.errors import BatchError, ModelError, UnknownNameError
from tests.encoders.families import CLIP_LAYERS, END, LAYERS, RESNET, VOCABULARY, texts

transformers: Any = pytest.importorskip("transformers")


@pytest.mark.parametrize(
    ("make", "count", "width"),
    [
        # published totals, less the classification (or pooling) layer: torchvision's model tables, the papers' files
        (lambda: ResNet(18), 11_689_512 - 513_000, 512),
        (lambda: ResNet(34), 21_797_672 - 513_000, 512),
        (lambda: ResNet(50), 25_557_032 - 2_049_000, 2048),
        (lambda: ResNet(101), 44_549_160 - 2_049_000, 2048),
        (lambda: VideoResNet(), 31_505_325 - 205_200, 512),
        (lambda: VideoResNet(block="r3d"), 33_371_472 - 205_200, 512),
        (lambda: ViT(), 86_567_656 - 769_000, 768),
        (lambda: BERT(), 109_482_240 - 590_592, 768),
        (lambda: AST(), 86_187_264, 768),
        (lambda: CLIPVision(), 87_456_000 + 768 * 512, 512),
        (lambda: CLIPText(), 63_165_952 + 512 * 512, 512),
    ],
)
def test_defaults_have_the_published_size(make: Callable[[], nn.Module], count: int, width: int) -> None:
    with torch.device("meta"):  # shapes without memory
        encoder = make()
    assert sum(p.numel() for p in encoder.parameters()) == count
    assert encoder.out_features == width


# ---- the same numbers -----------------------------------------------------------------------------------------------


def test_resnet_averages_frames() -> None:
    encoder = ResNet(18, 2, config=RESNET).eval()
    clip = torch.randn(3, 2, 4, 32, 32)
    by_frame = torch.stack([encoder(clip[:, :, t]) for t in range(4)])
    torch.testing.assert_close(encoder(clip), by_frame.mean(0), rtol=1e-4, atol=1e-5)
    frames = ResNet(18, 2, config=RESNET, pool="frames").eval()
    frames.load_state_dict(encoder.state_dict())
    torch.testing.assert_close(frames(clip).values, by_frame.transpose(0, 1), rtol=1e-4, atol=1e-5)
    time_first = ResNet(18, 2, config=RESNET, time_first=True).eval()
    time_first.load_state_dict(encoder.state_dict())
    assert torch.equal(time_first(clip.transpose(1, 2)), encoder(clip))


def test_resnet_is_that_of_transformers() -> None:
    encoder = ResNet(18, 1, config=RESNET).eval()
    network: Any = encoder.backbone
    x = torch.randn(2, 1, 40, 64)
    assert torch.equal(encoder(x), network(x).pooler_output.flatten(1))
    assert torch.equal(encoder(x[:, 0]), encoder(x))


@pytest.mark.parametrize("frames", [None, 3])
def test_resnet_gives_maps_for_decoders(frames: int | None) -> None:
    x = torch.randn(2, 1, 64, 32) if frames is None else torch.randn(2, 1, frames, 64, 32)
    time = () if frames is None else (frames,)
    vector = ResNet(18, 1, config=RESNET).eval()
    scales, last = ResNet(18, 1, config=RESNET, pool="scales").eval(), ResNet(18, 1, config=RESNET, pool="map").eval()
    scales.load_state_dict(vector.state_dict())
    last.load_state_dict(vector.state_dict())
    maps = scales(x)
    assert scales.out_features == (4, 4, 8, 8)
    assert [m.shape for m in maps] == [
        (2, 4, *time, 16, 8), (2, 4, *time, 8, 4), (2, 8, *time, 4, 2), (2, 8, *time, 2, 1)
    ]  # fmt: skip
    assert torch.equal(last(x), maps[3])
    torch.testing.assert_close(last(x).flatten(2).mean(2), vector(x))
    mapped = ResNet(18, 1, config=RESNET, pool="map", out_features=3)(x)
    assert mapped.shape == (2, 3, *time, 2, 1)


def test_vit_is_that_of_transformers() -> None:
    encoder = ViT((16, 24), 8, 1, config=LAYERS).eval()
    network: Any = encoder.backbone
    x = torch.randn(2, 1, 16, 24)
    states = network(x).last_hidden_state
    assert states.shape == (2, 1 + 6, 8)
    assert torch.equal(encoder(x), states[:, 0])
    mean = ViT((16, 24), 8, 1, pool="mean", config=LAYERS).eval()
    mean.load_state_dict(encoder.state_dict())
    torch.testing.assert_close(mean(x), states[:, 1:].mean(1))


def test_ast_takes_frequency_before_time() -> None:
    encoder = AST(20, 30, config=LAYERS).eval()
    network: Any = encoder.backbone
    x = torch.randn(2, 20, 30)
    assert torch.equal(encoder(x), network(x.transpose(1, 2)).pooler_output)
    assert torch.equal(encoder(x[:, None]), encoder(x))


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_bert_is_that_of_transformers(attention: str) -> None:
    encoder = BERT(VOCABULARY, config={**LAYERS, "attn_implementation": attention}).eval()
    network: Any = encoder.backbone
    ids = texts(4)
    states = network(input_ids=ids, attention_mask=(ids != 0).long()).last_hidden_state
    torch.testing.assert_close(encoder(ids), states[:, 0], rtol=1e-6, atol=1e-6)
    segments = {"input_ids": ids, "attention_mask": (ids != 0).long(), "token_type_ids": torch.ones_like(ids)}
    assert not torch.allclose(encoder(segments), encoder(ids), atol=1e-3)


def test_clip_gives_the_embeddings_that_clip_compares() -> None:
    text = {**CLIP_LAYERS, "vocab_size": VOCABULARY, "eos_token_id": END, "bos_token_id": 1}
    vision = {**CLIP_LAYERS, "image_size": 16, "patch_size": 8}
    clip = transformers.CLIPModel(
        transformers.CLIPConfig(text_config=text, vision_config=vision, projection_dim=10)
    ).eval()
    clip_state = clip.state_dict()
    images, ids = torch.randn(3, 3, 16, 16), texts(3)
    seer = CLIPVision(16, 8, config=CLIP_LAYERS).eval()
    reader = CLIPText(VOCABULARY, config=CLIP_LAYERS).eval()
    for encoder, tower in ((seer, "vision_model."), (reader, "text_model.")):
        parts = {n: t for n, t in clip_state.items() if n.startswith(tower)}
        parts |= {n: t for n, t in clip_state.items() if n.startswith("visual" if encoder is seer else "text_proj")}
        encoder.backbone.load_state_dict(parts)
    assert torch.equal(seer(images), clip.get_image_features(images).pooler_output)
    assert torch.equal(reader(ids), clip.get_text_features(ids).pooler_output)


def test_split_convolutions_over_space_and_time_by_hand() -> None:
    """One block against its definition: BatchNorm after every convolution, ReLU between, the input added."""
    encoder = VideoResNet(1, layers=(1, 1, 1, 1), widths=(2, 2, 2, 2)).eval()
    network: Any = encoder.backbone
    x = torch.randn(2, 2, 4, 6, 6)
    p = dict(network.layer2[0].state_dict())

    def norm(z: Tensor, name: str) -> Tensor:
        return torch.batch_norm(
            z, p[f"{name}.weight"], p[f"{name}.bias"], p[f"{name}.running_mean"], p[f"{name}.running_var"],
            False, 0.1, 1e-5, False,
        )  # fmt: skip

    def pair(z: Tensor, name: str, stride: int) -> Tensor:
        z = torch.conv3d(z, p[f"{name}.0.weight"], None, (1, stride, stride), (0, 1, 1))
        z = norm(z, f"{name}.1").relu()
        return torch.conv3d(z, p[f"{name}.3.weight"], None, (stride, 1, 1), (1, 0, 0))

    z = norm(pair(x, "conv1.0", 2), "conv1.1").relu()
    z = norm(pair(z, "conv2.0", 1), "conv2.1")
    expected = (z + norm(torch.conv3d(x, p["downsample.0.weight"], None, 2), "downsample.1")).relu()
    torch.testing.assert_close(network.layer2[0](x), expected)


@pytest.mark.parametrize("block", ["r2plus1d", "r3d"])
def test_video_network_keeps_and_pools_time(block: str) -> None:
    make: Callable[..., VideoResNet] = lambda **o: VideoResNet(2, block, (1,) * 4, (4, 4, 4, 8), **o).eval()  # type: ignore[arg-type]  # noqa: E731
    vector, frames, maps, time_first = make(), make(pool="frames"), make(pool="map"), make(time_first=True)
    for other in (frames, maps, time_first):
        other.load_state_dict(vector.state_dict())
    x = torch.randn(2, 2, 16, 32, 32)
    assert maps(x).shape == (2, 8, 2, 2, 2)
    assert frames(x).values.shape == (2, 2, 8)
    torch.testing.assert_close(vector(x), frames(x).values.mean(1))
    assert torch.equal(time_first(x.transpose(1, 2)), vector(x))
    moved = x.clone()
    moved[:, :, 8:] = x[:, :, :8]
    moved[:, :, :8] = x[:, :, 8:]
    assert not torch.allclose(vector(moved), vector(x), atol=1e-4)  # it sees motion, not only frames


# ---- refusals -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("encoder", "x", "words"),
    [
        (lambda: ResNet(18, 3, config=RESNET), torch.zeros(2, 1, 8, 8), r"expected \(B, 3, H, W\). Found \(2, 1, 8"),
        (lambda: ResNet(18, 3, config=RESNET), torch.zeros(2, 8, 8, 3), "move the channels to the second place"),
        (lambda: ResNet(18, 3, config=RESNET), torch.zeros(2, 4, 3, 8, 8), r"\(B, 3, T, H, W\).*Pass time_first=True"),
        (lambda: ResNet(18, 3, config=RESNET), torch.zeros(2, 3), r"Found \(2, 3\)"),
        (lambda: VideoResNet(1, layers=(1,) * 4, widths=(2,) * 4), torch.zeros(2, 3, 4, 8, 8), r"\(B, 1, T, H, W\)"),
        (lambda: VideoResNet(1, layers=(1,) * 4, widths=(2,) * 4), torch.zeros(2, 1, 8, 8), r"Found \(2, 1, 8, 8\)"),
        (lambda: ViT(16, 8, config=LAYERS), torch.zeros(2, 3, 16, 24), r"\(B, 3, 16, 16\).*resize the images"),
        (lambda: ViT(16, 8, config=LAYERS), torch.zeros(2, 1, 16, 16), r"Found \(2, 1, 16, 16\)"),
        (lambda: AST(20, 30, config=LAYERS), torch.zeros(2, 1, 30, 20), r"\(B, 1, 20, 30\). Found \(2, 1, 30, 20\)"),
        (lambda: CLIPVision(16, 8, config=CLIP_LAYERS), torch.zeros(2, 3, 8, 8), r"\(B, 3, 16, 16\)"),
    ],
)  # fmt: skip
def test_inputs_that_do_not_fit_are_named_with_both_shapes(
    encoder: Callable[[], nn.Module], x: Tensor, words: str
) -> None:
    with pytest.raises(BatchError, match=words):
        encoder()(x)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: ResNet(20), r"`depth`: expected one of \[18, 34, 50, 101\]. Found 20"),  # type: ignore[arg-type]
        (lambda: ResNet(18, 0), "`in_channels`: expected a positive integer"),
        (lambda: ResNet(18, pool="max"), "`pool`: expected one of .*'scales'.*Found 'max'"),  # type: ignore[arg-type]
        (lambda: ResNet(18, pool="scales", out_features=3, config=RESNET), "`out_features`: expected None with pool"),
        (lambda: ResNet(18, out_features=0, config=RESNET), "`out_features`: expected a positive integer"),
        (lambda: ResNet(18, tuning="lora", config=RESNET), "'full' or 'frozen' for a convolutional"),  # type: ignore[arg-type]
        (lambda: ResNet(18, config={"num_channels": 1}), r"no argument of the encoder. Found \['num_channels'\]"),
        (lambda: ResNet(18, config={**RESNET, "hidden_sizes": "no"}), "`config`: ResNetConfig refuses it"),
        (lambda: ViT(20, 8, config=LAYERS), r"`image_size`: expected multiples of the patch size \(8, 8\)"),
        (lambda: ViT((16, 16, 3), 8, config=LAYERS), r"`image_size`: expected a positive integer or"),  # type: ignore[arg-type]
        (lambda: ViT(16, 8, tuning="half", config=LAYERS), "`tuning`: expected one of .*'lora'.*Found 'half'"),  # type: ignore[arg-type]
        (lambda: ViT(16, 8, tuning={"ranks": 4}, config=LAYERS), "`tuning`: .*ranks.*Known: rank, alpha"),
        (lambda: AST(8, 30, config=LAYERS), "`bins`, `frames`: expected at least the patch size 16. Found 8"),
        (lambda: BERT(0), "`vocabulary`: expected a positive integer"),
        (lambda: BERT(20, padding=20, config=LAYERS), "`padding`: expected an id below `vocabulary` 20. Found 20"),
        (lambda: BERT(20, config={**LAYERS, "num_attention_heads": 3}), "`config`: BERT cannot be built.*multiple"),
        (lambda: BERT(20, config={**LAYERS, "intermediate_size": -1}), "`config`: BERT cannot be built.*negative"),
        (lambda: BERT(20, config={"attn_implementation": "some/kernel"}), "of .'sdpa', 'eager'.. Found 'some/kernel'"),
        (lambda: BERT(20, config={**LAYERS, "hidden_size": "wide"}), "`config`: BertConfig refuses it"),
        (lambda: CLIPText(20, end=20, config=CLIP_LAYERS), "`end`: expected an id below `vocabulary` 20. Found 20"),
        (lambda: CLIPText(20, end=2, config=CLIP_LAYERS), "`end`: expected another id than 2"),
        (lambda: VideoResNet(layers=(1, 1)), "expected four numbers each"),
        (lambda: VideoResNet(block="i3d"), "`block`: expected one of"),  # type: ignore[arg-type]
        (lambda: TextTransformer(20, width=9, heads=3), "`width`: expected an even multiple of `heads` 3. Found 9"),
        (lambda: TextTransformer(20, padding=20), "`padding`: expected an id below"),
        (lambda: LoRA(rank=0), "`rank`: expected a positive integer"),
        (lambda: LoRA(alpha=0), "`alpha`: expected a number > 0"),
        (lambda: LoRA(targets="q_proj"), "`targets`: expected names"),
        (lambda: Frozen(nn.ReLU()), "Frozen.encoder, out_features=...."),
    ],
)
def test_wrong_arguments_are_named(make: Callable[[], object], words: str) -> None:
    with pytest.raises(ModelError, match=words):
        make()


def test_an_unknown_field_of_the_configuration_is_named_with_the_nearest() -> None:
    with pytest.raises(UnknownNameError, match="field of BertConfig 'hidden_sise'. Did you mean 'hidden_size'"):
        BERT(20, config={"hidden_sise": 8})
