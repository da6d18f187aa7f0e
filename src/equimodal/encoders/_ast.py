from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from torch import Tensor

from equimodal.batch import Tree
from equimodal.encoders._checks import check_choice
from equimodal.encoders._encoder import LoRA, Tunable, Tuning
from equimodal.encoders._frames import read_image
from equimodal.encoders._transformers import Architecture, build
from equimodal.errors import ModelError

_AST = Architecture("AST", "ASTConfig", "ASTModel", types=("audio-spectrogram-transformer",), others=r"^classifier\.")


class AST(Tunable):
    r"""Audio spectrogram transformer (Gong et al. 2021) for log-mel spectrograms of one size.

    A vision transformer on overlapping 16x16 patches (stride 10) of a spectrogram, with a class and a distillation
    token. The network is transformers' ``ASTModel``; its defaults are the paper's: 12 layers of width 768, 86 million
    parameters, made for 128 bins and 1024 frames of 10 ms.

    Args:
        bins: mel bins F. ``None``: those of ``weights``' folder, else 128.
        frames: time steps T. ``None``: likewise, else 1024.
        pool: ``"first"``, the mean of the class and the distillation token, as in the paper; ``"mean"`` over the
            patches; ``"tokens"`` for all of them, those two first.
        out_features: width of a linear map on top; ``None`` for none, d is the network's width then.
        weights: local weight file or folder, see docs/encoders.md.
        tuning: ``"full"``; ``"frozen"``; ``"lora"`` or :class:`LoRA` (or its fields as a mapping).
        config: fields of transformers' ``ASTConfig``, such as ``{"patch_size": 8, "time_stride": 8}``.

    Raises:
        MissingExtraError: transformers (or, for LoRA, peft) is not installed.
        ModelError: an argument is out of range.
        CheckpointError: weights that are not this network's; the names are in the message.
        BatchError: (when called) another size.

    Shapes: (B, 1, F, T) or (B, F, T), frequency before time as everywhere in this library, to (B, d) or to
        :class:`~equimodal.batch.Tokens` of (B, 2 + patches, d). The published weights expect log-mel filter banks with
        mean 0 and standard deviation 0.5 over the training set.

    References:
        AST: audio spectrogram transformer, arXiv 2104.01778.

    Example:
        >>> tiny = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
        >>> AST(bins=40, frames=64, config=tiny)(torch.zeros(2, 1, 40, 64)).shape
        torch.Size([2, 16])
    """

    def __init__(
        self,
        bins: int | None = None,
        frames: int | None = None,
        *,
        pool: Literal["first", "mean", "tokens"] = "first",
        out_features: int | None = None,
        weights: str | Path | None = None,
        tuning: Tuning | LoRA | Mapping[str, Any] = "full",
        config: Mapping[str, Any] | None = None,
    ) -> None:
        check_choice("pool", pool, ("first", "mean", "tokens"))
        network = build(_AST, {"num_mel_bins": bins, "max_length": frames}, config, weights, check=_check)
        settings: Any = network.config
        super().__init__(network, settings.hidden_size, out_features, tuning, ("q_proj", "v_proj"))
        self.size = (int(settings.num_mel_bins), int(settings.max_length))
        self.pool = pool

    def forward(self, x: Tensor) -> Tree:
        """(B, 1, F, T) to (B, d), or to Tokens (B, 2 + patches, d)."""
        spectrogram = read_image(x, 1, self.size).squeeze(1).mT
        states: Tensor = self.backbone(spectrogram).last_hidden_state
        if self.pool == "tokens":
            return self.tokens(states)
        return self.on_top(states[:, :2].mean(1) if self.pool == "first" else states[:, 2:].mean(1))


def _check(settings: Any) -> None:
    patch, sizes = settings.patch_size, (settings.num_mel_bins, settings.max_length)
    if not isinstance(patch, int) or not all(isinstance(s, int) and s >= patch > 0 for s in sizes):
        raise ModelError(
            f"`bins`, `frames`: expected at least the patch size {patch}. Found {sizes[0]} and {sizes[1]}."
        )
