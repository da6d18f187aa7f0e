"""Augmentations on batches: what they leave alone, that they can be repeated, and what is refused."""

from __future__ import annotations

from typing import Any, cast

import numpy as np
import pytest
import torch
from torch import Tensor

from equimodal.batch import Tokens
from equimodal.data import SplitError, loader
from equimodal.data._dataset import build
from equimodal.data.augment import Augmentation, available
from equimodal.errors import DataError, UnknownNameError
from tests.data.augment.helpers import IMAGENET, arrays, batches, dataset, values

EVERYTHING: dict[str, Any] = {
    "photo": ["flip", {"crop": {"scale": [0.5, 1.0]}}],
    "film": ["flip", "crop", {"rotate": {"degrees": 20}}],
    "sound": [{"spec_mask": {"time": 3, "frequency": 2}}],
    "walk": ["spec_mask", {"noise": {"probability": 1.0}}],
}


def test_equal_seed_epoch_and_batch_give_equal_numbers() -> None:
    data = dataset("photo", "film", "sound", "walk")
    first, second = batches(data, EVERYTHING), batches(data, EVERYTHING)
    plain = batches(data, None)
    for a, b, c in zip(first, second, plain, strict=True):
        for name in data.modalities:
            x, y, z = (values(batch.inputs[name]) for batch in (a, b, c))
            assert torch.equal(x, y)
            assert not torch.equal(x, z)
        assert torch.equal(a.index, c.index)
        assert torch.equal(a.target, c.target)
    for other in (batches(data, EVERYTHING, seed=1), batches(data, EVERYTHING, epoch=1)):
        assert not torch.equal(first[0].inputs["photo"], other[0].inputs["photo"])


def test_a_restart_in_the_middle_of_an_epoch_continues_with_the_same_numbers() -> None:
    data = dataset("photo")
    whole = batches(data, {"photo": ["flip", "crop"]}, epoch=2)
    made = loader(data.train, 5, augment={"photo": ["flip", "crop"]})
    made.set_epoch(2)
    steps = iter(made)
    next(steps)
    state = made.state_dict()
    again = loader(data.train, 5, augment={"photo": ["flip", "crop"]})
    again.load_state_dict(state)
    assert torch.equal(next(iter(again)).inputs["photo"], whole[1].inputs["photo"])
    other = loader(data.train, 5, augment={"photo": ["flip"]})
    with pytest.raises(DataError, match="Found other settings: augment"):
        other.load_state_dict(state)
    with pytest.raises(DataError, match="expected the keys"):
        loader(data.train, 5).load_state_dict(state)


@pytest.mark.slow
def test_worker_processes_change_nothing() -> None:
    data = dataset("photo", "walk")
    augment = {"photo": EVERYTHING["photo"], "walk": EVERYTHING["walk"]}
    for a, b in zip(batches(data, augment), batches(data, augment, num_workers=2), strict=True):
        assert torch.equal(a.inputs["photo"], b.inputs["photo"])
        assert torch.equal(a.inputs["walk"].values, b.inputs["walk"].values)


def test_the_global_random_state_stays_as_it_was() -> None:
    pytest.importorskip("kornia")
    data = dataset("photo", "walk")
    before = torch.get_rng_state(), cast("tuple[Any, ...]", np.random.get_state())[1].tolist()  # noqa: NPY002
    batches(data, {"photo": ["colour", "flip", "crop", "rotate"], "walk": ["noise", "spec_mask"]})
    assert torch.equal(torch.get_rng_state(), before[0])
    assert cast("tuple[Any, ...]", np.random.get_state())[1].tolist() == before[1]  # noqa: NPY002


def test_padding_stays_zero_and_masks_stay() -> None:
    data = dataset("walk")
    for a, b in zip(batches(data, {"walk": [{"noise": {"probability": 1.0}}]}), batches(data, None), strict=True):
        walk = a.inputs["walk"]
        assert isinstance(walk, Tokens)
        assert torch.equal(walk.mask, b.inputs["walk"].mask)
        assert not walk.values[~walk.mask].any()
        assert not torch.equal(walk.values, b.inputs["walk"].values)


