from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from torch import Tensor

from equimodal.batch import Tree
from equimodal.encoders._checks import check_choice, check_pair, check_patches, check_positive
from equimodal.encoders._encoder import LoRA, Tunable, Tuning
from equimodal.encoders._frames import read_image
from equimodal.encoders._transformers import Architecture, build

_VIT = Architecture(
    "ViT",
    "ViTConfig",
    "ViTModel",
    types=("vit",),
    others=r"^classifier\.|(^|\.)pooler\.|mask_token$",
    stem="patch_embeddings.projection.weight",
    arguments=(("add_pooling_layer", False),),
)


class ViT(Tunable):
    r"""Vision transformer (Dosovitskiy et al. 2021) for images and spectrograms of one size.

    The network is transformers' ``ViTModel``; its defaults are ViT-B/16: 12 layers of width 768, 86 million parameters.

    Args:
        image_size: height and width, or one number for both. ``None``: that of ``weights``' folder, else 224.
        patch_size: height and width of a patch, or one number. ``None``: likewise, else 16.
        in_channels: 3 for images, 1 for spectrograms.
        pool: ``"first"``, the class token, as in the paper; ``"mean"`` over the patches; ``"tokens"`` for all of them,
            the class token first.
        out_features: width of a linear map on top; ``None`` for none, d is the network's width then.
        weights: local weight file or folder, see docs/encoders.md.
        tuning: ``"full"``; ``"frozen"``; ``"lora"`` or :class:`LoRA` (or its fields as a mapping).
        adapt_channels: fit the first map of ``weights`` to ``in_channels`` (mean over its channels).
        config: fields of transformers' ``ViTConfig``, such as ``{"hidden_size": 384, "num_attention_heads": 6}``.

    Raises:
        MissingExtraError: transformers (or, for LoRA, peft) is not installed.
        ModelError: an argument is out of range.
        CheckpointError: weights that are not this network's; the names are in the message.
        BatchError: (when called) another size or number of channels.

    Shapes: (B, C, H, W), or (B, H, W) if C = 1, to (B, d) or to :class:`~equimodal.batch.Tokens` of
        (B, 1 + patches, d).

    References:
        An image is worth 16x16 words: transformers for image recognition at scale, arXiv 2010.11929.

    Example:
        >>> tiny = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
        >>> ViT((16, 24), patch_size=8, in_channels=1, config=tiny)(torch.zeros(2, 1, 16, 24)).shape
        torch.Size([2, 16])
    """

    def __init__(
        self,
        image_size: int | tuple[int, int] | None = None,
        patch_size: int | tuple[int, int] | None = None,
        in_channels: int = 3,
        *,
        pool: Literal["first", "mean", "tokens"] = "first",
        out_features: int | None = None,
        weights: str | Path | None = None,
        tuning: Tuning | LoRA | Mapping[str, Any] = "full",
        adapt_channels: bool = False,
        config: Mapping[str, Any] | None = None,
    ) -> None:
        check_choice("pool", pool, ("first", "mean", "tokens"))
        check_positive(in_channels=in_channels)
        sizes = {
            "image_size": None if image_size is None else check_pair("image_size", image_size),
            "patch_size": None if patch_size is None else check_pair("patch_size", patch_size),
            "num_channels": in_channels,
        }
        network = build(_VIT, sizes, config, weights, adapt_channels, check=check_patches)
        settings: Any = network.config
        super().__init__(network, settings.hidden_size, out_features, tuning, ("q_proj", "v_proj"))
        self.in_channels = in_channels
        self.size = check_pair("image_size", settings.image_size)
        self.pool = pool

    def forward(self, x: Tensor) -> Tree:
        """(B, C, H, W) to (B, d), or to Tokens (B, 1 + patches, d)."""
        states: Tensor = self.backbone(read_image(x, self.in_channels, self.size)).last_hidden_state
        if self.pool == "tokens":
            return self.tokens(states)
        return self.on_top(states[:, 0] if self.pool == "first" else states[:, 1:].mean(1))
