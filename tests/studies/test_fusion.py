"""The fusion of a configuration: by name with options, the head that fits, and what a run keeps of it."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from torch import nn

from equimodal import PlainEngine
from equimodal.data import Dataset, from_arrays, load
from equimodal.encoders import for_modality
from equimodal.errors import DataError, EquimodalError, MethodError, ModelError, UnknownNameError, UnsupportedError
from equimodal.fusion import Concat, CrossAttention, Late
from equimodal.fusion import available as fusions
from equimodal.fusion import get as get_fusion
from equimodal.methods import EpochContext, available
from equimodal.model import MultimodalModel
from equimodal.studies import (
    Entry,
    ModelConfig,
    RunConfig,
    StudyConfig,
    build_data,
    build_method,
    build_model,
    compare,
    export_run,
    fusion_options,
    load_run,
    predict_run,
    run,
)
from equimodal.studies.setup._fusion import _STEPS, _STEPS_OF_IMAGES
from tests.helpers import companions_of
from tests.studies.helpers import as_of_the_first_version, assert_same_run, config

OPTIONS: dict[str, dict[str, Any]] = {
    "Concat": {"fill": "learnt"}, "Sum": {"fill": "renormalise"}, "Late": {"fill": "zeros"}, "FiLM": {"main": "v"},
    "Gated": {"main": "s", "out_features": 5}, "LowRank": {"rank": 2, "out_features": 7},
    "CrossAttention": {"width": 8, "heads": 2, "layers": 1},
    "LateTransformer": {"width": 8, "heads": 2, "hidden": 8, "layers": 1},
}  # fmt: skip
every_fusion = pytest.mark.parametrize("name", fusions())
# what is refused with a sentence; every other pair of a fusion and a method trains
GENERAL = ("Joint", "MultiLoss", "Unimodal", "Ensemble", "PretrainFinetune", "ModalityDropout", "MLA", "CGGM", "MIE")
"""Methods that take every fusion, but for what follows. Others say for themselves what they refuse."""
REFUSED = {("Late", "CGGM"): "CGGM needs a head that ends in an affine layer"}


def small(name: str, **changes: Any) -> ModelConfig:
    return ModelConfig(**{"feature_size": 6, "size": "small", "fusion": name, **changes})


@pytest.fixture(scope="module")
def mixed() -> Dataset:
    """A sequence, a vector and an image of four classes; a third of the samples lack the vector."""
    rng = np.random.default_rng(0)
    target = np.arange(90) % 3
    signal = np.eye(3)[target]
    inputs: dict[str, Any] = {
        "s": rng.standard_normal((90, 9, 3)) + 2 * signal[:, None],
        "v": rng.standard_normal((90, 3)) + 2 * signal,
        "i": rng.standard_normal((90, 1, 8, 8)) + target[:, None, None, None],
    }
    split = np.repeat(["train", "validation", "test"], [60, 15, 15])
    return from_arrays(inputs, target, split, present={"v": np.arange(90) % 3 != 0})


@pytest.fixture(scope="module")
def pixels(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """Two images of 8 x 8 and a mask of three classes."""
    path = tmp_path_factory.mktemp("bundle") / "pixels.npz"
    rng = np.random.default_rng(0)
    mask = rng.integers(0, 3, (48, 8, 8)).astype(np.uint8)
    arrays: dict[str, Any] = {m: (rng.standard_normal((48, 1, 8, 8)) + mask[:, None]).astype(np.float32) for m in "ab"}
    np.savez(path, **arrays, mask=mask, split=np.repeat([0, 1, 2], 16))
    card = {
        "name": "pixels",
        "modalities": {m: {"array": m, "kind": "image"} for m in "ab"},
        "targets": {"outline": {"array": "mask", "task": "segmentation", "classes": ["no", "edge", "core"]}},
        "protocols": {"one": {"array": "split", "train": 0, "validation": 1, "test": 2}},
    }
    path.with_suffix(".yaml").write_text(json.dumps(card), encoding="utf-8")  # JSON is YAML
    return load(path)


# ---- the model ------------------------------------------------------------------------------------------------------


def test_the_default_is_concat_and_a_linear_head() -> None:
    """Also number by number: the weights are those of the same modules made by hand."""
    data = build_data(config().data)
    torch.manual_seed(3)
    model = build_model(data, ModelConfig(feature_size=6, size="small"))
    torch.manual_seed(3)
    encoders: dict[str, nn.Module] = {
        m: for_modality(spec, out_features=6, size="small") for m, spec in data.modalities.items()
    }
    by_hand = MultimodalModel(encoders, Concat(dict.fromkeys(encoders, 6)), nn.Linear(12, 3))
    assert isinstance(model.fusion, Concat)
    assert type(model.head) is nn.Linear
    for (a, x), (b, y) in zip(model.state_dict().items(), by_hand.state_dict().items(), strict=True):
        assert a == b
        assert torch.equal(x, y)


@every_fusion
def test_options_reach_the_fusion_and_the_head_fits(name: str, mixed: Dataset) -> None:
    state = torch.get_rng_state()
    torch.manual_seed(0)
    after = torch.get_rng_state()
    model = build_model(mixed, small(name, fusion_options=OPTIONS[name]))
    again = torch.get_rng_state()
    torch.set_rng_state(after)
    second = build_model(mixed, small(name, fusion_options=OPTIONS[name]))
    assert torch.equal(torch.get_rng_state(), again)
    torch.set_rng_state(state)
    fusion: Any = model.fusion
    assert type(fusion).__name__ == name
    assert all(getattr(fusion, k) == v for k, v in OPTIONS[name].items() if k not in ("heads", "layers"))
    assert all(torch.equal(p, q) for p, q in zip(model.parameters(), second.parameters(), strict=True))
    assert all(m.training for m in model.modules())
    batch = mixed.train.batch(range(8))
    assert model(batch.inputs, batch.present).shape == (8, 3)
    if name == "Late":
        assert type(model.head) is nn.Identity
    else:
        assert type(model.head) is nn.Linear
        assert model.head.in_features == fusion.out_features


@every_fusion
def test_a_hidden_layer_of_the_head(name: str, mixed: Dataset) -> None:
    model = build_model(mixed, small(name, head_hidden=11))
    batch = mixed.train.batch(range(4))
    assert model(batch.inputs, batch.present).shape == (4, 3)
    where = model.fusion if name == "Late" else model.head
    hidden = [m for m in where.modules() if isinstance(m, nn.Linear) and m.out_features == 11]
    assert len(hidden) == (3 if name == "Late" else 1)


def test_heads_of_tokens_and_maps(mixed: Dataset) -> None:
    """Tokens and maps that the fusion hands on are averaged in front of the linear layer."""
    tokens = {"s": {"pool": "tokens"}}
    model = build_model(mixed, small("FiLM", encoders=tokens))  # the first modality is modulated
    batch = mixed.test.batch(range(4))
    assert isinstance(model.head, nn.Sequential)
    assert model(batch.inputs, batch.present).shape == (4, 3)
    maps = build_model(mixed, small("FiLM", encoders={"i": {"encoder": "unet"}}, fusion_options={"main": "i"}))
    assert maps(batch.inputs, batch.present).shape == (4, 3)
    time = build_model(mixed, small("Concat", encoders=tokens, fusion_options={"sequences": "time"}))
    assert isinstance(time.head, nn.Sequential)
    assert time(batch.inputs, batch.present).shape == (4, 3)


def test_attention_gets_sequences_where_encoders_have_them(mixed: Dataset) -> None:
    model = build_model(mixed, small("CrossAttention"))
    assert isinstance(model.fusion, CrossAttention)
    found = model.encode(mixed.test.batch(range(2)).inputs)
    assert [type(found[m]).__name__ for m in ("s", "v", "i")] == ["Tokens", "Tensor", "Tensor"]
    chosen = build_model(mixed, small("CrossAttention", encoders={"i": {"encoder": "gru"}, "s": {"encoder": "gru"}}))
    found = chosen.encode(mixed.test.batch(range(2)).inputs)
    assert found["i"].values.shape == (2, 8, 6)  # its columns
    assert found["s"].values.shape == (2, 9, 6)
    own = build_model(mixed, small("CrossAttention", encoders={"s": {"pool": "segments"}, "i": {"encoder": "conv1d"}}))
    assert own.encode(mixed.test.batch(range(2)).inputs)["s"].shape == (2, 6)
    other = build_model(mixed, small("Concat"))  # only there
    assert other.encode(mixed.test.batch(range(2)).inputs)["s"].shape == (2, 6)


@pytest.mark.parametrize("encoder", list(_STEPS))
def test_encoders_that_keep_their_steps_have_such_a_pool(encoder: str) -> None:
    """The table of the builder against the constructors."""
    import equimodal.encoders as known

    classes: dict[str, list[Any]] = {
        "conv1d": [known.Conv1d], "gru": [known.GRU], "transformer": [known.Transformer, known.TextTransformer],
        "bert": [known.BERT], "clip": [known.CLIPText, known.CLIPVision], "vit": [known.ViT], "ast": [known.AST],
        "resnet18": [known.ResNet], "resnet50": [known.ResNet], "r2plus1d": [known.VideoResNet],
        "r3d": [known.VideoResNet],
    }  # fmt: skip
    for kind in classes[encoder]:
        assert "pool" in inspect.signature(kind).parameters
        for way in {_STEPS[encoder], _STEPS_OF_IMAGES.get(encoder, _STEPS[encoder])}:
            assert f'``"{way}"``' in str(inspect.getdoc(kind))


def test_attention_between_single_vectors_is_refused(mixed: Dataset) -> None:
    data = build_data(config().data)
    with pytest.raises(UnsupportedError, match=r"m1: mlp, m2: mlp\)\. Choose another fusion: Concat, Sum"):
        build_model(data, small("CrossAttention"))
    with pytest.raises(UnsupportedError, match=r"Set model\.encoders\.s\.pool tokens or model\.encoders\.i\.encoder"):
        build_model(mixed, small("CrossAttention", encoders={"s": {"pool": "segments"}}))


@every_fusion
def test_a_segmentation_needs_a_fusion_that_keeps_the_pixels(name: str, pixels: Dataset) -> None:
    if get_fusion(name).pooled:
        with pytest.raises(UnsupportedError, match=r"one output per pixel.*Use Concat, Sum, Late or FiLM"):
            build_model(pixels, small(name))
        return
    for hidden in (0, 5):
        model = build_model(pixels, small(name, head_hidden=hidden))
        assert model(pixels.test.batch(range(2)).inputs).shape == (2, 3, 8, 8)
    vectors = {m: {"encoder": "conv2d"} for m in "ab"}
    with pytest.raises(EquimodalError, match=r"one output per (pixel|position)"):
        build_model(pixels, small(name, encoders=vectors))


# ---- every method ---------------------------------------------------------------------------------------------------


def one_step(data: Dataset, settings: ModelConfig, name: str) -> None:
    torch.manual_seed(0)
    model, needed = build_model(data, settings), companions_of(name)
    method = build_method(model, data, name, {} if needed is None else needed(model, data.task))
    engine = PlainEngine(torch.optim.SGD(method.parameters(), lr=1e-3))
    before = {n: p.detach().clone() for n, p in method.named_parameters()}
    method.train().on_train_epoch_start(EpochContext(0, 1, 1))
    batch = data.train.batch(range(16))
    report = method.training_step(batch, engine)
    assert all(np.isfinite(float(v)) for v in report.losses.values())
    assert all(bool(torch.isfinite(p).all()) for p in method.parameters())
    assert any(not torch.equal(p, before[n]) for n, p in method.named_parameters())
    assert torch.isfinite(method.predict(batch.inputs, batch.present).output).all()


def one_step_or_refusal(data: Dataset, name: str, method: str) -> None:
    """What is known to be refused is refused; of a method that is not known here, any refusal by name is right."""
    if (name, method) in REFUSED:
        with pytest.raises((UnsupportedError, ModelError), match=REFUSED[name, method]):
            one_step(data, small(name), method)
        return
    try:
        one_step(data, small(name), method)
    except (UnsupportedError, ModelError, MethodError) as error:
        if method in GENERAL or not str(error).startswith("`"):
            raise


@pytest.mark.parametrize("method", available(outside=False))
@every_fusion
def test_every_method_trains_with_every_fusion_or_says_why_not(name: str, method: str, mixed: Dataset) -> None:
    one_step_or_refusal(mixed, name, method)


@pytest.mark.parametrize("method", available(outside=False))
@pytest.mark.parametrize("name", [n for n in fusions() if not get_fusion(n).pooled])
def test_every_method_segments_with_every_fusion_of_maps(name: str, method: str, pixels: Dataset) -> None:
    one_step_or_refusal(pixels, name, method)


# ---- bad input ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: ModelConfig(fusion="Lowrnk"), UnknownNameError, r"Unknown fusion 'Lowrnk'\. Did you mean 'LowRank'"),
        (lambda: ModelConfig(fusion=7), ModelError, r"`model\.fusion`: expected one of Concat"),  # type: ignore[arg-type]
        (
            lambda: ModelConfig(fusion="LowRank", fusion_options={"rnk": 2}),
            UnknownNameError,
            r"option of LowRank 'rnk'\. Did you mean 'rank'",
        ),
        (lambda: ModelConfig(fusion="Sum", fusion_options={"rank": 2}), UnknownNameError, "option of Sum 'rank'"),
        (
            lambda: ModelConfig(fusion="Late", fusion_options={"dense": True}),
            UnknownNameError,
            "option of Late 'dense'",
        ),
        (lambda: ModelConfig(fusion_options=["fill"]), ModelError, "expected option -> value"),  # type: ignore[arg-type]
    ],
)
def test_unknown_names_are_refused_when_the_configuration_is_made(
    make: Callable[[], ModelConfig], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        make()


@pytest.mark.parametrize(
    ("name", "options", "error", "message"),
    [
        ("Concat", {"fill": "zero"}, ModelError, "`fill`"),
        ("LowRank", {"fill": "renormalise"}, UnsupportedError, "no meaning for LowRank"),
        ("LowRank", {"rank": "two"}, ModelError, "`rank`"),
        ("Gated", {"out_features": "wide"}, ModelError, "`out_features`"),
        ("FiLM", {"main": "w"}, UnknownNameError, "modality for `main` 'w'"),
        ("CrossAttention", {"dropout": "high"}, ModelError, r"`dropout`: expected a number in \[0, 1\)\. Found 'high'"),
        ("CrossAttention", {"width": 6, "heads": 4}, ModelError, "`width`"),
    ],
)
def test_bad_options_are_refused_when_the_model_is_built(
    name: str, options: dict[str, Any], error: type[Exception], message: str, mixed: Dataset
) -> None:
    with pytest.raises(error, match=message):
        build_model(mixed, small(name, fusion_options=options))


def test_names_and_options_are_listed() -> None:
    assert ModelConfig(fusion="lowrank").fusion == "LowRank"
    assert set(fusions()) == set(OPTIONS)
    for name in fusions():
        assert set(OPTIONS[name]) <= set(fusion_options(name))
        assert "fill" in fusion_options(name)
        assert not {"self", "feature_sizes"} & set(fusion_options(name))
    assert list(fusion_options("late")) == ["fill"]
    with pytest.raises(UnknownNameError, match="fusion 'Max'"):
        fusion_options("Max")


# ---- runs -----------------------------------------------------------------------------------------------------------


def low_rank(method: str = "Joint", **training: Any) -> RunConfig:
    settings = config(method, **training)
    settings.model = ModelConfig(6, "small", encoders=settings.model.encoders, fusion="LowRank",
                                 fusion_options={"rank": 2})  # fmt: skip
    return settings


def test_a_run_keeps_its_fusion(tmp_path: Path) -> None:
    """Saved, loaded, stopped and continued, predicted and exported."""
    folder = tmp_path / "a"
    metrics = run(low_rank(), folder, loggers=False)
    stored = yaml.safe_load((folder / "config.yaml").read_text())["model"]
    assert (stored["fusion"], stored["fusion_options"]) == ("LowRank", {"rank": 2})
    _, data, method = load_run(folder)
    assert type(method.multimodal.fusion).__name__ == "LowRank"  # type: ignore[attr-defined]
    whole = data.test.batch()
    table = predict_run(folder)
    expected = method.predict(whole.inputs).probabilities
    assert np.allclose(table["probabilities"], expected.numpy(), atol=1e-6)
    assert (table["prediction"] == table["target"]).mean() == pytest.approx(metrics["test"]["score"])

    def stop(event: Any) -> None:
        if event["epoch"] == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(low_rank(), tmp_path / "b", progress=stop, loggers=False)
    run(low_rank(), tmp_path / "b", resume=True, loggers=False)
    assert_same_run(folder, tmp_path / "b")
    exported = torch.export.load(export_run(folder, tmp_path / "model.pt2")).module()
    raw = {}
    for m, x in whole.inputs.items():
        mean, scale = data.standardisation(m)
        raw[m] = x / torch.from_numpy(scale) + torch.from_numpy(mean)
    assert torch.allclose(exported(raw)["probabilities"], expected, atol=1e-4)


def test_another_fusion_is_another_run(tmp_path: Path) -> None:
    run(low_rank(epochs=1), tmp_path / "a", loggers=False)
    for change in ({"fusion": "Sum", "fusion_options": {}}, {"fusion_options": {"rank": 3}}):
        other = low_rank(epochs=1)
        vars(other.model).update(change)
        with pytest.raises(DataError, match="other values of model"):
            run(other, tmp_path / "a", resume=True, loggers=False)


def study(settings: RunConfig) -> StudyConfig:
    return StudyConfig({"Joint": Entry("Joint")}, [0], settings.data, settings.model, settings.training, controls=False)


def test_a_finished_cell_of_another_fusion_is_not_taken(tmp_path: Path) -> None:
    found = compare(study(low_rank(epochs=1)), tmp_path / "s", cost=False)
    assert found["budget"]["model"]["fusion"] == "LowRank"
    with pytest.raises(DataError, match="other model"):
        compare(study(config(epochs=1)), tmp_path / "s", cost=False)


def test_folders_from_before_there_was_a_choice(tmp_path: Path) -> None:
    settings = config(epochs=1)
    metrics = run(settings, tmp_path / "a", loggers=False)
    compare(study(settings), tmp_path / "s", cost=False)
    as_of_the_first_version(tmp_path)
    for file in (tmp_path / "a" / "config.yaml", *tmp_path.rglob("s/**/*.yaml")):
        stored = yaml.safe_load(file.read_text())
        for name in ("fusion", "fusion_options"):
            del stored["model"][name]
        file.write_text(yaml.safe_dump(stored))
    assert load_run(tmp_path / "a")[0].model == settings.model
    assert run(settings, tmp_path / "a", resume=True, loggers=False) == metrics
    compare(study(settings), tmp_path / "s", cost=False)
    with pytest.raises(DataError, match="other model"):
        compare(study(low_rank(epochs=1)), tmp_path / "s", cost=False)


def test_a_late_fusion_reads_its_own_heads(mixed: Dataset) -> None:
    model = build_model(mixed, small("Late"))
    assert isinstance(model.fusion, Late)
    method = build_method(model, mixed, "Joint", {})
    batch = mixed.test.batch(range(6))
    assert set(method.predict(batch.inputs, batch.present).unimodal) == {"s", "v", "i"}
