"""Fusions: from features per modality to what the head reads."""

from equimodal.fusion._concat import Concat
from equimodal.fusion._sum import Sum

__all__ = ["Concat", "Sum"]
