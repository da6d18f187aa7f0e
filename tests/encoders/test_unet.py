"""The small U-Net: shapes, what each pixel sees, bad input."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from equimodal.data import Modality
from equimodal.encoders import UNet, for_modality
from equimodal.errors import BatchError, ModelError


@pytest.mark.parametrize(("axes", "size"), [(2, (16, 16)), (2, (17, 10)), (3, (8, 9, 4))])
@pytest.mark.parametrize("channels", [(4,), (4, 6), (4, 6, 8)])
def test_features_at_full_size(axes: Any, size: tuple[int, ...], channels: tuple[int, ...]) -> None:
    net = UNet(2, channels, out_features=5, axes=axes)
    y = net(torch.randn(3, 2, *size))
    assert y.shape == (3, 5, *size)
    y.square().sum().backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in net.parameters())
    assert net.out_features == 5


def test_each_level_widens_what_a_pixel_sees() -> None:
    reached = []
    for channels in ((4,), (4, 4), (4, 4, 4)):
        torch.manual_seed(0)
        net = UNet(1, channels, out_features=2).double().eval()
        x = torch.randn(1, 1, 32, 32, dtype=torch.float64, requires_grad=True)
        (g,) = torch.autograd.grad(net(x)[0, :, 16, 16].sum(), x)
        reached.append(int((g != 0).sum()))
    assert reached[0] < reached[1] < reached[2]


def test_one_channel_in_any_memory_layout() -> None:
    net = UNet(1, (4, 6)).eval()
    x = torch.randn(2, 1, 12, 12)
    assert torch.allclose(net(x), net(x.to(memory_format=torch.channels_last)), atol=1e-6)


def test_by_name() -> None:
    image, volume = Modality("mri", (1, 64, 64), "image"), Modality("ct", (2, 8, 8, 8), "volume")
    small = for_modality(image, 16, encoder="unet")
    assert isinstance(small, UNet)
    assert small(torch.zeros(2, 1, 64, 64)).shape == (2, 16, 64, 64)
    assert for_modality(volume, 3, encoder="unet", channels=(4, 4))(torch.zeros(2, 2, 8, 8, 8)).shape == (2, 3, 8, 8, 8)


def test_bad_input() -> None:
    with pytest.raises(ModelError, match="`axes`"):
        UNet(1, axes=1)  # type: ignore[arg-type]
    with pytest.raises(ModelError, match="`kernel`"):
        UNet(1, kernel=2)
    with pytest.raises(ModelError, match="`channels`"):
        UNet(1, channels=())
    net = UNet(1, (4, 4, 4))
    for shape in ((2, 1, 3, 8), (2, 2, 8, 8), (2, 1, 8, 8, 8), (2, 64)):
        with pytest.raises(BatchError):
            net(torch.zeros(shape))