@pytest.mark.parametrize("operation", ["flip", "crop", "rotate", "quarter_turns", {"noise": {"probability": 1.0}}])
def test_absent_rows_with_nan_are_untouched_and_change_nothing(operation: Any) -> None:
    content = arrays()
    content["mri"][content["has"][:, 0] == 0] = np.nan
    card = dataset("mri", "pet").card
    dirty = build(content, card, origin="dirty", modalities=["mri", "pet"])
    for a, b in zip(
        batches(dirty, {"mri": [operation]}), batches(dataset("mri", "pet"), {"mri": [operation]}), strict=True
    ):
        present = a.present["mri"]
        assert bool(torch.isnan(a.inputs["mri"][~present]).all())
        assert torch.equal(a.inputs["mri"][present], b.inputs["mri"][present])
        absent = b.index[~b.present["mri"]]
        assert torch.equal(b.inputs["mri"][~present], torch.from_numpy(arrays()["mri"])[absent])


def code(x: Tensor) -> Tensor:
    """A mask made of an image, so that moving both the same way keeps them equal."""
    return (x > 0).long()[:, 0]


@pytest.mark.parametrize("operations", [["flip"], ["quarter_turns"], ["flip", {"quarter_turns": {"turns": 4}}]])
def test_together_moves_every_sequence_and_the_mask_alike(operations: list[Any]) -> None:
    content = arrays()
    content["has"][:] = 1
    content["pet"] = content["mri"] * 2
    content["mask"] = code(torch.from_numpy(content["mri"])).numpy().astype(np.uint8)
    card = dataset("mri", "pet", target="mask").card
    data = build(content, card, origin="seg", target="mask", modalities=["mri", "pet"])
    moved = 0
    for batch in batches(data, {"together": operations}):
        mri, pet = batch.inputs["mri"], batch.inputs["pet"]
        assert torch.equal(pet, mri * 2)
        assert torch.equal(batch.target, code(mri))
        assert batch.target.dtype == torch.int64
        moved += int((mri != torch.from_numpy(content["mri"])[batch.index]).any())
    assert moved


def test_together_with_interpolation_keeps_images_and_mask_in_place() -> None:
    content = arrays()
    content["has"][:] = 1
    content["mask"][:] = 0
    content["mask"][:, 3:7, 4:9] = 2
    content["mri"] = content["mask"][:, None].astype(np.float32)
    card = dataset("mri", "pet", target="mask").card
    data = build(content, card, origin="seg", target="mask", modalities=["mri"])
    for batch in batches(data, {"together": [{"rotate": {"degrees": 30}}, {"crop": {"scale": [0.6, 1.0]}}]}):
        inside, label = batch.inputs["mri"][:, 0] > 1.0, batch.target == 2
        overlap = 2 * (inside & label).sum() / (inside.sum() + label.sum())
        assert float(overlap) > 0.85
        assert set(batch.target.flatten().tolist()) <= {0, 2}


def test_all_frames_of_a_film_move_alike() -> None:
    content = arrays()
    content["film"][:, :, 1] = content["film"][:, :, 0]
    data = build(content, dataset("film").card, origin="film", modalities=["film"])
    for batch in batches(data, {"film": ["crop", "rotate", "flip"]}):
        film = batch.inputs["film"]
        assert torch.equal(film[:, :, 0], film[:, :, 1])


def test_colours_see_pixels_and_give_back_what_the_card_makes_of_them() -> None:
    pytest.importorskip("kornia")
    data = dataset("photo")
    config = {"photo": [{"colour": {"brightness": 0, "contrast": 0, "saturation": 0, "hue": 0, "gray": 0}}]}
    for a, b in zip(batches(data, config), batches(data, None), strict=True):
        assert torch.allclose(a.inputs["photo"], b.inputs["photo"], atol=1e-3)
    gray = batches(data, {"photo": [{"colour": {"probability": 0, "gray": 1}}]})[0].inputs["photo"]
    mean, deviation = (torch.tensor(IMAGENET["normalise"][k]).reshape(1, 3, 1, 1) for k in ("mean", "std"))
    pixels = gray * deviation + mean
    assert torch.allclose(pixels[:, 0], pixels[:, 1], atol=1e-2)


