"""Arguments of the wrong kind, and data without samples, features or classes: refused by name, never by torch."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from equimodal import (
    Batch,
    Classification,
    Inference,
    MultiLabel,
    MultimodalModel,
    PlainEngine,
    Regression,
    Segmentation,
    encoders,
    fusion,
)
from equimodal.data import from_arrays, synthetic
from equimodal.errors import DataError, MethodError, ModelError
from equimodal.fusion import Concat
from equimodal.methods import Joint
from tests.faults.families import attempt, many

NAN, INF = float("nan"), float("inf")
WRONG: list[Any] = [
    None, "a", "", b"x", NAN, INF, -INF, -1, 0, 1, 2, 0.5, 1e300, 1j, True, [], [1], ["a", 1], [NAN, 1.0], [[1], 2],
    (1, 0), {}, {"a": 1}, {"a": (0, 9)}, range(3), object(), np.float32(2), np.array([1.0, 2.0]), torch.tensor(3.0),
]  # fmt: skip
TASKS: list[Callable[..., Any]] = [Classification, MultiLabel, Regression, Segmentation]
SIZES = {"num_classes": 3, "num_labels": 3, "size": 2}


@pytest.mark.parametrize("task", TASKS, ids=lambda t: t.__name__)
def test_every_option_of_a_task_is_checked(task: Callable[..., Any]) -> None:
    """Whatever it is given, the task is made and has a finite loss, or the option is named."""
    options = inspect.signature(task).parameters
    for option in options:
        for value in WRONG:
            sizes = {name: size for name, size in SIZES.items() if name in options and name != option}
            made, message = attempt(task, **{**sizes, option: value})
            assert made is not None or f"`{option}" in message, (option, value, message)
            if made is None or made.outputs > 100:
                continue
            shape = (4, made.outputs, 4, 4) if made.dense else (4, made.outputs)
            like = (4, 4, 4) if made.dense else (4, getattr(made, "size", made.outputs))
            target = torch.zeros(like) if task is Regression else torch.zeros(like, dtype=torch.int64)
            target = target[:, 0] if task is Classification else target
            loss, message = attempt(made.loss, torch.randn(shape), target)
            far = option in ("mean", "deviation", "log")  # of a target that is not
            assert far or loss is None or torch.isfinite(loss), (option, value)


def options_of(kind: type[nn.Module]) -> dict[str, inspect.Parameter]:
    found = inspect.signature(kind).parameters.values()
    return {p.name: p for p in found if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)}


SHIPPED = [
    kind
    for name in encoders.__all__
    if inspect.isclass(kind := getattr(encoders, name)) and issubclass(kind, nn.Module) and kind is not encoders.Encoder
]
PRETRAINED = {"AST", "BERT", "CLIPText", "CLIPVision", "ResNet", "ViT", "VideoResNet"}  # large by default
SMALL = [0, -1, None, "a", NAN, INF, 0.5, 1j, True, [], [NAN], {"a": 1}, object(), b"x"]


@pytest.mark.parametrize("kind", SHIPPED, ids=lambda k: k.__name__)
def test_every_option_of_an_encoder_is_checked(kind: type[nn.Module]) -> None:
    """Whatever it is given, the encoder is made, or the option is named."""
    options = options_of(kind)
    needed: dict[str, Any] = {name: 4 for name, p in options.items() if p.default is p.empty and name != "encoder"}
    needed |= {"encoder": nn.Linear(2, 2)} if "encoder" in options else {}
    large = kind.__name__ in PRETRAINED
    for option in ("weights", "config", "pool") if large else options:
        for value in SMALL if option in options else ():
            if large and (value is None or value == [] or (option == "config" and isinstance(value, dict))):
                continue  # by default it is built, which takes long
            made, message = attempt(kind, **{**needed, option: value})
            named = re.search(r"`|Unknown|not a file|expected", message)
            assert made is not None or named, (option, value, message)


FUSIONS = [fusion.get(name) for name in fusion.available()]


@pytest.mark.parametrize("kind", FUSIONS, ids=lambda k: k.__name__)
def test_every_option_of_a_fusion_is_checked(kind: type[nn.Module]) -> None:
    options = options_of(kind)
    needed = {"feature_sizes": {"a": 4, "b": 4}} | ({"out_features": 3} if kind is fusion.Late else {})
    for option in options:
        for value in SMALL:
            arguments = {**needed, option: value}
            made, message = attempt(kind, **arguments)
            assert made is not None or "`" in message, (option, value, message)


N = 12
SPLIT = np.repeat(["train", "validation", "test"], 4)
Y = np.arange(N) % 2
DEGENERATE: dict[str, Callable[[], Any]] = {
    "no samples": lambda: from_arrays({"a": np.zeros((0, 3))}, [], []),
    "no features": lambda: from_arrays({"a": np.zeros((N, 0))}, Y, SPLIT),
    "no steps": lambda: from_arrays({"a": np.zeros((N, 0, 3))}, Y, SPLIT),
    "no pixels": lambda: from_arrays({"a": np.zeros((N, 1, 0, 4))}, Y, SPLIT),
    "no numbers to predict": lambda: from_arrays({"a": np.ones((N, 2))}, np.ones((N, 0)), SPLIT, task="regression"),
    "no labels": lambda: from_arrays({"a": np.ones((N, 2))}, np.ones((N, 0), int), SPLIT, task="multilabel"),
    "one sample": lambda: from_arrays({"a": np.zeros((1, 3))}, [0], ["train"]),
    "one class": lambda: from_arrays({"a": np.ones((N, 2))}, np.zeros(N, int), SPLIT),
    "one class to learn": lambda: from_arrays({"a": np.ones((N, 2))}, np.repeat([0, 1], [4, 8]), SPLIT),
    "classes as a text": lambda: from_arrays({"a": np.ones((N, 2))}, Y, SPLIT, classes="ny"),
    "nobody has it": lambda: from_arrays({"a": np.ones((N, 2)), "b": np.ones((N, 1))}, Y, SPLIT, present={"a": Y * 0}),
    "no names": lambda: synthetic([]),
    "nothing": lambda: synthetic(None),  # type: ignore[arg-type]
    "a number": lambda: synthetic(2.0),  # type: ignore[arg-type]
}  # fmt: skip


@pytest.mark.parametrize("case", DEGENERATE)
def test_data_from_which_nothing_can_be_learnt_are_refused(case: str) -> None:
    with pytest.raises(DataError, match="xpected"):
        DEGENERATE[case]()


@pytest.mark.parametrize("modalities", ["ab", [], (), ["a", "a"]])
def test_an_inference_rule_is_over_different_modalities(modalities: Any) -> None:
    with pytest.raises(MethodError, match="`modalities`: expected different names"):
        Inference(modalities)


ENCODERS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "linear": (lambda: nn.Linear(3, 4), (3,)),
    "convolution": (lambda: nn.Sequential(nn.Conv1d(3, 4, 1), nn.AdaptiveAvgPool1d(1), nn.Flatten()), (3, 5)),
    "image": (lambda: nn.Sequential(nn.Conv2d(1, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten()), (1, 6, 6)),
    "words": (lambda: nn.Sequential(nn.EmbeddingBag(9, 4)), (5,)),
}


@pytest.mark.parametrize("kind", ENCODERS)
def test_inputs_that_an_encoder_does_not_take_are_named_by_their_modality(kind: str) -> None:
    """In training and in prediction, whether others have the modality or not."""
    encoder, shape = ENCODERS[kind]
    model = MultimodalModel({"a": encoder(), "b": nn.Linear(2, 4)}, Concat({"a": 4, "b": 4}), nn.Linear(8, 2))
    method = Joint(model, Classification(2))
    engine = PlainEngine(torch.optim.SGD(method.parameters(), 0.1))
    refused = 0
    for rng in many(12, seed=90):
        dtype = [torch.float32, torch.float64, torch.float16, torch.int64][rng.integers(4)]
        size = tuple(int(rng.integers(1, 8)) for _ in range(rng.integers(1, 4))) if rng.random() < 0.6 else shape
        x = torch.from_numpy(rng.uniform(0, 12, (4, *size))).to(dtype)
        present = None if rng.random() < 0.5 else {"a": torch.tensor([True, False, True, True])}
        inputs = {"a": x, "b": torch.ones(4, 2)}
        batch = Batch(inputs, torch.tensor([0, 1, 0, 1]), present)
        for call, given in ((method.training_step, (batch, engine)), (method.predict, (inputs, present))):
            made, message = attempt(call, *given)
            maps = kind == "linear" and "`head`: expected one that reads what the fusion returns" in message
            assert made is not None or "'a'" in message or maps, message  # a linear layer takes any axes before its own
            refused += made is None
    assert refused


@pytest.mark.parametrize("part", ["encoders", "fusion", "head", "module"])
def test_parts_of_a_model_are_modules(part: str) -> None:
    for value in WRONG:
        parts: dict[str, Any] = {
            "encoders": {"a": nn.Linear(2, 3)},
            "fusion": Concat({"a": 3}),
            "head": nn.Linear(3, 2),
        }
        if part == "module":
            parts["encoders"] = {"a": value}
        else:
            parts[part] = value
        with pytest.raises(ModelError, match=f"`{'encoders' if part == 'module' else part}"):
            MultimodalModel(**parts)
