"""Fusions: from features per modality to what the head reads."""

from equimodal.fusion._base import Fill, Fusion
from equimodal.fusion._concat import Concat
from equimodal.fusion._cross_attention import CrossAttention
from equimodal.fusion._film import FiLM, Gated
from equimodal.fusion._late import Late
from equimodal.fusion._late_transformer import LateTransformer
from equimodal.fusion._low_rank import LowRank
from equimodal.fusion._registry import available, get
from equimodal.fusion._sum import Sum

__all__ = [
    "Concat",
    "CrossAttention",
    "FiLM",
    "Fill",
    "Fusion",
    "Gated",
    "Late",
    "LateTransformer",
    "LowRank",
    "Sum",
    "available",
    "get",
]
