from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from equimodal.batch import Tokens, Tree
from equimodal.encoders._checks import check_choice, check_positive
from equimodal.encoders._encoder import LoRA, Tunable, Tuning
from equimodal.encoders._ids import attendable, read_ids
from equimodal.encoders._transformers import Architecture, build
from equimodal.errors import ModelError
from equimodal.features import masked_mean

_BERT = Architecture(
    "BERT",
    "BertConfig",
    "BertModel",
    types=("bert",),
    others=r"^(cls|classifier|qa_outputs)\.|(^|\.)pooler\.|position_ids$",
    arguments=(("add_pooling_layer", False),),
)


class BERT(Tunable):
    r"""BERT (Devlin et al. 2019) for token ids.

    The network is transformers' ``BertModel``; its defaults are BERT-base, uncased: 12 layers of width 768, 109 million
    parameters. The pooling layer of the next-sentence task is left out.

    Args:
        vocabulary: number of ids. ``None``: that of ``weights``' folder, else 30522.
        padding: id of padding, where the input brings no mask. ``None``: that of the configuration, 0.
        pool: ``"first"``, the last state of the first token ([CLS]), as in the paper; ``"mean"`` over the real tokens;
            ``"tokens"`` for the whole sequence.
        out_features: width of a linear map on top; ``None`` for none, d is the network's width then.
        weights: local weight file or folder, see docs/encoders.md.
        tuning: ``"full"``; ``"frozen"``; ``"lora"`` or :class:`LoRA` (or its fields as a mapping).
        config: fields of transformers' ``BertConfig``, such as ``{"num_hidden_layers": 4}``.

    Raises:
        MissingExtraError: transformers (or, for LoRA, peft) is not installed.
        ModelError: an argument is out of range.
        CheckpointError: weights that are not this network's; the names are in the message.
        BatchError: (when called) no ids, too many of them, or (on the CPU, where looking is free) one that is not in
            the vocabulary.

    Shapes: ids (B, T), a pair (ids, mask) or a mapping with ``input_ids`` and, as tokenizers return them,
        ``attention_mask`` and ``token_type_ids``; T is at most 512. To (B, d) or to :class:`~equimodal.batch.Tokens` of
        (B, T, d).

    References:
        BERT: pre-training of deep bidirectional transformers for language understanding, arXiv 1810.04805.

    Example:
        >>> tiny = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
        >>> BERT(vocabulary=100, config=tiny)(torch.tensor([[5, 17, 0], [3, 99, 8]])).shape
        torch.Size([2, 16])
    """

    def __init__(
        self,
        vocabulary: int | None = None,
        *,
        padding: int | None = None,
        pool: Literal["first", "mean", "tokens"] = "first",
        out_features: int | None = None,
        weights: str | Path | None = None,
        tuning: Tuning | LoRA | Mapping[str, Any] = "full",
        config: Mapping[str, Any] | None = None,
    ) -> None:
        check_choice("pool", pool, ("first", "mean", "tokens"))
        if vocabulary is not None:
            check_positive(vocabulary=vocabulary)
        network = build(_BERT, {"vocab_size": vocabulary, "pad_token_id": padding}, config, weights, check=_check)
        settings: Any = network.config
        super().__init__(network, settings.hidden_size, out_features, tuning, ("query", "value"))
        self.vocabulary = int(settings.vocab_size)
        self.padding = int(settings.pad_token_id or 0)
        self.longest = int(settings.max_position_embeddings)
        self.added = (config or {}).get("attn_implementation") == "eager"  # masks are added there
        self.pool = pool

    def forward(self, x: Any) -> Tree:
        """Ids (B, T) to (B, d), or to Tokens (B, T, d)."""
        ids, mask = read_ids(x, self.vocabulary, self.longest, self.padding)
        mask = ids != self.padding if mask is None else mask
        segments = x.get("token_type_ids") if isinstance(x, Mapping) else None
        # as the mask of the attention itself: of a mask (B, T) transformers would ask the device whether it is full
        seen = attendable(mask)[:, None, None].expand(-1, 1, ids.shape[1], -1)
        if self.added:
            dtype = next(self.backbone.parameters()).dtype
            seen = torch.zeros(seen.shape, dtype=dtype, device=seen.device).masked_fill(~seen, torch.finfo(dtype).min)
        states: Tensor = self.backbone(input_ids=ids, attention_mask=seen, token_type_ids=segments).last_hidden_state
        if self.pool == "tokens":
            return self.tokens(states, mask)
        return self.on_top(states[:, 0] if self.pool == "first" else masked_mean(Tokens(states, mask)))


def _check(settings: Any) -> None:
    if not 0 <= (settings.pad_token_id or 0) < settings.vocab_size:
        raise ModelError(
            f"`padding`: expected an id below `vocabulary` {settings.vocab_size}. Found {settings.pad_token_id}."
        )
