from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from torch import Tensor

from equimodal.batch import Tree
from equimodal.encoders._checks import check_choice, check_pair, check_patches, check_positive
from equimodal.encoders._encoder import LoRA, Tunable, Tuning
from equimodal.encoders._frames import read_image
from equimodal.encoders._ids import looks_are_free, read_ids
from equimodal.encoders._transformers import Architecture, build
from equimodal.errors import BatchError, ModelError

Pool = Literal["embedding", "pooled", "tokens"]
_LARGEST = 2  # files of CLIP that say so mean the largest id, and transformers reads them so
_POOLS = ("embedding", "pooled", "tokens")
_OTHERS = r"^(logit_scale|logit_bias|classifier\.)|(text|visual)_projection\.|position_ids$"
_VISION = Architecture(
    "CLIP's image tower",
    "CLIPVisionConfig",
    "CLIPVisionModel",
    types=("clip", "clip_vision_model"),
    others=rf"{_OTHERS}|^text_model\.",
    section="vision_config",
    stem="patch_embedding.weight",
)
_TEXT = Architecture(
    "CLIP's text tower",
    "CLIPTextConfig",
    "CLIPTextModel",
    types=("clip", "clip_text_model"),
    others=rf"{_OTHERS}|^vision_model\.",
    section="text_config",
)


class CLIPVision(Tunable):
    r"""The image tower of CLIP (Radford et al. 2021).

    The network is transformers' ``CLIPVisionModel``, for embeddings ``CLIPVisionModelWithProjection``; its defaults are
    ViT-B/32: 12 layers of width 768, 88 million parameters, embeddings of 512.

    Args:
        image_size: height and width of the square images. ``None``: that of ``weights``' folder, else 224.
        patch_size: height and width of a patch. ``None``: likewise, else 32.
        in_channels: 3, unless trained from scratch or with ``adapt_channels``.
        pool: ``"embedding"``, what CLIP compares with texts (not normalised); ``"pooled"``, the normalised class token
            before that projection; ``"tokens"``, all states, the class token first.
        out_features: width of a linear map on top; ``None`` for none.
        weights: local weight file or folder of CLIP or of this tower, see docs/encoders.md.
        tuning: ``"full"``; ``"frozen"``; ``"lora"`` or :class:`LoRA` (or its fields as a mapping).
        adapt_channels: fit the first map of ``weights`` to ``in_channels`` (mean over its channels).
        config: fields of transformers' ``CLIPVisionConfig``.

    Raises:
        MissingExtraError: transformers (or, for LoRA, peft) is not installed.
        ModelError: an argument is out of range.
        CheckpointError: weights that are not this network's; the names are in the message.
        BatchError: (when called) another size or number of channels.

    Shapes: (B, 3, H, W) to (B, d) or to :class:`~equimodal.batch.Tokens` of (B, 1 + patches, d).

    References:
        Learning transferable visual models from natural language supervision, arXiv 2103.00020.

    Example:
        >>> tiny = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
        >>> encoder = CLIPVision(16, patch_size=8, tuning="frozen", out_features=4, config=tiny | {"projection_dim": 8})
        >>> encoder(torch.zeros(2, 3, 16, 16)).shape
        torch.Size([2, 4])
    """

    def __init__(
        self,
        image_size: int | None = None,
        patch_size: int | None = None,
        in_channels: int = 3,
        *,
        pool: Pool = "embedding",
        out_features: int | None = None,
        weights: str | Path | None = None,
        tuning: Tuning | LoRA | Mapping[str, Any] = "full",
        adapt_channels: bool = False,
        config: Mapping[str, Any] | None = None,
    ) -> None:
        check_choice("pool", pool, _POOLS)
        check_positive(in_channels=in_channels)
        sizes = {"image_size": image_size, "patch_size": patch_size, "num_channels": in_channels}
        network = build(_tower(_VISION, pool), sizes, config, weights, adapt_channels, check=check_patches)
        settings: Any = network.config
        width = settings.projection_dim if pool == "embedding" else settings.hidden_size
        super().__init__(network, width, out_features, tuning, ("q_proj", "v_proj"))
        self.in_channels = in_channels
        self.size = check_pair("image_size", settings.image_size)
        self.pool = pool

    def forward(self, x: Tensor) -> Tree:
        """(B, 3, H, W) to (B, d), or to Tokens (B, 1 + patches, d)."""
        found = self.backbone(pixel_values=read_image(x, self.in_channels, self.size))
        if self.pool == "tokens":
            return self.tokens(found.last_hidden_state)
        return self.on_top(found.image_embeds if self.pool == "embedding" else found.pooler_output)


