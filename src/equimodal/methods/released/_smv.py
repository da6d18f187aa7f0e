"""The draw of SMV's released code at the modality level."""

from __future__ import annotations

import torch
from torch import Tensor

SMV_RELEASED = (
    "scripts and dataset do not fit together: construction fails with an unexpected argument `loader`",
    "the modality level draws a fixed number of samples, with replacement",
)
"""What the released code does otherwise than the paper."""


def draws_with_replacement(able: Tensor, share: float, generator: torch.Generator) -> Tensor:
    """How often each sample is drawn: exactly the share of those that can be, with replacement.

    Args:
        able: (N,) booleans, n of them true: which samples can be drawn.
        share: of them, from 0 to 1.
        generator: of the draw.

    Returns:
        (N,) counts, which sum to the whole part of ``share`` n.
    """
    places = able.nonzero()[:, 0]
    drawn = torch.randint(max(1, len(places)), (int(share * len(places)),), generator=generator)
    return torch.bincount(places[drawn], minlength=len(able))
