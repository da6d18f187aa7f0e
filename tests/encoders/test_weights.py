"""Local pretrained weights: files and folders there and back, names of torchvision, refusals that name the names."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from equimodal.encoders import AST, BERT, CLIPText, CLIPVision, Encoder, ResNet, VideoResNet, ViT
from equimodal.errors import CheckpointError, ModelError
from tests.encoders.families import CLIP_LAYERS, END, LAYERS, RESNET, VOCABULARY, images, texts, values, videos

transformers: Any = pytest.importorskip("transformers")
safetensors: Any = pytest.importorskip("safetensors.torch")


@pytest.fixture(autouse=True)
def _no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("something tried to reach the network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


def clip() -> Any:
    text = {**CLIP_LAYERS, "vocab_size": VOCABULARY, "eos_token_id": END, "bos_token_id": 1}
    vision = {**CLIP_LAYERS, "image_size": 16, "patch_size": 8}
    return transformers.CLIPModel(transformers.CLIPConfig(text_config=text, vision_config=vision, projection_dim=10))


def resnet(kind: str = "ResNetModel") -> Any:
    return getattr(transformers, kind)(transformers.ResNetConfig(layer_type="basic", **RESNET))


def bert(kind: str) -> Any:
    return getattr(transformers, kind)(transformers.BertConfig(vocab_size=VOCABULARY, **LAYERS))


def vit(kind: str, channels: int = 3) -> Any:
    config = transformers.ViTConfig(image_size=16, patch_size=8, num_channels=channels, **LAYERS)
    return getattr(transformers, kind)(config)


def ast(kind: str) -> Any:
    return getattr(transformers, kind)(transformers.ASTConfig(num_mel_bins=20, max_length=30, **LAYERS))


def pooled_clip(network: Any, x: Tensor) -> Tensor:
    features: Tensor = network.get_text_features(x) if x.ndim == 2 else network.get_image_features(x)
    return features.pooler_output  # type: ignore[attr-defined, no-any-return]


Load = Callable[[Path], Encoder]
FOLDERS: dict[str, tuple[Callable[[], Any], Load, Callable[[int], Any], Callable[[Any, Any], Tensor]]] = {
    "resnet": (
        resnet, lambda p: ResNet(18, weights=p, config=RESNET), images,
        lambda network, x: network(x).pooler_output.flatten(1),
    ),
    "resnet with its classifier": (
        lambda: resnet("ResNetForImageClassification"), lambda p: ResNet(18, weights=p, config=RESNET), images,
        lambda network, x: network.resnet(x).pooler_output.flatten(1),
    ),
    "vit": (
        lambda: vit("ViTModel"), lambda p: ViT(weights=p), lambda n: images(n, 3, 16, 16),
        lambda network, x: network(x).last_hidden_state[:, 0],
    ),
    "vit with its classifier": (
        lambda: vit("ViTForImageClassification"), lambda p: ViT(weights=p), lambda n: images(n, 3, 16, 16),
        lambda network, x: network.vit(x).last_hidden_state[:, 0],
    ),
    "ast with its classifier": (
        lambda: ast("ASTForAudioClassification"), lambda p: AST(weights=p), lambda n: images(n, 1, 20, 30),
        lambda network, x: network.audio_spectrogram_transformer(x[:, 0].mT).pooler_output,
    ),
    "bert": (
        lambda: bert("BertModel"), lambda p: BERT(weights=p), texts,
        lambda network, x: network(x, attention_mask=(x != 0).long()).last_hidden_state[:, 0],
    ),
    "bert with the heads of its pretraining": (
        lambda: bert("BertForPreTraining"), lambda p: BERT(weights=p), texts,
        lambda network, x: network.bert(x, attention_mask=(x != 0).long()).last_hidden_state[:, 0],
    ),
    "clip, image tower": (clip, lambda p: CLIPVision(weights=p), lambda n: images(n, 3, 16, 16), pooled_clip),
    "clip, text tower": (clip, lambda p: CLIPText(weights=p), texts, pooled_clip),
    "clip, text tower, pooled": (
        clip, lambda p: CLIPText(weights=p, pool="pooled"), texts,
        lambda network, x: network.text_model(x).pooler_output,
    ),
    "clip, image tower, pooled": (
        clip, lambda p: CLIPVision(weights=p, pool="pooled"), lambda n: images(n, 3, 16, 16),
        lambda network, x: network.vision_model(x).pooler_output,
    ),
}  # fmt: skip


@pytest.mark.parametrize(
    ("name", "how"),
    [(name, how) for name in FOLDERS for how in ("folder", "shards", "old file", "file")
     if how != "file" or "resnet" in name],  # the others' sizes are in the folder alone
)  # fmt: skip
def test_a_folder_of_transformers(
    name: str, how: str, tmp_path: Path, capfd: pytest.CaptureFixture[str], recwarn: pytest.WarningsRecorder
) -> None:
    make, load, inputs, expected = FOLDERS[name]
    network = make().eval()
    network.save_pretrained(tmp_path, max_shard_size="2KB" if how == "shards" else "1GB")
    if how == "shards":
        assert len(list(tmp_path.glob("*.safetensors"))) > 1
    path = tmp_path
    if how == "old file":
        state = safetensors.load_file(tmp_path / "model.safetensors")
        torch.save(state, tmp_path / "pytorch_model.bin")
        (tmp_path / "model.safetensors").unlink()
    if how == "file":
        path = tmp_path / "model.safetensors"
    capfd.readouterr()
    encoder = load(path)
    assert capfd.readouterr() == ("", "")  # neither bars nor reports
    assert encoder.training
    assert all(m.training for m in encoder.modules())
    x = inputs(3)
    torch.testing.assert_close(encoder.eval()(x), expected(network, x), rtol=0, atol=0)


def test_weights_in_half_precision_are_loaded_in_the_default_precision(tmp_path: Path) -> None:
    network = bert("BertModel").half()
    network.save_pretrained(tmp_path)
    encoder = BERT(weights=tmp_path)
    assert {p.dtype for p in encoder.parameters()} == {torch.float32}


def test_a_file_with_its_sizes_as_arguments(tmp_path: Path) -> None:
    network = vit("ViTModel", channels=1).eval()
    network.save_pretrained(tmp_path)
    encoder = ViT(16, 8, 1, weights=str(tmp_path / "model.safetensors"), config=LAYERS).eval()
    x = images(2, 1, 16, 16)
    assert torch.equal(encoder(x), network(x).last_hidden_state[:, 0])


# ---- names of torchvision -------------------------------------------------------------------------------------------


def like_torchvision() -> dict[str, Tensor]:
    """Random weights of a ResNet with one basic block per stage, under the names of torchvision and timm."""
    state = {"conv1.weight": torch.randn(4, 3, 7, 7), "fc.weight": torch.randn(5, 8), "fc.bias": torch.randn(5)}

    def norm(name: str, width: int) -> None:
        state[f"{name}.weight"] = torch.rand(width) + 0.5
        state[f"{name}.bias"] = torch.randn(width)
        state[f"{name}.running_mean"] = torch.randn(width)
        state[f"{name}.running_var"] = torch.rand(width) + 0.5
        state[f"{name}.num_batches_tracked"] = torch.tensor(7)

    norm("bn1", 4)
    for stage, (before, after) in enumerate([(4, 4), (4, 4), (4, 8), (8, 8)], 1):
        block = f"layer{stage}.0"
        state[f"{block}.conv1.weight"] = torch.randn(after, before, 3, 3) / 5
        state[f"{block}.conv2.weight"] = torch.randn(after, after, 3, 3) / 5
        norm(f"{block}.bn1", after)
        norm(f"{block}.bn2", after)
        if stage > 1:
            state[f"{block}.downsample.0.weight"] = torch.randn(after, before, 1, 1)
            norm(f"{block}.downsample.1", after)
    return state


def reference(p: dict[str, Tensor], x: Tensor) -> Tensor:
    """The network of those names, written out."""

    def norm(z: Tensor, name: str) -> Tensor:
        return torch.batch_norm(
            z, p[f"{name}.weight"], p[f"{name}.bias"], p[f"{name}.running_mean"], p[f"{name}.running_var"],
            False, 0.1, 1e-5, False,
        )  # fmt: skip

    z = norm(torch.conv2d(x, p["conv1.weight"], None, 2, 3), "bn1").relu()
    z = nn.functional.max_pool2d(z, 3, 2, 1)
    for stage in range(1, 5):
        block, stride = f"layer{stage}.0", 1 if stage == 1 else 2
        out = norm(torch.conv2d(z, p[f"{block}.conv1.weight"], None, stride, 1), f"{block}.bn1").relu()
        out = norm(torch.conv2d(out, p[f"{block}.conv2.weight"], None, 1, 1), f"{block}.bn2")
        if stage > 1:
            z = norm(torch.conv2d(z, p[f"{block}.downsample.0.weight"], None, stride), f"{block}.downsample.1")
        z = (out + z).relu()
    return z.mean(dim=(2, 3))


@pytest.mark.parametrize("ending", ["pth", "safetensors"])
def test_resnet_understands_the_names_of_torchvision(ending: str, tmp_path: Path) -> None:
    state, path = like_torchvision(), tmp_path / f"resnet.{ending}"
    if ending == "pth":
        torch.save(state, path)
    else:
        safetensors.save_file(state, path)
    encoder = ResNet(18, weights=path, config=RESNET).eval()
    x = images(2)
    torch.testing.assert_close(encoder(x), reference(state, x), rtol=1e-4, atol=1e-4)


def test_the_first_convolution_can_be_fitted_to_other_channels(tmp_path: Path) -> None:
    """A grey image in every channel gives the same features."""
    state, path = like_torchvision(), tmp_path / "resnet.pth"
    torch.save(state, path)
    grey = images(2, 1)
    expected = reference(state, grey.expand(-1, 3, -1, -1))
    for channels in (1, 2, 5):
        encoder = ResNet(18, channels, weights=path, adapt_channels=True, config=RESNET).eval()
        torch.testing.assert_close(encoder(grey.expand(-1, channels, -1, -1)), expected, rtol=1e-3, atol=1e-3)
    with pytest.raises(
        CheckpointError, match=r"embedder.convolution.weight .*\(4, 3, 7, 7\) instead of .*adapt_channels"
    ):
        ResNet(18, 1, weights=path, config=RESNET)


def test_video_weights_in_the_names_of_torchvision(tmp_path: Path) -> None:
    """Names and shapes of ``r2plus1d_18``, from its published file."""
    with torch.device("meta"):
        names = {n: tuple(t.shape) for n, t in VideoResNet().backbone.state_dict().items()}
    known = {
        "stem.0.weight": (45, 3, 1, 7, 7),
        "stem.3.weight": (64, 45, 3, 1, 1),
        "stem.4.running_mean": (64,),
        "layer1.0.conv1.0.0.weight": (144, 64, 1, 3, 3),
        "layer1.0.conv1.0.3.weight": (64, 144, 3, 1, 1),
        "layer1.1.conv2.1.weight": (64,),
        "layer2.0.conv1.0.0.weight": (230, 64, 1, 3, 3),
        "layer2.0.conv2.0.3.weight": (128, 230, 3, 1, 1),
        "layer2.0.downsample.0.weight": (128, 64, 1, 1, 1),
        "layer2.1.conv1.0.0.weight": (288, 128, 1, 3, 3),
        "layer4.1.conv2.1.running_var": (512,),
    }
    assert {n: names.get(n) for n in known} == known

    first = VideoResNet(3, layers=(1,) * 4, widths=(4, 4, 4, 8)).eval()
    state = {**first.backbone.state_dict(), "fc.weight": torch.zeros(400, 8), "fc.bias": torch.zeros(400)}
    torch.save(state, tmp_path / "video.pth")
    second = VideoResNet(3, layers=(1,) * 4, widths=(4, 4, 4, 8), weights=tmp_path / "video.pth").eval()
    x = videos(2, 3)
    assert torch.equal(second(x), first(x))
    depth = VideoResNet(
        1, layers=(1,) * 4, widths=(4, 4, 4, 8), weights=tmp_path / "video.pth", adapt_channels=True
    ).eval()
    torch.testing.assert_close(depth(x[:, :1]), first(x[:, :1].expand(-1, 3, -1, -1, -1)), rtol=1e-3, atol=1e-4)
    with pytest.raises(CheckpointError, match="of another shape: layer4.0"):
        VideoResNet(3, layers=(1,) * 4, widths=(4, 4, 4, 6), weights=tmp_path / "video.pth")
    with pytest.raises(CheckpointError, match="missing: layer1.1.conv1"):
        VideoResNet(3, layers=(2,) * 4, widths=(4, 4, 4, 8), weights=tmp_path / "video.pth")


# ---- refusals -------------------------------------------------------------------------------------------------------


def test_names_that_do_not_fit_are_in_the_message(tmp_path: Path) -> None:
    state = like_torchvision()
    shallow = {n: t for n, t in state.items() if not n.startswith("layer4.0.conv1")}
    torch.save(shallow, tmp_path / "a.pth")
    with pytest.raises(CheckpointError, match=r"1 missing: encoder.stages.3.layers.0.layer.0.convolution.weight. Give"):
        ResNet(18, weights=tmp_path / "a.pth", config=RESNET)
    torch.save({**state, "layer1.1.conv1.weight": torch.zeros(4, 4, 3, 3)}, tmp_path / "b.pth")
    with pytest.raises(CheckpointError, match=r"1 unknown: encoder.stages.0.layers.1.layer.0.convolution.weight"):
        ResNet(18, weights=tmp_path / "b.pth", config=RESNET)
    torch.save({"some": torch.zeros(3), "thing": torch.zeros(3)}, tmp_path / "c.pth")
    with pytest.raises(CheckpointError, match=r"\d+ missing: .*, \.\.\.; 2 unknown: some, thing"):
        ResNet(18, weights=tmp_path / "c.pth", config=RESNET)


def test_sizes_other_than_those_of_the_folder_are_refused(tmp_path: Path) -> None:
    vit("ViTModel").save_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match=r"position_embeddings \(1, 5, 8\) instead of \(1, 17, 8\)"):
        ViT(32, weights=tmp_path)
    with pytest.raises(CheckpointError, match=r"missing: layers.1"):
        ViT(weights=tmp_path, config={"num_hidden_layers": 2})


def test_a_folder_of_another_network_is_refused(tmp_path: Path) -> None:
    vit("ViTModel").save_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match=r"folder of BERT \(`model_type` bert\). Found 'vit'"):
        BERT(weights=tmp_path)


def test_nothing_is_fetched(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="Found nothing at 'bert-base-uncased'. Nothing is downloaded"):
        BERT(weights="bert-base-uncased")
    with pytest.raises(CheckpointError, match="with a config.json. Found none"):
        BERT(weights=tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "bert"}))
    with pytest.raises(CheckpointError, match="expected one of model.safetensors.*Found none"):
        BERT(weights=tmp_path)


class Hostile:
    """Executed by an unrestricted unpickler."""

    def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
        return os.mkdir, ("executed",)


@pytest.mark.parametrize("name", ["model.pth", "folder"])
def test_a_pickle_is_not_executed(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    if name == "folder":
        path.mkdir()
        (path / "config.json").write_text(json.dumps({"model_type": "bert", **LAYERS}))
        torch.save({"weight": Hostile()}, path / "pytorch_model.bin")
    else:
        torch.save({"weight": Hostile()}, path)
    with pytest.raises(CheckpointError, match="which was not executed"):
        BERT(VOCABULARY, weights=path)
    assert not Path("executed").exists()


def test_code_named_in_a_folder_is_not_run(tmp_path: Path) -> None:
    """``auto_map`` and kernels named in config.json are ignored."""
    network = bert("BertModel").eval()
    network.save_pretrained(tmp_path)
    file = tmp_path / "config.json"
    config = json.loads(file.read_text())
    config |= {"auto_map": {"AutoModel": "evil.Model"}, "_attn_implementation": "someone/kernel", "dtype": "float16"}
    file.write_text(json.dumps(config | {"quantization_config": {"quant_method": "awq"}, "attn_implementation": "x/y"}))
    (tmp_path / "evil.py").write_text("import os; os.mkdir('executed')")
    encoder = BERT(weights=tmp_path).eval()
    x = texts(2)
    expected = network(x, attention_mask=(x != 0).long()).last_hidden_state[:, 0]
    assert torch.equal(values(encoder(x)), expected)
    assert not Path("executed").exists()


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("model.safetensors", b"no safetensors", "expected a safetensors file at"),
        ("model.safetensors", b"", "expected a safetensors file at"),
        ("model.pth", b"no zip", "Found something else, which was not executed"),
        ("model.pth", b"", "Found something else, which was not executed"),
        ("model.h5", b"", "expected a .safetensors, .pt, .pth or .bin file. Found"),
    ],
)
def test_broken_files_are_refused(name: str, content: bytes, words: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(CheckpointError, match=words):
        BERT(VOCABULARY, weights=tmp_path / name, config=LAYERS)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"epoch": 3, "state_dict": {"a": torch.zeros(1)}}, r"Found \['epoch', 'state_dict'\]. Save the network's"),
        ([torch.zeros(1)], "Found list"),
        (torch.zeros(1), "Found Tensor"),
    ],
)
def test_files_of_something_else_are_refused(content: object, words: str, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "w.pt")
    with pytest.raises(CheckpointError, match=words):
        BERT(VOCABULARY, weights=tmp_path / "w.pt", config=LAYERS)


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ("{", "expected JSON in"),
        ("[1]", "expected an object in"),
        (json.dumps({"model_type": "bert", "hidden_size": "wide"}), "BertConfig refuses it"),
    ],
)
def test_broken_configurations_are_refused(config: str, words: str, tmp_path: Path) -> None:
    bert("BertModel").save_pretrained(tmp_path)
    (tmp_path / "config.json").write_text(config)
    with pytest.raises((CheckpointError, ModelError), match=words):
        BERT(weights=tmp_path)


def test_an_index_may_not_lead_out_of_its_folder(tmp_path: Path) -> None:
    bert("BertModel").save_pretrained(tmp_path / "elsewhere")
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"model_type": "bert", **LAYERS}))
    index = {"weight_map": {"embeddings.x": "../elsewhere/model.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(CheckpointError, match="expected file names in"):
        BERT(VOCABULARY, weights=folder)
    (folder / "model.safetensors.index.json").write_text("{}")
    with pytest.raises(CheckpointError, match="expected a `weight_map`"):
        BERT(VOCABULARY, weights=folder)
