"""Sequences with a mask, and segmentation targets with regions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from equimodal import Batch, MultimodalModel, PlainEngine
from equimodal.batch import Tokens
from equimodal.data import load, loader
from equimodal.data._card import parse_card
from equimodal.data._dataset import Dataset, build
from equimodal.encoders import GRU
from equimodal.errors import DataError
from equimodal.fusion import Concat
from equimodal.methods import Joint
from equimodal.tasks import Classification, Segmentation


def content(mask: Any) -> dict[str, Any]:
    walk = np.arange(6 * 3 * 2, dtype=np.float32).reshape(6, 3, 2)
    return {
        "walk": walk,
        "steps": np.asarray(mask),
        "y": np.array([0, 1] * 3),
        "score": np.linspace(-1, 1, 6, dtype=np.float32),
        "part": np.array([0, 0, 1, 1, 2, 2]),
    }


def card(**of_modality: Any) -> dict[str, Any]:
    modality = {"array": "walk", "kind": "sequence", "standardise": "per-feature", "mask": "steps", **of_modality}
    return {
        "name": "walks",
        "modalities": {"walk": modality},
        "targets": {
            "y": {"array": "y", "task": "classification", "classes": ["a", "b"]},
            "score": {"array": "score", "task": "regression"},
        },
        "protocols": {"p": {"array": "part", "train": 0, "validation": 1, "test": 2}},
    }


LENGTHS = [1, 2, 3, 1, 2, 3]
STEPS = np.arange(3) < np.array(LENGTHS)[:, None]


def dataset(mask: Any = LENGTHS, **of_modality: Any) -> Dataset:
    return build(content(mask), parse_card(card(**of_modality), "walks.yaml"), origin="walks")


@pytest.mark.parametrize("mask", [LENGTHS, STEPS, STEPS.astype(np.uint8)])
@pytest.mark.parametrize("mapped", [True, False])
def test_a_masked_sequence_arrives_as_tokens_and_padding_is_no_data(mask: Any, mapped: bool) -> None:
    arrays = content(mask)
    arrays["walk"][0, 1:] = np.nan  # padding may hold anything
    data = build(arrays, parse_card(card(), "walks.yaml"), origin="walks", mapped=mapped)
    walk = data.train.batch().inputs["walk"]
    assert isinstance(walk, Tokens)
    assert walk.mask.tolist() == [[True, False, False], [True, True, False]]
    # real steps of training: (0, 1), (6, 7), (8, 9): mean (14/3, 17/3)
    real = np.array([[0.0, 1.0], [6.0, 7.0], [8.0, 9.0]])
    expected = (real - real.mean(0)) / real.std(0)
    np.testing.assert_allclose(walk.values[walk.mask].numpy(), expected, rtol=1e-5)
    assert not walk.values[~walk.mask].any()


def test_a_single_sample_keeps_its_mask() -> None:
    sample = dataset().train[1]["inputs"]["walk"]
    assert isinstance(sample, Tokens)
    assert sample.values.shape == (3, 2)
    assert sample.mask.tolist() == [True, True, False]


def test_a_mask_in_a_pair_is_of_the_sample() -> None:
    arrays = content(STEPS)
    arrays["pick"] = np.array([5, 4, 3, 2, 1, 0])
    data = build(arrays, parse_card(card(index="pick", standardise="none"), "walks.yaml"), origin="walks")
    walk = data.train.batch([0]).inputs["walk"]
    assert walk.mask.tolist() == [[True, False, False]]
    assert walk.values[0].tolist() == [[30.0, 31.0], [0.0, 0.0], [0.0, 0.0]]


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        ([1, 2, 4, 1, 1, 1], "expected lengths 0 to 3. Found 1 to 4"),
        ([1, 2, 3], "expected 6 samples"),
        (np.ones((6, 2), bool), r"expected lengths \(N,\), or 0 .padding. and 1 .real. of shape \(6, 3\)"),
        (np.full((6, 3), 2), "expected lengths"),
        ([0, 0, 1, 1, 1, 1], "expected real steps in the training split"),
    ],
)
def test_masks_that_do_not_fit_are_refused(mask: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        dataset(mask)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kind": "vector"}, "Only `sequence` and `tokens` have one"),
        ({"standardise": "per-channel"}, "for a sequence with a mask"),
    ],
)
def test_masks_where_none_belongs_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        parse_card(card(**change), "walks.yaml")


@pytest.mark.parametrize("target", ["y", "score"])
def test_a_step_of_training_on_masked_sequences(tmp_path: Path, target: str) -> None:
    for name, array in content(LENGTHS).items():
        np.save(tmp_path / f"{name}.npy", array)
    data = load(tmp_path, card=card(), target=target)
    task = data.task
    torch.manual_seed(0)
    model = MultimodalModel({"walk": GRU(2, 4, 4)}, Concat({"walk": 4}), torch.nn.Linear(4, task.outputs))
    method = Joint(model, task)
    engine = PlainEngine(torch.optim.SGD(method.parameters(), lr=0.1))
    losses = [
        float(method.training_step(batch, engine).losses["joint"])
        for _ in range(20)
        for batch in loader(data.train, 2, seed=0)
    ]
    assert losses[-1] < losses[0]


def test_tokens_have_a_mask_too() -> None:
    arrays = content(LENGTHS) | {"words": np.arange(18, dtype=np.int32).reshape(6, 3) + 1}
    changed = card(array="words", kind="tokens", standardise="none")
    words = build(arrays, parse_card(changed, "walks.yaml"), origin="walks").train.batch().inputs["walk"]
    assert isinstance(words, Tokens)
    assert words.values.dtype == torch.int64
    assert words.values.tolist() == [[1, 0, 0], [4, 5, 0]]
    assert words.mask.tolist() == [[True, False, False], [True, True, False]]


def test_mixup_joins_masks() -> None:
    from equimodal.methods.parts import Mixup

    walk = Tokens(torch.randn(4, 3, 2), torch.tensor([[1, 0, 0], [1, 1, 0], [1, 1, 1], [1, 0, 0]]).bool())
    batch = Batch({"walk": walk}, torch.tensor([0, 1, 0, 1]))
    mixed = Mixup(1.0, Classification(2), seed=0)([batch])[0].inputs["walk"]
    order = torch.Generator().manual_seed(0)
    torch._standard_gamma(torch.full((2,), 1.0, dtype=torch.float64), generator=order)
    partner = torch.randperm(4, generator=order)
    assert torch.equal(mixed.mask, walk.mask | walk.mask[partner])


def segmentation_card(regions: Any) -> dict[str, Any]:
    base = card(mask=None)
    base["targets"] = {
        "tumour": {"array": "mask", "task": "segmentation", "classes": ["none", "core", "rim"], "regions": regions}
    }
    return base


def test_the_regions_of_the_card_reach_the_task() -> None:
    arrays = content(LENGTHS) | {"mask": np.zeros((6, 4, 4), np.uint8)}
    parsed = parse_card(segmentation_card({"whole": ["core", "rim"], "core": "core"}), "seg.yaml")
    task = build(arrays, parsed, origin="seg").task
    assert isinstance(task, Segmentation)
    assert task.regions == {"whole": (1, 2), "core": (1,)}


@pytest.mark.parametrize(
    ("regions", "message"),
    [
        ({"whole": ["core", "rym"]}, "Did you mean 'rim'"),
        ({"whole": []}, "different classes, at least one"),
        ({"whole": ["core", "core"]}, "different classes, at least one"),
        ([], "mapping from region"),
    ],
)
def test_regions_that_name_no_classes_are_refused(regions: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        parse_card(segmentation_card(regions), "seg.yaml")


def test_regions_belong_to_segmentations() -> None:
    raw = card()
    raw["targets"]["y"]["regions"] = {"whole": ["a"]}
    with pytest.raises(DataError, match="Only a segmentation target has them"):
        parse_card(raw, "seg.yaml")


def test_a_mask_without_names_has_no_task() -> None:
    arrays = content(LENGTHS) | {"mask": np.zeros((6, 4, 4), np.uint8)}
    raw = segmentation_card(None)
    del raw["targets"]["tumour"]["classes"], raw["targets"]["tumour"]["regions"]
    with pytest.raises(DataError, match="the names of at least two classes"):
        _ = build(arrays, parse_card(raw, "seg.yaml"), origin="seg").task