class CLIPText(Tunable):
    r"""The text tower of CLIP (Radford et al. 2021).

    The network is transformers' ``CLIPTextModel``, for embeddings ``CLIPTextModelWithProjection``; its defaults are
    those of ViT-B/32: 12 layers of width 512, 63 million parameters, embeddings of 512. A token sees only those before
    it.

    Args:
        vocabulary: number of ids. ``None``: that of ``weights``' folder, else 49408.
        end: id of the end of a text, whose state stands for the text. ``None``: that of ``weights``' folder, else the
            last id of the vocabulary.
        pool: ``"embedding"``, what CLIP compares with images (not normalised); ``"pooled"``, the state at the end of
            the text before that projection; ``"tokens"``, all states up to the end.
        out_features: width of a linear map on top; ``None`` for none.
        weights: local weight file or folder of CLIP or of this tower, see docs/encoders.md.
        tuning: ``"full"``; ``"frozen"``; ``"lora"`` or :class:`LoRA` (or its fields as a mapping).
        config: fields of transformers' ``CLIPTextConfig``.

    Raises:
        MissingExtraError: transformers (or, for LoRA, peft) is not installed.
        ModelError: an argument is out of range.
        CheckpointError: weights that are not this network's; the names are in the message.
        BatchError: (when called) no ids, too many of them, or (on the CPU, where looking is free) one that is not in
            the vocabulary.

    Shapes: ids (B, T), a pair (ids, mask) or a mapping with ``input_ids`` and ``attention_mask``; T is at most 77. To
        (B, d) or to :class:`~equimodal.batch.Tokens` of (B, T, d). Every text must hold the id of the end, as CLIP's
        tokenizer writes it; what follows its first one is padding, whatever it is. A row of zeros is no text.

    References:
        Learning transferable visual models from natural language supervision, arXiv 2103.00020.

    Example:
        >>> tiny = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
        >>> encoder = CLIPText(100, config=tiny | {"projection_dim": 8})
        >>> encoder(torch.tensor([[5, 17, 99, 0], [3, 8, 21, 99]])).shape
        torch.Size([2, 8])
    """

    def __init__(
        self,
        vocabulary: int | None = None,
        *,
        end: int | None = None,
        pool: Pool = "embedding",
        out_features: int | None = None,
        weights: str | Path | None = None,
        tuning: Tuning | LoRA | Mapping[str, Any] = "full",
        config: Mapping[str, Any] | None = None,
    ) -> None:
        check_choice("pool", pool, _POOLS)
        if vocabulary is not None:
            check_positive(vocabulary=vocabulary)
            end = vocabulary - 1 if end is None and weights is None else end
        if end == _LARGEST:
            raise ModelError(
                f"`end`: expected another id than {_LARGEST}, which files of CLIP use for 'the largest id'."
            )
        sizes = {"vocab_size": vocabulary, "eos_token_id": end}
        network = build(_tower(_TEXT, pool), sizes, config, weights, check=_check_end)
        settings: Any = network.config
        width = settings.projection_dim if pool == "embedding" else settings.hidden_size
        super().__init__(network, width, out_features, tuning, ("q_proj", "v_proj"))
        self.vocabulary = int(settings.vocab_size)
        self.end = int(settings.eos_token_id) if settings.eos_token_id != _LARGEST else self.vocabulary - 1
        self.longest = int(settings.max_position_embeddings)
        self.pool = pool

    def forward(self, x: Any) -> Tree:
        """Ids (B, T) to (B, d), or to Tokens (B, T, d)."""
        ids, mask = read_ids(x, self.vocabulary, self.longest, None)
        if looks_are_free(ids) and not bool(((ids == self.end).any(1) | (ids == 0).all(1)).all()):
            raise BatchError(
                f"Input of the encoder: expected the id {self.end} at the end of every text. Found a text without it. "
                "Use CLIP's tokenizer, or correct `end`."
            )
        found = self.backbone(input_ids=ids)  # no mask: what follows the end cannot be seen from before it
        if self.pool == "tokens":
            ends = ids == self.end
            before = ends.cumsum(1) - ends.long() == 0
            return self.tokens(found.last_hidden_state, before if mask is None else before & mask)
        return self.on_top(found.text_embeds if self.pool == "embedding" else found.pooler_output)


def _tower(tower: Architecture, pool: Pool) -> Architecture:
    """With the projection to CLIP's embeddings, where they are asked for."""
    return replace(tower, model=f"{tower.model}WithProjection") if pool == "embedding" else tower


def _check_end(settings: Any) -> None:
    found = settings.eos_token_id
    if isinstance(found, bool) or not isinstance(found, int) or not 0 <= found < settings.vocab_size:
        raise ModelError(
            f"`end`: expected an id below `vocabulary` {settings.vocab_size}. Found {settings.eos_token_id}."
        )
