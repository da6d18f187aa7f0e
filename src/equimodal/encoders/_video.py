from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from torch import Tensor, nn

from equimodal.batch import Tree
from equimodal.encoders._checks import check_choice, check_positive, check_sources, check_widths
from equimodal.encoders._encoder import Tunable
from equimodal.encoders._frames import read_video
from equimodal.encoders._weights import adapt_channels, load_state
from equimodal.errors import ModelError

Block = Literal["r2plus1d", "r3d"]


class VideoResNet(Tunable):
    r"""A residual network over space and time (Tran et al. 2018) for videos of any number of channels.

    ``"r2plus1d"`` splits each 3x3x3 convolution into one over space and one over time with a ReLU between, of as many
    parameters; ``"r3d"`` does not split. The paper finds the split easier to train. A network of our own because the
    kept libraries offer video transformers only, which a thousand gestures without pretraining do not feed; modules are
    named as in torchvision's ``r2plus1d_18`` and ``r3d_18``, whose files can be loaded.

    Args:
        in_channels: 3 for RGB, 2 for optical flow, 1 for depth.
        block: see above.
        layers: blocks in each of the four stages; (2, 2, 2, 2) is the paper's 18-layer network.
        widths: channels of each stage.
        pool: ``"mean"`` over space and time for one vector; ``"frames"`` for one per remaining time step, the mean over
            space; ``"map"`` for the last map.
        time_first: the input is (B, T, C, H, W).
        out_features: width of a linear map on top; ``None`` for none, d is the last width then.
        weights: local weight file, see docs/encoders.md.
        tuning: ``"full"``, or ``"frozen"``: nothing changes, running statistics included.
        adapt_channels: fit the first convolution of ``weights`` to ``in_channels`` (mean over its channels).

    Raises:
        ModelError: an argument is out of range.
        CheckpointError: weights that are not this network's; the names are in the message.
        BatchError: (when called) another number of axes or channels.

    Shapes: (B, C, T, H, W) to (B, d); to :class:`~equimodal.batch.Tokens` of (B, T / 8, d); or to (B, d, T / 8, H / 16,
        W / 16). Sizes are rounded up.

    References:
        A closer look at spatiotemporal convolutions for action recognition, arXiv 1711.11248.

    Example:
        >>> encoder = VideoResNet(2, layers=(1, 1, 1, 1), widths=(4, 8, 8, 16))  # optical flow
        >>> encoder(torch.zeros(3, 2, 8, 16, 16)).shape
        torch.Size([3, 16])
    """

    out_features: int

    def __init__(
        self,
        in_channels: int = 3,
        block: Block = "r2plus1d",
        layers: Sequence[int] = (2, 2, 2, 2),
        widths: Sequence[int] = (64, 128, 256, 512),
        *,
        pool: Literal["mean", "frames", "map"] = "mean",
        time_first: bool = False,
        out_features: int | None = None,
        weights: str | Path | None = None,
        tuning: Literal["full", "frozen"] = "full",
        adapt_channels: bool = False,
    ) -> None:
        check_positive(in_channels=in_channels)
        check_choice("block", block, ("r2plus1d", "r3d"))
        check_choice("pool", pool, ("mean", "frames", "map"))
        check_sources(None, weights)
        counts, sizes = check_widths("layers", layers), check_widths("widths", widths)
        if len(counts) != 4 or len(sizes) != 4:
            raise ModelError(f"`layers`, `widths`: expected four numbers each. Found {counts} and {sizes}.")
        network = _Network(in_channels, block, counts, sizes)
        if weights is not None:
            _load(network, weights, in_channels if adapt_channels else None)
        super().__init__(network, sizes[-1], out_features, tuning)
        self.in_channels = in_channels
        self.pool = pool
        self.time_first = time_first

    def forward(self, x: Tensor) -> Tree:
        """(B, C, T, H, W) to (B, d), Tokens (B, T / 8, d) or (B, d, T / 8, H / 16, W / 16)."""
        maps: Tensor = self.backbone(read_video(x, self.in_channels, self.time_first))
        if self.pool == "frames":
            return self.tokens(maps.mean(dim=(3, 4)).mT)
        if self.pool == "map":
            return self.on_top(maps.movedim(1, -1)).movedim(-1, 1)
        return self.on_top(maps.mean(dim=(2, 3, 4)))