# ---- what is refused -----------------------------------------------------------------------------------------------


def test_only_training_is_augmented() -> None:
    data = dataset("photo")
    for split in (data.validation, data.test):
        with pytest.raises(SplitError, match="expected a TrainSplit"):
            loader(split, 2, augment={"photo": ["flip"]})


@pytest.mark.parametrize(
    ("augment", "message"),
    [
        ({"photo": ["spin"]}, "Unknown augmentation 'spin'"),
        ({"photo": ["flyp"]}, "Did you mean 'flip'"),
        ({"foto": ["flip"]}, "Unknown modality to augment 'foto'. Did you mean 'photo'"),
        ({"photo": [{"flip": {"p": 0.1}}]}, "option of augmentation 'flip'"),
    ],
)
def test_unknown_names_are_refused(augment: Any, message: str) -> None:
    with pytest.raises(UnknownNameError, match=message):
        loader(dataset("photo").train, 2, augment=augment)


@pytest.mark.parametrize(
    ("augment", "message"),
    [
        (["flip"], "`augment`: expected modality: "),
        ({"photo": 3}, "`augment.photo`: expected a list of operations. Found int"),
        ({"photo": [{"flip": {}, "crop": {}}]}, "expected a name, or one name with its options"),
        ({"photo": [{"flip": 0.5}]}, "expected a name, or one name with its options"),
        (
            {"photo": [{"flip": {"probability": 2}}]},
            r"`augment.photo.flip`: `probability`: expected a number in \[0, 1\]",
        ),
        ({"photo": [{"crop": {"scale": [1.0, 0.5]}}]}, r"`scale`: expected \[low, high\]"),
        ({"photo": [{"crop": {"ratio": 1}}]}, "`ratio`: expected"),
        ({"photo": [{"rotate": {"degrees": 200}}]}, "`degrees`: expected"),
        ({"photo": [{"quarter_turns": {"turns": 5}}]}, "`turns`: expected 1 to 4"),
        ({"photo": [{"colour": {"hue": 0.6}}]}, "`hue`: expected"),
        ({"sound": [{"spec_mask": {"time": 1.5}}]}, "`time`: expected a share below 1 or a whole number"),
        ({"walk": [{"noise": {"deviation": [-1, 1]}}]}, "`deviation`: expected"),
        ({"walk": ["flip"]}, "expected operations for the kind 'sequence' .noise, spec_mask.. Found 'flip'"),
        ({"sound": ["quarter_turns"]}, "expected square samples"),
        ({"sound": ["colour"]}, r"expected 3 channels"),
        ({"together": ["noise"]}, "expected operations that move pixels"),
    ],
)
def test_wrong_configurations_are_refused(augment: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        loader(dataset("photo", "sound", "walk").train, 2, augment=augment)


def test_an_image_alone_cannot_move_away_from_its_mask() -> None:
    with pytest.raises(DataError, match="expected 'flip' under 'together', since the target is a mask"):
        loader(dataset("mri", "pet", target="mask").train, 2, augment={"mri": ["flip"]})
    with pytest.raises(DataError, match="standardise: global"):
        loader(dataset("photo", photo={"standardise": "global"}).train, 2, augment={"photo": ["colour"]})


def test_a_configuration_can_be_written_down_and_read_again() -> None:
    first = Augmentation.of(EVERYTHING | {"mri": ["rotate", "quarter_turns", "colour"]})
    assert Augmentation.of(first.plain()) == first
    assert Augmentation.of(first) is first
    assert available() == ["colour", "crop", "flip", "noise", "quarter_turns", "rotate", "spec_mask"]
