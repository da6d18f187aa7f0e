"""Noise of images by hand."""

from __future__ import annotations

import math
import sys

import numpy as np
import pytest
import torch
from torch import Tensor

from equimodal.diagnostics import Corruption, Spread
from equimodal.errors import MissingExtraError
from tests.diagnostics.helpers import hit, kornia


def pixel(red: float, green: float, blue: float) -> Tensor:
    return torch.tensor([red, green, blue]).reshape(1, 3, 1, 1)


def test_black_and_white_are_the_extremes_of_training() -> None:
    spread = Spread(torch.ones(2), torch.tensor([-1.0, 0.0]), torch.tensor([3.0, 10.0]))
    x = torch.tensor([[[[-1.0, 0.0]], [[10.0, 4.0]]]])
    assert hit("inversion", x, [[0.1]], spread=spread).flatten().tolist() == [3, 2, 0, 6]
    assert hit("inversion", x, [[0.6]], spread=spread) is not x
    assert torch.equal(hit("inversion", x, [[0.6]], spread=spread), x)
    still = Spread(torch.zeros(2), torch.tensor([4.0, 4.0]), torch.tensor([4.0, 4.0]))  # a constant channel
    assert torch.isfinite(hit("inversion", x, [[0.1]], spread=still)).all()


def test_contrast_is_halved_around_the_mean_lightness() -> None:
    spread = Spread(torch.ones(1), torch.tensor([-1.0]), torch.tensor([3.0]))
    x = torch.tensor([-1.0, 1.0, 1.0, 3.0]).reshape(1, 1, 2, 2)  # 0, 0.5, 0.5, 1 of the way from black to white
    assert hit("contrast", x, [[0.1]], spread=spread).flatten().tolist() == [0, 1, 1, 2]
    coloured = torch.cat([pixel(1.0, 0.0, 0.0), pixel(0.0, 0.0, 0.0)], dim=3)  # mean lightness 0.299 / 2
    found = hit("contrast", coloured, [[0.1]])
    assert found[0, :, 0, 0].tolist() == pytest.approx([0.5 + 0.07475, 0.07475, 0.07475])


def test_colours_by_hand() -> None:
    x = pixel(1.0, 0.5, 0.0)
    assert hit("grayscale", x, [[0.1]]).flatten().tolist() == pytest.approx([0.299 + 0.2935] * 3)
    white = pixel(1.0, 1.0, 1.0)
    # 1000 K, 6500 K and 10000 K of 19 temperatures
    assert hit("white_balance", white, [[0.1, 0.0]]).flatten().tolist() == pytest.approx([1, 56 / 255, 0])
    assert hit("white_balance", white, [[0.1, 11.5 / 19]]).flatten().tolist() == pytest.approx(
        [1, 249 / 255, 253 / 255]
    )
    assert hit("white_balance", white, [[0.1, 0.999]]).flatten().tolist() == pytest.approx([204 / 255, 219 / 255, 1])
    assert hit("tint", x, [[0.1, 0.0]]).flatten().tolist() == pytest.approx([1.0, 0.35, 0.0])
    assert hit("tint", x, [[0.1, 0.4]]).flatten().tolist() == pytest.approx([0.7, 0.35, 0.3])
    assert hit("tint", x, [[0.1, 0.9]]).flatten().tolist() == pytest.approx([0.7, 0.35 + 0.3 * 128 / 255, 0.0])


def test_only_some_samples_are_spoilt() -> None:
    x = torch.rand(4, 3, 5, 6)
    found = hit("flip", x, [[0.1], [0.49], [0.5], [0.9]])
    assert torch.allclose(found[:2], x[:2].flip(-1))
    assert torch.equal(found[2:], x[2:])


@pytest.mark.parametrize("shape", [(1, 1, 13, 21), (1, 2, 3, 21, 13)])
def test_geometry_of_a_slope(shape: tuple[int, ...]) -> None:
    """Bilinear reading of a plane is exact, so the turned or cropped plane is known in pixels."""
    height, width = shape[-2:]
    y = torch.arange(height, dtype=torch.float64)[:, None] - (height - 1) / 2
    x = torch.arange(width, dtype=torch.float64)[None] - (width - 1) / 2
    plane = (100 + 3 * x + 2 * y).expand(shape)
    spread = Spread(*[v.expand(shape[1]).double() for v in (torch.ones(1), torch.zeros(1), torch.tensor([255.0]))])
    inside = (x.square() + y.square()).expand(shape) < 25
    turned = hit("rotation", plane, [[0.1, 0.75]], spread=spread)
    c, s = math.cos(math.radians(10)), math.sin(math.radians(10))
    expected = (100 + 3 * (c * x - s * y) + 2 * (s * x + c * y)).expand(shape)
    torch.testing.assert_close(turned[inside], expected[inside], rtol=0, atol=1e-4)
    assert float(turned[..., 0, 0].abs().max()) < 60  # black, not the mean, moves into the corners
    torch.testing.assert_close(hit("rotation", plane, [[0.1, 0.5]], spread=spread), plane, rtol=0, atol=1e-4)
    across, down = 0.2 * 0.4, -0.2 * 0.6  # of half the size, from 0.7 and 0.2
    cropped = hit("crop", plane, [[0.1, 0.7, 0.2]], spread=spread)
    wanted = 100 + 3 * (0.8 * x + across * width / 2) + 2 * (0.8 * y + down * height / 2)
    torch.testing.assert_close(cropped, wanted.expand(shape), rtol=0, atol=1e-3)


def test_blur_by_hand() -> None:
    kornia()
    x = torch.zeros(2, 1, 40, 50)
    x[0, 0, 20, 20] = 1.0
    found = Corruption("blur", "m").apply(x, [], 0.5)  # 5 % of 40, times a half: a deviation of one pixel
    weight = np.exp(-(np.arange(-3, 4) ** 2) / 2)
    weight /= weight.sum()
    np.testing.assert_allclose(found[0, 0, 17:24, 17:24], np.outer(weight, weight), atol=1e-6)
    assert float(found.sum()) == pytest.approx(1.0, abs=1e-5)
    assert float(found[1].abs().sum()) == 0.0
    video = torch.rand(2, 3, 4, 12, 12)
    frames = Corruption("blur", "m").apply(video, [], 1.0)
    torch.testing.assert_close(frames[:, :, 2], Corruption("blur", "m").apply(video[:, :, 2], [], 1.0))
    torch.testing.assert_close(Corruption("blur", "m").apply(torch.ones(1, 1, 1, 9), [], 1.0), torch.ones(1, 1, 1, 9))


def test_blur_says_what_it_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "kornia.filters", None)
    with pytest.raises(MissingExtraError, match=r"The noise `blur` needs the package 'kornia'"):
        Corruption("blur", "m").apply(torch.zeros(1, 1, 4, 4), [], 1.0)