class _Network(nn.Module):
    """Stem and four stages, named as in torchvision."""

    def __init__(self, channels: int, block: str, layers: Sequence[int], widths: Sequence[int]) -> None:
        super().__init__()
        first = widths[0]
        if block == "r3d":
            self.stem = nn.Sequential(
                nn.Conv3d(channels, first, (3, 7, 7), (1, 2, 2), (1, 3, 3), bias=False),
                nn.BatchNorm3d(first),
                nn.ReLU(),
            )
        else:
            middle = 45 * first // 64 or 1  # 45 in the paper's network, whose first width is 64
            self.stem = nn.Sequential(
                nn.Conv3d(channels, middle, (1, 7, 7), (1, 2, 2), (0, 3, 3), bias=False),
                nn.BatchNorm3d(middle),
                nn.ReLU(),
                nn.Conv3d(middle, first, (3, 1, 1), padding=(1, 0, 0), bias=False),
                nn.BatchNorm3d(first),
                nn.ReLU(),
            )
        before = [first, *widths[:-1]]
        stages = [
            nn.Sequential(
                *(
                    _Residual(block, start if i == 0 else width, width, 2 if stage and i == 0 else 1)
                    for i in range(count)
                )
            )
            for stage, (start, width, count) in enumerate(zip(before, widths, layers, strict=True))
        ]
        self.layer1, self.layer2, self.layer3, self.layer4 = stages
        for module in self.modules():
            if isinstance(module, nn.Conv3d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        maps: Tensor = self.stem(x)
        for stage in (self.layer1, self.layer2, self.layer3, self.layer4):
            maps = stage(maps)
        return maps


class _Residual(nn.Module):
    """Two convolutions over space and time, added to the input."""

    def __init__(self, block: str, before: int, after: int, stride: int) -> None:
        super().__init__()
        # as many parameters in the split pair as in one 3x3x3 convolution (section 3.5 of the paper)
        middle = max(1, before * after * 27 // (before * 9 + 3 * after))

        def convolution(start: int, step: int) -> nn.Module:
            if block == "r3d":
                return nn.Conv3d(start, after, 3, step, 1, bias=False)
            return nn.Sequential(
                nn.Conv3d(start, middle, (1, 3, 3), (1, step, step), (0, 1, 1), bias=False),
                nn.BatchNorm3d(middle),
                nn.ReLU(),
                nn.Conv3d(middle, after, (3, 1, 1), (step, 1, 1), (1, 0, 0), bias=False),
            )

        self.conv1 = nn.Sequential(convolution(before, stride), nn.BatchNorm3d(after), nn.ReLU())
        self.conv2 = nn.Sequential(convolution(after, 1), nn.BatchNorm3d(after))
        self.downsample: nn.Module = nn.Identity()
        if stride != 1 or before != after:
            self.downsample = nn.Sequential(nn.Conv3d(before, after, 1, stride, bias=False), nn.BatchNorm3d(after))

    def forward(self, x: Tensor) -> Tensor:
        added: Tensor = self.conv2(self.conv1(x)) + self.downsample(x)
        return added.relu()


def _load(network: nn.Module, weights: str | Path, channels: int | None) -> None:
    load_state(
        network,
        weights,
        lambda state: state if channels is None else adapt_channels(state, "stem.0.weight", channels),
        lambda name: name.startswith("fc."),
        "Give `block`, `layers` and `widths` of the network that was saved, or adapt_channels=True for another number "
        "of channels.",
    )
