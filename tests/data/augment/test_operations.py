"""What each augmentation does to numbers, by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from equimodal.data.augment import Colour, Crop, Flip, Noise, QuarterTurns, Rotate, SpecMask
from tests.data.augment.helpers import seeded


def test_a_flip_mirrors_the_last_axis_of_some_samples() -> None:
    x = torch.arange(24.0).reshape(2, 1, 3, 4)
    drawn = torch.tensor([True, False])
    found = Flip().move(x, drawn, False)
    assert torch.equal(found[0], x[0].flip(2))
    assert torch.equal(found[1], x[1])
    shares = Flip(0.3).draw(20000, seeded()).float().mean()
    assert float(shares) == pytest.approx(0.3, abs=0.02)


def test_quarter_turns_are_those_of_numpy() -> None:
    x = torch.rand(4 * 3, 2, 5, 5)
    drawn = torch.tensor([[turns, axis] for turns in range(4) for axis in range(3)])
    found = QuarterTurns(turns=4).move(x, drawn, True)
    for i, (turns, axis) in enumerate(drawn.tolist()):
        expected = np.rot90(x[i].numpy(), turns, (1, 2))
        if axis:
            expected = np.flip(expected, axis)
        np.testing.assert_array_equal(found[i].numpy(), expected)
    drawn = QuarterTurns().draw(3000, seeded())
    assert sorted(set(drawn[:, 0].tolist())) == [0, 1, 2]  # CGGM's loader never turns three times
    assert sorted(set(drawn[:, 1].tolist())) == [1, 2]  # and always flips


def test_a_crop_is_the_part_it_says() -> None:
    x = torch.arange(64.0).reshape(1, 1, 8, 8)
    # half of the height and width, in the upper right corner
    matrix = torch.tensor([[[0.5, 0.0, 0.5], [0.0, 0.5, -0.5]]])
    found = Crop().move(x, matrix, False)
    expected = torch.nn.functional.interpolate(
        torch.nn.functional.pad(x[:, :, :4, 4:], (0, 0, 0, 0)), size=(8, 8), mode="bilinear", align_corners=False
    )
    inner = (slice(None), slice(None), slice(0, 7), slice(1, 8))
    assert torch.allclose(found[inner][..., 1:-1, 1:-1], expected[inner][..., 1:-1, 1:-1], atol=1e-4)
    whole = Crop(scale=(1.0, 1.0), ratio=(1.0, 1.0)).draw(3, seeded())
    assert torch.allclose(Crop().move(x.expand(3, 1, 8, 8), whole, False), x.expand(3, 1, 8, 8), atol=1e-4)


def test_crops_stay_inside_and_have_the_area_asked_for() -> None:
    crop = Crop(scale=(0.2, 0.6), ratio=(0.5, 2.0))
    drawn = crop.draw(5000, seeded(1))
    width, height = drawn[:, 0, 0], drawn[:, 1, 1]
    assert bool((drawn[:, 0, 2].abs() + width <= 1 + 1e-6).all())
    assert bool((drawn[:, 1, 2].abs() + height <= 1 + 1e-6).all())
    inside = (width < 1) & (height < 1)
    area, ratio = (width * height)[inside], (width / height)[inside]
    assert 0.2 - 1e-5 <= float(area.min()) < 0.22
    assert 0.55 < float(area.max()) <= 0.6 + 1e-5
    assert 0.5 - 1e-4 <= float(ratio.min()) < float(ratio.max()) <= 2.0 + 1e-4
    never = Crop(probability=0.0).draw(2, seeded())
    assert torch.equal(never, torch.tensor([[1.0, 0, 0], [0, 1.0, 0]]).expand(2, 2, 3))


@pytest.mark.parametrize("shape", [(9, 9), (9, 15)])
def test_a_rotation_by_a_right_angle_is_a_quarter_turn(shape: tuple[int, int]) -> None:
    x = torch.rand(1, 2, *shape)
    found = Rotate().move(x, torch.tensor([math.pi / 2]), False)
    square = (slice(None), slice(None), slice(1, 8), slice(shape[1] // 2 - 3, shape[1] // 2 + 4))
    middle = x[square]
    assert torch.allclose(found[square], middle.rot90(-1, (2, 3)), atol=1e-4) or torch.allclose(
        found[square], middle.rot90(1, (2, 3)), atol=1e-4
    )
    angles = Rotate(15.0).draw(4000, seeded())
    assert float(angles.abs().max()) <= math.radians(15) + 1e-6
    assert float(angles.mean()) == pytest.approx(0, abs=0.01)


def test_labels_stay_labels_when_they_are_turned() -> None:
    mask = torch.randint(0, 4, (3, 1, 10, 10))
    found = Rotate(45.0).move(mask, torch.tensor([0.3, -0.7, 0.0]), True)
    assert found.dtype == mask.dtype
    assert set(found.flatten().tolist()) <= {0, 1, 2, 3}
    assert torch.equal(found[2], mask[2])


def test_bands_of_a_spectrogram() -> None:
    x = torch.arange(2 * 8 * 10.0).reshape(2, 1, 8, 10)
    drawn = torch.tensor([[[0.99, 0.0], [0.99, 0.99]], [[0.0, 0.5], [0.0, 0.5]]])  # width and place of time, frequency
    found = SpecMask(time=3, frequency=0.25).apply(x, drawn, "image")
    assert torch.equal(found[1], x[1])  # both masks have width 0
    expected = x[0].clone()
    expected[:, :, :3] = x[0].mean()  # three steps, from the first
    expected[:, 6:] = x[0].mean()  # two of eight bands, the last ones
    assert torch.equal(found[0], expected)
    walk = torch.arange(24.0).reshape(1, 6, 4)
    found = SpecMask(time=2, frequency=1).apply(walk, drawn[:1], "sequence")
    expected = walk[0].clone()
    expected[:2] = walk.mean()
    expected[:, 3] = walk.mean()
    assert torch.equal(found[0], expected)


@pytest.mark.parametrize("width", [1, 4, 0.5])
def test_bands_are_never_wider_than_asked_and_reach_every_place(width: float) -> None:
    x = torch.ones(4000, 1, 3, 8)
    x[:, :, 0, 0] = 0
    mask = SpecMask(time=width, frequency=0)
    hidden = mask.apply(x, mask.draw(4000, seeded()), "image")[:, 0, 2] != 1
    largest = int(8 * width) if width < 1 else int(width)
    assert sorted(set(hidden.sum(1).tolist())) == list(range(largest + 1))
    assert bool(hidden.any(0).all())


def test_noise_has_the_deviation_and_the_share_asked_for() -> None:
    noise = Noise(deviation=(0.5, 0.5), probability=0.25)
    x = torch.zeros(4000, 40)
    found = noise.apply(x, noise.draw(4000, seeded()), "vector")
    changed = (found != 0).any(1)
    assert float(changed.float().mean()) == pytest.approx(0.25, abs=0.03)
    assert float(found[changed].std()) == pytest.approx(0.5, rel=0.02)


def test_colours() -> None:
    pytest.importorskip("kornia")
    x = torch.rand(3, 3, 4, 4) * 0.5 + 0.2
    same = torch.tensor([[1.0, 1.0, 1.0, 0.0, 0.0]]).expand(3, 5)
    assert torch.allclose(Colour().apply(x, same, "image"), x, atol=1e-4)
    darker = torch.tensor([[0.5, 1.0, 1.0, 0.0, 0.0]]).expand(3, 5)
    assert torch.allclose(Colour().apply(x, darker, "image"), x * 0.5, atol=1e-4)
    gray = Colour().apply(x, torch.tensor([[1.0, 1.0, 1.0, 0.0, 1.0]]).expand(3, 5), "image")
    assert torch.allclose(gray[:, 0], 0.299 * x[:, 0] + 0.587 * x[:, 1] + 0.114 * x[:, 2], atol=1e-4)
    assert torch.equal(gray[:, 0], gray[:, 2])
    film = x[:, :, None].expand(3, 3, 2, 4, 4)
    drawn = Colour().draw(3, seeded())
    moved = Colour().apply(film, drawn, "video")
    assert torch.equal(moved[:, :, 0], moved[:, :, 1])
    assert torch.allclose(moved[:, :, 0], Colour().apply(x, drawn, "image"))
