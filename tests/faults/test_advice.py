"""A refusal names what to do where the reader is: on the command line, in a configuration, in a card."""

from __future__ import annotations

import re
from typing import Any, cast

import numpy as np
import pytest
import torch

from equimodal.data import from_arrays, loader
from equimodal.errors import DataError, TargetError
from tests.faults.families import attempt, many

N = 40
SPLIT = ["train"] * 24 + ["validation"] * 8 + ["test"] * 8


def test_advice_about_an_encoder_names_its_option() -> None:
    studies = pytest.importorskip("equimodal.studies")
    for rng in many(5, seed=82):
        name = str(rng.choice(["text", "words", "a_b"]))
        inputs = {name: rng.integers(0, 50, (N, 6)), "x": rng.normal(size=(N, 3))}
        data = from_arrays(inputs, np.arange(N) % 2, SPLIT, kinds={name: "tokens"})
        model, message = attempt(studies.build_model, data, studies.ModelConfig(feature_size=8))
        assert model is None
        (flag,) = set(re.findall(r"--(model[.]encoders[.]\S+)", message))
        assert flag == f"model.encoders.{name}.vocabulary"
        options = {name: {flag.rpartition(".")[2]: 50}}  # what was advised works
        studies.build_model(data, studies.ModelConfig(feature_size=8, encoders=options))


def test_balanced_weights_make_all_classes_count_the_same() -> None:
    for rng in many(20, seed=80):
        drawn = rng.permutation(np.repeat(np.arange(3), rng.multinomial(N - 15, [0.6, 0.3, 0.1]) + 4))
        target = np.concatenate([np.arange(3), drawn])  # every class is among the training samples
        data = from_arrays({"x": rng.normal(size=(N, 2))}, target, SPLIT)
        weights = cast(Any, data.choose_task(class_weight="balanced")).class_weight
        counts = torch.bincount(data.train.target, minlength=3)
        torch.testing.assert_close(weights * counts, torch.full((3,), 8.0))


@pytest.mark.parametrize(
    "value", ["balance", "a", ["a", "b", "c"], [1, 2], [1, 2, -3], [1, 2, float("nan")], {"a": 1}, 3]
)
def test_other_weights_are_refused_by_name(value: object) -> None:
    data = from_arrays({"x": np.random.default_rng(0).normal(size=(N, 2))}, np.arange(N) % 3, SPLIT)
    with pytest.raises(TargetError, match="`class_weight`: expected 3 positive numbers"):
        data.choose_task(class_weight=value)


def test_the_remedy_for_colours_works() -> None:
    pytest.importorskip("kornia")
    pixels = np.random.default_rng(0).integers(0, 256, (N, 3, 8, 8), dtype=np.uint8)
    with pytest.raises(
        DataError, match=r"'colour'.*standardise: none.*standardise=\{'x': 'none'\}.*leave 'colour' out"
    ):
        loader(from_arrays({"x": pixels}, np.arange(N) % 2, SPLIT).train, 8, augment={"x": ["colour"]})
    data = from_arrays({"x": pixels}, np.arange(N) % 2, SPLIT, standardise={"x": "none"})
    for batch in loader(data.train, 8, augment={"x": ["colour"]}):
        assert batch.inputs["x"].shape[1:] == (3, 8, 8)
