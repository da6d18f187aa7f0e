from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from equimodal.batch import Tree
from equimodal.encoders._checks import check_choice, check_positive, check_sources
from equimodal.encoders._encoder import Tunable
from equimodal.encoders._frames import read_image, read_video
from equimodal.encoders._transformers import Architecture, build
from equimodal.encoders._weights import State

_DEPTHS: dict[int, dict[str, Any]] = {
    18: {"layer_type": "basic", "depths": [2, 2, 2, 2], "hidden_sizes": [64, 128, 256, 512]},
    34: {"layer_type": "basic", "depths": [3, 4, 6, 3], "hidden_sizes": [64, 128, 256, 512]},
    50: {"layer_type": "bottleneck", "depths": [3, 4, 6, 3], "hidden_sizes": [256, 512, 1024, 2048]},
    101: {"layer_type": "bottleneck", "depths": [3, 4, 23, 3], "hidden_sizes": [256, 512, 1024, 2048]},
}
_RESNET = Architecture(
    "ResNet",
    "ResNetConfig",
    "ResNetModel",
    types=("resnet",),
    others=r"^(classifier|fc)\.",
    stem="embedder.embedder.convolution.weight",
)


class ResNet(Tunable):
    r"""ResNet (He et al. 2016) for images, spectrograms and stacks of frames, whose features are averaged over frames.

    ResNet-18 from scratch on a spectrogram and a few frames is what most papers on modality imbalance train on CREMA-D
    and Kinetics-Sounds. The network is transformers' ``ResNetModel``.

    Args:
        depth: 18, 34, 50 or 101.
        in_channels: 3 for images, 1 for spectrograms.
        pool: ``"mean"`` over positions (and frames) for one vector; ``"frames"`` for one per frame; ``"map"`` for the
            last map; ``"scales"`` for the maps of all stages, for decoders.
        time_first: stacks of frames are (B, T, C, H, W) instead of (B, C, T, H, W).
        out_features: width of a linear map on top; ``None`` for none, d is 512 or 2048 then.
        weights: local weight file or folder, see docs/encoders.md. Names as in torchvision and timm are understood too.
        tuning: ``"full"``, or ``"frozen"``: nothing changes, running statistics included.
        adapt_channels: fit the first convolution of ``weights`` to ``in_channels`` (mean over its channels).
        config: fields of transformers' ``ResNetConfig`` that replace those of ``depth``.

    Raises:
        MissingExtraError: transformers is not installed.
        ModelError: an argument is out of range.
        CheckpointError: weights that are not this network's; the names are in the message.
        BatchError: (when called) another number of axes or channels.

    Shapes: (B, C, H, W), (B, H, W) if C = 1, or (B, C, T, H, W), to (B, d). ``"frames"``:
        :class:`~equimodal.batch.Tokens` of (B, T, d). ``"map"``: (B, d, H / 32, W / 32) or (B, d, T, H / 32, W / 32).

    References:
        Deep residual learning for image recognition, arXiv 1512.03385.

    Example:
        >>> tiny = {"embedding_size": 8, "hidden_sizes": [8, 8, 16, 16], "depths": [1, 1, 1, 1]}
        >>> encoder = ResNet(18, in_channels=1, config=tiny)
        >>> encoder(torch.zeros(2, 1, 40, 64)).shape, encoder(torch.zeros(2, 1, 3, 32, 32)).shape
        (torch.Size([2, 16]), torch.Size([2, 16]))
    """

    def __init__(
        self,
        depth: Literal[18, 34, 50, 101] = 18,
        in_channels: int = 3,
        *,
        pool: Literal["mean", "frames", "map", "scales"] = "mean",
        time_first: bool = False,
        out_features: int | None = None,
        weights: str | Path | None = None,
        tuning: Literal["full", "frozen"] = "full",
        adapt_channels: bool = False,
        config: Mapping[str, Any] | None = None,
    ) -> None:
        check_choice("depth", depth, tuple(_DEPTHS))
        check_choice("pool", pool, ("mean", "frames", "map", "scales"))
        check_positive(in_channels=in_channels)
        check_sources(config, weights)
        fields = {**_DEPTHS[depth], **(config or {})}
        network = build(
            _RESNET, {"num_channels": in_channels}, fields, weights, adapt_channels, rename=_from_torchvision
        )
        settings: Any = network.config
        widths = tuple(int(w) for w in settings.hidden_sizes)
        super().__init__(network, widths if pool == "scales" else widths[-1], out_features, tuning)
        self.in_channels = in_channels
        self.pool = pool
        self.time_first = time_first

    def forward(self, x: Tensor) -> Tree:
        """(B, C, H, W) or (B, C, T, H, W) to (B, d), Tokens, a map or the maps of all stages."""
        frames = None
        if x.ndim == 5:
            x = read_video(x, self.in_channels, self.time_first).transpose(1, 2)
            frames = x.shape[:2]
            x = x.flatten(0, 1)
        else:
            x = read_image(x, self.in_channels)
        if self.pool == "scales":
            maps = self.backbone(x, output_hidden_states=True).hidden_states[1:]
            return tuple(m if frames is None else _stacked(m, frames).transpose(1, 2) for m in maps)
        map_: Tensor = self.backbone(x).last_hidden_state
        if self.pool == "map":
            map_ = map_ if frames is None else _stacked(map_, frames).transpose(1, 2)
            return self.on_top(map_.movedim(1, -1)).movedim(-1, 1)
        steps = map_.mean(dim=(2, 3))
        steps = steps.unsqueeze(1) if frames is None else _stacked(steps, frames)
        return self.tokens(steps) if self.pool == "frames" else self.on_top(steps.mean(1))


def _stacked(x: Tensor, frames: torch.Size) -> Tensor:
    """(B * T, ...) to (B, T, ...)."""
    return x.reshape(*frames, *x.shape[1:])


def _from_torchvision(state: State) -> State:
    """The names of torchvision and timm as those of transformers; other files stay as they are."""
    if "conv1.weight" not in state:
        return state
    rules = (
        (r"^conv1\.", "embedder.embedder.convolution."),
        (r"^bn1\.", "embedder.embedder.normalization."),
        (r"^layer(\d)\.(\d+)\.conv(\d)\.", lambda m: f"{_layer(m)}.layer.{int(m[3]) - 1}.convolution."),
        (r"^layer(\d)\.(\d+)\.bn(\d)\.", lambda m: f"{_layer(m)}.layer.{int(m[3]) - 1}.normalization."),
        (r"^layer(\d)\.(\d+)\.downsample\.0\.", lambda m: f"{_layer(m)}.shortcut.convolution."),
        (r"^layer(\d)\.(\d+)\.downsample\.1\.", lambda m: f"{_layer(m)}.shortcut.normalization."),
    )
    renamed = {}
    for name, tensor in state.items():
        new = name
        for pattern, replacement in rules:
            new = re.sub(pattern, replacement, new)
        renamed[new] = tensor
    return renamed


def _layer(found: re.Match[str]) -> str:
    return f"encoder.stages.{int(found[1]) - 1}.layers.{found[2]}"
