"""What text encoders read: token ids, with or without a mask."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from equimodal.encoders._checks import check_positive, check_shape
from equimodal.errors import BatchError, ModelError

_FORMS = "ids (B, T), a pair (ids, mask), or a mapping with `input_ids` and `attention_mask`"


def check_vocabulary(vocabulary: int, padding: int) -> None:
    """Refuse a vocabulary without ids, and an id of padding beyond it."""
    check_positive(vocabulary=vocabulary)
    if isinstance(padding, bool) or not isinstance(padding, int) or not 0 <= padding < vocabulary:
        raise ModelError(f"`padding`: expected an id below `vocabulary` {vocabulary}. Found {padding!r}.")


def read_ids(x: Any, vocabulary: int, longest: int | None, padding: int | None) -> tuple[Tensor, Tensor | None]:
    """Token ids and mask of a batch, checked.

    Args:
        x: integers (B, T); a pair (ids, mask), such as :class:`~equimodal.batch.Tokens`; or a mapping with
            ``input_ids`` and, if there is padding, ``attention_mask``, as tokenizers return it.
        vocabulary: ids are below it. Looked at on the CPU only: elsewhere it would wait for the device.
        longest: largest T, if the encoder has one.
        padding: id of padding where no mask is given; ``None`` if nothing follows from the ids.

    Returns:
        ids (B, T) and a boolean mask (B, T), ``None`` where neither mask nor ``padding`` is given.
    """
    mask: Any = None
    if isinstance(x, Mapping):
        if "input_ids" not in x:
            raise BatchError(f"Input of the encoder: expected {_FORMS}. Found a mapping with {sorted(map(str, x))}.")
        ids, mask = x["input_ids"], x.get("attention_mask")
    elif isinstance(x, (tuple, list)) and len(x) == 2:
        ids, mask = x
    else:
        ids = x
    if not isinstance(ids, Tensor) or ids.ndim != 2 or ids.is_floating_point() or ids.dtype == torch.bool:
        found = f"{ids.dtype} {tuple(ids.shape)}" if isinstance(ids, Tensor) else type(ids).__name__
        raise BatchError(f"Input of the encoder: expected {_FORMS}, integers. Found {found}.")
    fits = longest is None or ids.shape[1] <= longest
    check_shape(ids.shape, fits and ids.shape[1] > 0, f"(B, T) with 1 <= T <= {longest}", "Cut longer texts.")
    if looks_are_free(ids):
        _check_vocabulary(ids, vocabulary)
    ids = ids.long()
    if mask is None:
        return ids, None if padding is None else ids != padding
    if not isinstance(mask, Tensor) or mask.shape != ids.shape:
        found = str(tuple(mask.shape)) if isinstance(mask, Tensor) else type(mask).__name__
        raise BatchError(
            f"Mask of the encoder's input: expected the shape of the ids {tuple(ids.shape)}. Found {found}."
        )
    return ids, mask.bool()


def looks_are_free(x: Tensor) -> bool:
    """Whether values can be looked at without waiting for a device or breaking a trace."""
    return x.device.type == "cpu" and not torch.compiler.is_compiling()


def _check_vocabulary(ids: Tensor, vocabulary: int) -> None:
    if ids.numel() == 0:
        return
    low, high = (int(bound) for bound in ids.aminmax())
    if low < 0 or high >= vocabulary:
        raise BatchError(
            f"Input of the encoder: expected ids from 0 to {vocabulary - 1}. Found {low if low < 0 else high}. "
            "Use the tokenizer that belongs to the encoder, or correct `vocabulary`."
        )


def attendable(mask: Tensor) -> Tensor:
    """The mask with the first token allowed where a sample has none, so that attention has something to look at."""
    empty = ~mask.any(1, keepdim=True)
    first = torch.arange(mask.shape[1], device=mask.device) == 0
    return mask | (empty & first)
