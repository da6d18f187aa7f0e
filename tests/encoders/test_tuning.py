"""Frozen networks stay put to the last bit; adapters train and nothing else does; what is missing is said."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import equimodal
from equimodal import Batch, Classification, MultimodalModel
from equimodal.encoders import (
    AST,
    BERT,
    MLP,
    CLIPText,
    CLIPVision,
    Conv1d,
    Conv2d,
    Encoder,
    Frozen,
    LoRA,
    ResNet,
    VideoResNet,
    ViT,
)
from equimodal.errors import MissingExtraError, ModelError
from equimodal.fusion import Concat
from equimodal.methods import Joint, Method
from tests.encoders.families import CLIP_LAYERS, LAYERS, RESNET, VOCABULARY, images, sequences, texts, videos
from tests.helpers import adamw, announce, assert_identical, moved, weights

Make = Callable[..., Encoder]

BACKBONES: dict[str, tuple[Make, Callable[[int], Any]]] = {
    "resnet": (lambda **o: ResNet(18, config=RESNET, **o), images),
    "video": (lambda **o: VideoResNet(2, layers=(1,) * 4, widths=(4, 4, 4, 8), **o), videos),
    "vit": (lambda **o: ViT(16, 8, config={**LAYERS, "hidden_dropout_prob": 0.3}, **o), lambda n: images(n, 3, 16, 16)),
    # of one layer, its first tokens, which start at zero, would have no gradient for their queries
    "ast": (lambda **o: AST(20, 30, pool="mean", config=LAYERS, **o), lambda n: images(n, 1, 20, 30)),
    "bert": (lambda **o: BERT(VOCABULARY, config=LAYERS, **o), texts),
    "clip image": (lambda **o: CLIPVision(16, 8, config=CLIP_LAYERS, **o), lambda n: images(n, 3, 16, 16)),
    "clip text": (lambda **o: CLIPText(VOCABULARY, config=CLIP_LAYERS, **o), texts),
}
ADAPTABLE = ["vit", "ast", "bert", "clip image", "clip text"]


def joint(encoder: Encoder) -> Method:
    width = encoder.out_features
    assert isinstance(width, int)
    encoders: dict[str, nn.Module] = {"first": encoder, "second": MLP(3, (4,), 4)}
    model = MultimodalModel(encoders, Concat({"first": width, "second": 4}), nn.Linear(width + 4, 3))
    return Joint(model, Classification(3))


def steps(method: Method, inputs: Any, count: int = 3) -> None:
    """Steps of AdamW with weight decay over everything, frozen parameters included."""
    engine = adamw(method)
    for parameter in method.parameters():
        if not parameter.requires_grad:
            engine.optimizers[0].add_param_group({"params": [parameter]})
    size = 6
    announce(method.train(), engine)
    for _ in range(count):
        batch = Batch({"first": inputs(size), "second": torch.randn(size, 3)}, torch.arange(size) % 3)
        method.training_step(batch, engine)


def settle(encoder: nn.Module) -> None:
    """Running statistics that are not the initial ones."""
    for name, buffer in encoder.named_buffers():
        if name.endswith(("running_mean", "running_var")):
            buffer.uniform_(0.5, 1.5)


@pytest.mark.parametrize("name", BACKBONES)
def test_a_frozen_network_does_not_change_at_all(name: str) -> None:
    make, inputs = BACKBONES[name]
    encoder = make(tuning="frozen", out_features=5)
    settle(encoder)
    method = joint(encoder)
    before, projection = weights(encoder.backbone), weights(encoder.projection)  # type: ignore[arg-type]
    steps(method, inputs)
    assert_identical(before, weights(encoder.backbone))  # type: ignore[arg-type]
    assert any(bool(d.any()) for d in moved(projection, encoder.projection).values())  # type: ignore[arg-type]
    x = inputs(3)
    assert torch.equal(encoder.train()(x), encoder.eval()(x))  # no dropout, no batch statistics


@pytest.mark.parametrize("name", BACKBONES)
def test_a_full_network_does_change(name: str) -> None:
    make, inputs = BACKBONES[name]
    encoder = make(out_features=5)
    before = weights(encoder)
    steps(joint(encoder), inputs)
    still = [n for n, d in moved(before, encoder).items() if not bool(d.any())]
    assert not still
    buffers = [n for n in before if n.endswith("running_mean")]
    assert all(not torch.equal(before[n], weights(encoder)[n]) for n in buffers)


@pytest.mark.parametrize("inner", [lambda: Conv1d(5, (4, 4), 5, dropout=0.5), lambda: Conv2d(1, (4, 4), 5)])
def test_any_encoder_can_be_frozen(inner: Callable[[], nn.Module]) -> None:
    encoder = Frozen(inner())
    settle(encoder)
    before = weights(encoder)
    inputs = sequences if isinstance(encoder.encoder, Conv1d) else lambda n: images(n, 1, 8, 8)
    steps(joint(encoder), inputs)
    assert_identical(before, weights(encoder))
    x = inputs(4)
    assert torch.equal(encoder.train()(x), encoder.eval()(x))
    assert Frozen(nn.Linear(3, 2), out_features=2).out_features == 2


# ---- adapters -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ADAPTABLE)
def test_only_adapters_and_the_new_layer_train(name: str) -> None:
    pytest.importorskip("peft")
    make, inputs = BACKBONES[name]
    encoder = make(tuning=LoRA(rank=2, dropout=0.1), out_features=5)
    trained = {n for n, p in encoder.named_parameters() if p.requires_grad}
    adapters = {n for n in trained if "lora_" in n}
    assert trained == adapters | {"projection.weight", "projection.bias"}
    assert len(adapters) == 4  # two matrices, for queries and for values, in one layer
    before = weights(encoder)
    steps(joint(encoder), inputs)
    changes = moved(before, encoder)
    assert {n for n, d in changes.items() if bool(d.any())} == trained


@pytest.mark.parametrize("name", ADAPTABLE)
def test_adapters_start_from_the_network_they_adapt(name: str) -> None:
    """B is zero at first: the features are those of the network alone, to the last bit."""
    pytest.importorskip("peft")
    make, inputs = BACKBONES[name]
    torch.manual_seed(3)
    plain = make().eval()
    torch.manual_seed(3)
    adapted = make(tuning="lora").eval()
    x = inputs(3)
    assert torch.equal(adapted(x), plain(x))
    (layer,) = [m for n, m in adapted.named_modules() if n.endswith(("v_proj", "value"))]
    parts: Any = layer
    low, high = parts.lora_A["default"].weight, parts.lora_B["default"].weight
    assert (low.shape[0], high.shape[1]) == (8, 8)
    with torch.no_grad():
        high.normal_()
    z = torch.randn(2, low.shape[1])
    expected = parts.base_layer(z) + (z @ low.T @ high.T) * (16.0 / 8)
    torch.testing.assert_close(parts(z), expected)


def test_adapters_from_a_configuration_file() -> None:
    pytest.importorskip("peft")
    encoder = BERT(VOCABULARY, tuning={"rank": 3, "targets": ["query", "dense"]}, config=LAYERS)
    adapted = {n.split(".lora_")[0].rpartition(".")[2] for n, p in encoder.named_parameters() if p.requires_grad}
    assert adapted == {"query", "dense"}


def test_adapters_on_layers_that_are_not_there_are_refused() -> None:
    pytest.importorskip("peft")
    with pytest.raises(ModelError, match=r"`targets`: .*'query', 'value'.*Found \['q_proj'\]"):
        BERT(VOCABULARY, tuning=LoRA(targets=["q_proj"]), config=LAYERS)


def test_adapters_after_pretrained_weights(tmp_path: Path) -> None:
    pytest.importorskip("peft")
    transformers: Any = pytest.importorskip("transformers")
    network = transformers.BertModel(transformers.BertConfig(vocab_size=VOCABULARY, **LAYERS)).eval()
    network.save_pretrained(tmp_path)
    encoder = BERT(weights=tmp_path, tuning="lora").eval()
    x = texts(3)
    expected: Tensor = network(x, attention_mask=(x != 0).long()).last_hidden_state[:, 0]
    assert torch.equal(encoder(x), expected)


# ---- what is not installed ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "make",
    [
        lambda: ResNet(18, config=RESNET),
        lambda: ViT(16, 8),
        lambda: AST(),
        lambda: BERT(),
        lambda: CLIPVision(),
        lambda: CLIPText(),
    ],
)
def test_a_missing_transformers_is_named_with_the_line_that_installs_it(
    make: Callable[[], object], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(MissingExtraError, match=r"'transformers'.*pip install \"equimodal\[encoders\]\""):
        make()


def test_a_missing_peft_is_named_with_the_line_that_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(
        MissingExtraError, match=r"LoRA needs the package 'peft'.*pip install \"equimodal\[encoders\]\""
    ):
        BERT(VOCABULARY, config=LAYERS, tuning="lora")
    BERT(VOCABULARY, config=LAYERS)


def test_importing_and_small_encoders_need_neither() -> None:
    code = (
        "import sys, torch, equimodal, equimodal.encoders as e\n"
        "e.Conv1d(3), e.GRU(3), e.MLP(3), e.Conv2d(3), e.Transformer(3), e.TextTransformer(9), e.VideoResNet(1)\n"
        "e.Frozen(e.MLP(3))\n"
        "loaded = {n.split('.')[0] for n in sys.modules}\n"
        "assert not loaded & {'transformers', 'peft', 'huggingface_hub', 'safetensors'}, loaded\n"
    )
    source = str(Path(equimodal.__file__).parents[1])
    done = subprocess.run(
        [sys.executable, "-c", code], env={"PYTHONPATH": source}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
