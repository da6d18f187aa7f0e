"""The shipped fusions by name."""

from __future__ import annotations

from equimodal.errors import named
from equimodal.fusion._base import Fusion
from equimodal.fusion._concat import Concat
from equimodal.fusion._cross_attention import CrossAttention
from equimodal.fusion._film import FiLM, Gated
from equimodal.fusion._late import Late
from equimodal.fusion._late_transformer import LateTransformer
from equimodal.fusion._low_rank import LowRank
from equimodal.fusion._sum import Sum

_FUSIONS: dict[str, type[Fusion]] = {
    fusion.__name__: fusion for fusion in (Concat, Sum, Late, FiLM, Gated, LowRank, CrossAttention, LateTransformer)
}


def available() -> list[str]:
    """Names of the shipped fusions.

    Example:
        >>> available()[:3]
        ['Concat', 'Sum', 'Late']
    """
    return list(_FUSIONS)


def get(name: str) -> type[Fusion]:
    """The fusion of that name; upper and lower case are the same.

    Raises:
        UnknownNameError: with the nearest known names.

    Example:
        >>> get("lowrank").__name__
        'LowRank'
    """
    return named("fusion", name, _FUSIONS)
